"""
Handlers of the protocol of OCI registries.
"""
