"""
The tutorial is tried on the suite that the tests at the top share.
"""

from tests.conftest import stack

__all__ = ["stack"]
