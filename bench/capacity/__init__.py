"""
From what was measured to pods and machines: docs/capacity.md.
"""
