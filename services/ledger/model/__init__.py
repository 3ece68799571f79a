"""
Calls, changes and pages: no I/O.
"""
