"""
The SQL of SearchModels: `search` puts it together; the others give its parts (words, filters, order, selectivity).
"""
