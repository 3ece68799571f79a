"""
Handling of call metadata that all methods share, and the change stream.
"""
