"""
What every service is built on, and which depends on none of them.
"""
