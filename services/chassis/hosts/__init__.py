"""
The servers of calls: `envoy` and `grpcio` (DESIGN D1). Both serve the same handlers; docs/hosts.md lists the
differences.
"""
