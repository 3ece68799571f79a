"""
What services share to decide about calls with the registry's policies: see docs/adr/0047.
"""
