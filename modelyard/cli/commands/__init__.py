"""
The commands, one module per resource; its `add(subparsers)` registers them.
"""
