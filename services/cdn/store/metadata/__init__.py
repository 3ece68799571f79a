"""
Metadata extracted from model files: format inspection, security scans, tensor indexes.
"""
