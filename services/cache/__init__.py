"""
The cache: a read-through cache for the registry and the asset service, and a key-value store for internal services.
"""
