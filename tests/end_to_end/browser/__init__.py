"""
End to end: the landing page and the API reference in a real browser.
"""
