"""
Retention: pins and quotas, and the garbage collection of unpinned assets.
"""
