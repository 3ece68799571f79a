"""
Uploads: sessions in PostgreSQL, bytes on their way into multipart uploads, verification and completion.
"""
