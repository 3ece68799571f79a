"""
Logins of people: OpenID Connect at any issuer, credentials that are kept and refreshed.

Nothing here is imported before a login is used: clients with a token of their own do not need it.
"""
