"""
The import boundaries between the layers.
"""
