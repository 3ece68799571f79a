"""
Drill: a zero-downtime rolling update of all services and gateways under load.
"""
