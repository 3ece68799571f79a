"""
Assets: their bytes on S3 (s3.py is where boto3 is), and what is known of them in PostgreSQL.
"""
