"""
The handlers, one package per protocol.
"""
