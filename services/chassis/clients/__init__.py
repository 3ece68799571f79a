"""
Calls to other services: channels, and the metadata that travels with a call.
"""
