"""
The read-through cache: handlers, loads from the origins, and their change streams.
"""
