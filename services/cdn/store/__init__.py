"""
Assets on S3: ``AssetStore`` is what the service uses, ``s3`` and ``bucket`` are all that knows boto3.
"""

from services.cdn.store.assets import AssetStore, open_assets
from services.cdn.store.s3 import S3Settings

__all__ = ["AssetStore", "S3Settings", "open_assets"]
