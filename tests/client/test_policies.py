"""
`modelyard policies`: who may do what in which namespace.
"""

from __future__ import annotations

import pytest

from modelyard.cli.commands import policies
from modelyard.client import Client
from modelyard.registry.v1.policies_pb2 import GetPolicyRequest, Policy
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
    owners = ["owner", "user:ann,", "user:bob"]
    assert cli("policies", "hide", name).table()[1:] == [["private", "yes"], ["reader", "group:cats"], owners]
    cli("policies", "revoke", name, "group:cats")
    assert cli("policies", "unhide", name).table()[1:] == [["private", "no"], owners]
    assert cli("policies", "get", "-").table()[0] == ["name", "policy"]
    tested = cli("policies", "test", name)
    assert "models.write" in tested.out
    assert tested.table()[0] == ["role", "owner"]


def test_what_is_so_already_is_not_written(cli: Run) -> None:
    """
    Granting what is granted, and revoking from who has no role, writes nothing and says so; a member that is none is an
    error, as it would seem to be without access.
    """
    name = new_id("p")
    cli("namespaces", "create", name)
    before = cli("policies", "grant", name, "reader", "group:Site Reliability").out
    audited = cli("audit", f"namespaces/{name}/policy", "--json").messages()
    assert cli("policies", "grant", name, "reader", "group:Site Reliability").out == before
    done = cli("policies", "revoke", name, "user:nobody")
    assert (done.code, done.out, len(audited) > 0) == (0, before, True)
    assert f"bound to no role in namespaces/{name}/policy: user:nobody" in done.err
    assert cli("audit", f"namespaces/{name}/policy", "--json").messages() == audited
    failed = cli("policies", "revoke", name, "nobody")
    assert (failed.code, "'nobody' is not a member: user:SUBJECT" in failed.err) == (1, True)


def test_a_change_by_somebody_else_is_kept(cli: Run, yard: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A policy that changes between reading and writing it is read again.
    """
    name = new_id("p")
    cli("namespaces", "create", name)
    removed: list[str] = []
    remove = policies._remove

    def meanwhile(policy: Policy, members: list[str]) -> None:
        if not removed:
            removed.append(name)
            assert cli("policies", "grant", name, "writer", "user:other").code == 0
        remove(policy, members)

    monkeypatch.setattr(policies, "_remove", meanwhile)
    assert cli("policies", "grant", name, "reader", "user:ann").code == 0
    found = yard.policies.GetPolicy(GetPolicyRequest(name=f"namespaces/{name}/policy"))
    assert {"user:other", "user:ann"} <= {member for binding in found.bindings for member in binding.members}


def test_bad_members(cli: Run) -> None:
    """
    A member that is none is rejected with what would be one.
    """
    failed = cli("policies", "grant", "default", "reader", "bob")
    assert failed.code != 0
    assert "user:{subject}" in failed.err
