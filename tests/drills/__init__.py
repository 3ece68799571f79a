"""
Drills: servers are stopped, replaced or overloaded under load, and nothing that a client was promised is lost.

`abuse`: clients that attack the gateway. `coherence`: every cached response is checked under writes and faults.
`rolling`: rolling updates. `upgrade`: migrations, and programs of earlier commits beside those of this one.
`test_epoch`: a database that went back in time. `test_kill`: SIGKILL of each service.
"""
