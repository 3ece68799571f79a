"""
End to end and drill: what docs/operations says, run as it is written there.
"""
