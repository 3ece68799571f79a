"""
The common base of services with a database: one revision per write, with its change event and audit entry (ADR 0014).

It depends on PostgreSQL and the messages of the change stream, and on no particular service.
"""
