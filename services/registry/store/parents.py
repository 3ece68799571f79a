"""
The parents of what is listed, as `page_of` takes them.
"""

NAMESPACE = "SELECT namespace_id FROM namespaces WHERE namespace_id = $1"
MODEL = "SELECT id FROM models WHERE namespace_id = $1 AND model_id = $2"
