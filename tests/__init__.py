"""
Tests across services; the tests of one package are beside it (`services/registry/tests`, `gateway/tests`, …).

`architecture`: rules of the source tree, without any server. `client`: the client library and the command line.
`end_to_end`: whole workflows through the gateway of a complete suite. `drills`: servers are stopped, replaced or
overloaded under load.
"""
