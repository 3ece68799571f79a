"""
What serves the calls: `envoy` and `grpcio` (DESIGN D1). Both take the same handlers; docs/hosts.md says where they
differ.
"""
