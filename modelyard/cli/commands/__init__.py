"""
The commands, a file for each resource; each has `add(subparsers)`, which says what there is.
"""
