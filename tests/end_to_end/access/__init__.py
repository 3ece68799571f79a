"""
End to end: access control, at the gateway and at the services.
"""
