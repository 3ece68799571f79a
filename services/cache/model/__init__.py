"""
Values and rules of the cache, without I/O.
"""
