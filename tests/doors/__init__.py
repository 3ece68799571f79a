"""
The doors with the clients that people have: `make doors`.
"""
