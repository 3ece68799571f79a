"""
Objects in the S3 bucket: the client (s3.py is the only module that imports boto3), downloads, copies, compression.
"""
