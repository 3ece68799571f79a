"""
Drills: servers are stopped, replaced or overloaded under load, and every guarantee to clients holds.

`abuse`: clients that attack the gateway. `coherence`: every cached response is checked under writes and faults.
`rolling`: rolling updates. `upgrade`: migrations, and programs of earlier commits beside those of this one.
`test_epoch`: a database that was restored to an older state. `test_kill`: SIGKILL of each process.
"""
