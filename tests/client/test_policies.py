"""
`modelyard policies`: who may do what in which namespace.
"""

from __future__ import annotations

from tests.client.commands import Run, new_id


def test_policies(cli: Run) -> None:
    """
    Members are bound to one role at a time, and removed again; a namespace is made private and public again.
    """
    name = new_id("p")
    cli("namespaces", "create", name)
    assert "private  no" in cli("policies", "get", name).out
    cli("policies", "grant", name, "reader", "group:cats", "user:bob")
    cli("policies", "grant", name, "owner", "user:bob", "user:ann")
    owners = ["owner", "user:ann", "user:bob"]
    assert cli("policies", "hide", name).table()[1:] == [["private", "yes"], ["reader", "group:cats"], owners]
    cli("policies", "revoke", name, "group:cats")
    assert cli("policies", "unhide", name).table()[1:] == [["private", "no"], owners]
    assert cli("policies", "get", "-").table()[0] == ["name", "policy"]
    assert "models.write" in cli("policies", "test", name).out


def test_bad_members(cli: Run) -> None:
    """
    A member that is none is rejected with what would be one.
    """
    failed = cli("policies", "grant", "default", "reader", "bob")
    assert failed.code != 0
    assert "user:{subject}" in failed.err
