"""
Valkey: the L2 cache, the key-value store, circuit breakers.
"""
