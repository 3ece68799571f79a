"""
Handlers of the protocol of the Hugging Face Hub.
"""
