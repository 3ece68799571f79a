"""
Drill: an upgrade from earlier releases and back under load; and the compatibility of schemas.
"""
