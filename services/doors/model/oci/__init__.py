"""
Names, values and errors of the protocol of OCI registries; no I/O.
"""
