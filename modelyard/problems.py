"""
Deprecated: the former name of `modelyard.error_details`. Its public names are in `modelyard`.
"""

from __future__ import annotations

from modelyard import error_details
from modelyard._deprecated import aliases

__getattr__ = aliases(
    __name__,
    {
        "Problem": ("modelyard.Problem", error_details.Problem),
        "Violation": ("modelyard.Violation", error_details.Violation),
        "explain": ("modelyard.explain", error_details.explain),
    },
)
