"""
What a service with a database stands on: one revision for each write, told and audited with it (docs/adr/0014).

It knows PostgreSQL and the change stream's messages, and no service.
"""
