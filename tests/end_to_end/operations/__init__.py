"""
End to end and drill: the commands of docs/operations, run as they are.
"""
