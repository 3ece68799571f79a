"""
The servers of calls: `envoy` and `grpcio` (docs/adr/0001). Both serve the same handlers; docs/hosts.md lists the
differences.
"""
