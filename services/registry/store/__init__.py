"""
All SQL of the registry: domain in, domain out. Nothing here knows gRPC.
"""
