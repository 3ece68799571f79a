"""
Drill: attacks on the gateway, and bad requests, while other clients are served.
"""
