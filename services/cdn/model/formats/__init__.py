"""
Detection of an asset's format from its first bytes, and security scans. Nothing is loaded or executed.
"""

from services.cdn.model.formats.inspection import HEAD_BYTES, Inspection, inspect
from services.cdn.model.formats.scanning import Scan, scan
from services.cdn.model.formats.tensors import Tensor, TensorIndex

__all__ = ["HEAD_BYTES", "Inspection", "Scan", "Tensor", "TensorIndex", "inspect", "scan"]
