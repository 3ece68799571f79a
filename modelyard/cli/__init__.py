"""
The `modelyard` command.
"""
