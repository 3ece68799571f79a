"""
Real servers for every test: PostgreSQL, Valkey and S3 from wheels, started when the first test asks for them.
"""

pytest_plugins = ["services.embedded.testing"]
