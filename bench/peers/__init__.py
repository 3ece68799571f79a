"""
Other registries, measured on the same PostgreSQL in the same run.
"""
