"""
The Hub's protocol with the Hub's own client, in short: `make doors` runs all generations, and more.
"""

from __future__ import annotations

import subprocess

import pytest

from embedded.stack import Stack
from tests.doors import clients
from tests.doors.repositories import publish
from tools.environments import python_with

#: What differs between protocols and not between the clients' helpers.
_SHORT = (
    "model_info",
    "list_models",
    "list_repo_tree",
    "hf_hub_download: every file",
    "snapshot_download",
    "revisions: main, alias, v1, 1, ref, commit",
    "HfFileSystem",
    "missing: file",
    "missing: repository",
    "missing: revision",
)


def test_the_hubs_own_client(stack: Stack, worker: str) -> None:
    """
    The newest huggingface_hub, unmodified, describes, lists and downloads models, and names what does not exist.
    """
    try:
        python_with("hub2")
    except subprocess.CalledProcessError:
        pytest.skip("pip cannot install the client (requirements/hub2.txt)")
    ran = clients.run("hub2", publish(stack, f"hub-{worker}", many=0, numbers=30_000).setting, _SHORT)
    assert not ran.failed
    assert set(ran.flows) == set(_SHORT)
