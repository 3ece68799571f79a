"""
Storage of assets: their bytes in S3 and their records in PostgreSQL.

`assets.py` is the byte store as the service uses it, `records.py` the assets' rows, `maintenance.py` the periodic jobs.
"""
