"""
Processes and servers: the launcher, its workers, health, reflection, TLS, background tasks.
"""
