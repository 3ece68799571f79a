"""
The documentation site: the pages of `docs/` and the generated reference, built by Sphinx (docs/adr/0046).
"""
