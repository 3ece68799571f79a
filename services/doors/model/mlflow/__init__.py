"""
Names, values and errors of the protocol of MLflow; no I/O.
"""
