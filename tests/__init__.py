"""
Tests across services; the tests of one package are beside it (`services/registry/tests`, `gateway/tests`, …).

End to end, through the gateway of a whole suite: the files here, `access` (tokens and scopes), `browser` (the landing
page in Chromium), `client` (the client library and the command line), `operations` (the commands of docs/operations).
Drills, which stop, replace or overload servers under load: `abuse`, `coherence` with `test_coherence.py`, `rolling`,
`upgrade`, `test_epoch.py`, `test_kill.py`. Without any server: `architecture`.
"""
