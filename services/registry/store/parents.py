"""
SQL of the parents of lists, for `page_of`.
"""

NAMESPACE = "SELECT namespace_id FROM namespaces WHERE namespace_id = $1"
MODEL = "SELECT id FROM models WHERE namespace_id = $1 AND model_id = $2"
