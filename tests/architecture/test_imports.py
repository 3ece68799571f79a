"""
The import graph of the project's own modules. Which layer may import which is checked by `make imports`.
"""

from __future__ import annotations

import grimp


def test_no_import_cycles() -> None:
    """
    No two modules import each other, directly or through others, also not for type checking only.
    """
    graph = grimp.build_graph("modelyard", "services", "gateway", "embedded", exclude_type_checking_imports=False)
    cycles = [
        f"{module} -> {' -> '.join(chain[1:])}"
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if (chain := graph.find_shortest_chain(imported, module)) is not None
    ]
    assert cycles == []
