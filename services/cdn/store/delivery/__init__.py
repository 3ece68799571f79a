"""
Delivery: presigned URLs, static files and CDN invalidations.
"""
