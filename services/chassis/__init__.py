"""
The common base of all services. It depends on none of them.
"""
