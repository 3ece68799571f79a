"""
Decisions from the policies in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import cast

import pytest

from services.chassis.access.behalf import caller_of, on_behalf_of
from services.chassis.access.identity import Identity
from services.chassis.access.policies import Bindings, Policies
from services.chassis.access.roles import Role
from services.chassis.errors import Unavailable
from services.chassis.serving.context import Context

REST = (frozenset[str](), float("inf"))
ANN = Identity("ann", *REST)
READER = Bindings({"user:ann": Role.READER}, private=True)


def known(clock: Callable[[], float]) -> Policies:
    """
    Policies that are current at zero.
    """
    found = Policies(bound=2.0, clock=clock)
    found.apply({"cats": READER}, complete=True)
    found.heard(1, 0.0)
    return found


def test_nothing_is_decided_by_what_is_too_old() -> None:
    """
    Policies of which nothing was heard for longer than the bound decide nothing, whether or not they did before.
    """
    now = 0.0
    policies = known(lambda: now)
    assert policies.may(ANN, "models.read", "cats")
    now = 2.1
    for decide in (lambda: policies.may(ANN, "models.read", "cats"), lambda: policies.readable(ANN)):
        with pytest.raises(Unavailable):
            decide()
    policies.heard(1, 2.0)
    assert policies.may(ANN, "models.read", "cats")


def test_decisions_are_forgotten_with_a_change() -> None:
    """
    What was decided about a token before a policy changed does not hold after it.
    """
    policies = known(lambda: 0.0)
    assert "cats" in policies.readable(ANN)
    assert policies.role(ANN, "cats") is Role.READER
    policies.apply({"cats": Bindings(private=True)})
    assert policies.role(ANN, "cats") is Role.NONE
    assert "cats" not in policies.readable(ANN)


class Counted(Bindings):
    """
    A policy that counts how often it is evaluated.
    """

    evaluations = 0

    def role(self, members: Iterable[str]) -> Role:
        """
        As usual.
        """
        Counted.evaluations += 1
        return super().role(members)


@pytest.mark.parametrize("caller", [ANN, Identity("root", frozenset({"admin"}), float("inf"))], ids=["ann", "admin"])
def test_decisions_are_remembered(caller: Identity) -> None:
    """
    A policy is evaluated once per caller until a policy changes: neither another call nor a heartbeat, nor a change of
    something else, evaluates it again.
    """
    policies = Policies(clock=lambda: 0.0)
    policies.apply({"cats": Counted({"user:ann": Role.READER})}, complete=True)

    def evaluations() -> int:
        Counted.evaluations = 0
        policies.may(caller, "models.read", "cats")
        policies.breaks_glass(caller, "models.read", "cats")
        policies.readable(caller)
        return Counted.evaluations

    policies.heard(1, 0.0)
    assert evaluations()
    assert not evaluations()
    policies.heard(2, 0.5)
    policies.apply({})
    assert not evaluations()
    policies.apply({"dogs": READER})
    assert evaluations()


def test_decisions_about_a_named_caller_are_remembered() -> None:
    """
    A service that calls on a caller's behalf names it in each call: it is the same caller, with what was decided about
    it, and not that of another name.
    """

    def named(subject: str) -> Identity:
        context = cast("Context", SimpleNamespace(values_of=lambda _: [on_behalf_of(Identity(subject, *REST))[0][1]]))
        found = caller_of(context)
        assert found is not None
        return found

    policies = known(lambda: 0.0)
    readable = policies.readable(named("ann"))
    assert "cats" in readable
    assert policies.readable(named("ann")) is readable
    assert "cats" not in policies.readable(named("bob"))


@pytest.mark.parametrize("role", [Role.READER, Role.WRITER])
def test_a_named_api_token_keeps_its_role(role: Role) -> None:
    """
    A service that calls for an API token names what that has: a private namespace that no policy names it in is visible
    to it, and elsewhere it writes nothing.
    """
    token = Identity("token:dogs/0123456789", *REST, grant=("dogs", role))
    context = cast("Context", SimpleNamespace(values_of=lambda _: [on_behalf_of(token)[0][1]]))
    found = caller_of(context)
    assert found is not None
    assert (found.subject, found.grant) == (token.subject, token.grant)
    policies = known(lambda: 0.0)
    assert "dogs" in policies.readable(found)
    assert policies.role(found, "cats") <= Role.READER


def test_a_set_is_digested_once() -> None:
    """
    A cached read across namespaces neither sorts nor digests what its caller may read, of which there may be thousands.
    """
    readable = known(lambda: 0.0).readable(ANN)
    assert readable.digest is readable.digest
    assert readable.ordered is readable.ordered


async def test_a_revision_is_waited_for() -> None:
    """
    A caller that has seen a revision waits for its policies, or until it is certain that there is no such revision;
    when neither is known within the bound, nothing is decided.
    """
    policies = Policies(bound=0.05, clock=lambda: 5.0)
    policies.heard(1, 4.0)
    with pytest.raises(Unavailable):
        await policies.reach(2)
    for applied, at in ((2, 4.0), (2, 5.0)):
        waiting = asyncio.ensure_future(policies.reach(2 if at < 5.0 else 1_000_000))
        await asyncio.sleep(0)
        assert not waiting.done()
        policies.heard(applied, at)
        await waiting
