"""
Values and rules of foreign protocols; no I/O.
"""
