"""
Names, values and rules of the registry: no I/O.
"""
