"""
The common base of services with a database: one revision per write, with its change event and audit entry (ADR 0014).

It knows PostgreSQL and the change stream's messages, and no service.
"""
