"""
Whole workflows through the gateway of a complete suite.

`access`: tokens and scopes. `browser`: the landing page in Chromium. `operations`: the commands of docs/operations.
"""
