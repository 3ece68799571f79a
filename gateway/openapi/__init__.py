"""
The contracts as an OpenAPI 3.1 document, for whoever speaks JSON: `python -m gateway.openapi` writes it into the tree.
"""

from gateway.openapi.document import document

__all__ = ["document"]
