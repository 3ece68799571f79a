"""
What every method does with the metadata of its call, and the change stream.
"""
