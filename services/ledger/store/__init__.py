"""
PostgreSQL: pooled connections, named statements, writes with a revision, the log of changes and its watchers.
"""
