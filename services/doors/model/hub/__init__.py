"""
Names, values and errors of the protocol of the Hugging Face Hub; no I/O.
"""
