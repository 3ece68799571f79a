"""
Random policies, memberships, revocations and writes, and reads of every kind that could tell of them, against a
reference model, through the registry and a warm cache.

* A read that sends the revision of the last change returns exactly what the model allows.
* A read that does not returns nothing that the model has denied for longer than the bound.
* While the policies are held up, or a process starts again, a read may fail with UNAVAILABLE, and says nothing else.

`make check-access-properties SECONDS=600` is the long form, with all faults. `make test` runs some examples, and one
course of faults.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedded.link import Link
from embedded.testing import scratch
from embedded.valkey import Valkey
from modelyard.cache.v1 import policy_pb2
from modelyard.changes.v1 import changes_pb2
from modelyard.contracts import services
from modelyard.registry.v1 import (
    audit_pb2,
    models_pb2,
    namespaces_pb2,
    policies_pb2,
    versions_pb2,
)
from services.authorization import follower
from services.cache.tests.harness import Backend
from services.cache.tests.harness import running as running_cache
from services.registry.store import policy_follower
from services.registry.tests.server import Registry
from services.registry.tests.server import running as running_registry
from services.registry.tests.test_policies import SHA, requests
from tests.drills.access.model import (
    CALLERS,
    MAINTAINER,
    MEMBERS,
    NONE,
    OWNER,
    READER,
    Caller,
    Model,
    Rule,
)
from tests.examples import examples
from tests.tokens import Issuer
from tests.tokens import settings as settings_of

SECONDS = float(os.environ.get("MODELYARD_CHECK_ACCESS_SECONDS", "0"))
SEED = int(os.environ.get("MODELYARD_CHECK_SEED") or random.SystemRandom().randrange(2**32))
ROOT = Caller("root")
_READER, _OWNER = policies_pb2.Policy.ROLE_READER, OWNER
_MENTIONED = re.compile(r"namespaces/([a-z0-9-]+)")
#: Reads about one namespace, with the role that each needs.
ABOUT_ONE = {
    "GetNamespace": READER,
    "GetModel": READER,
    "BatchGetModels": READER,
    "ListModels": READER,
    "SearchModels": READER,
    "GetVersion": READER,
    "ListVersions": READER,
    "FindVersions": READER,
    "GetCard": READER,
    "QueryLeaderboard": READER,
    "ListEvaluations": READER,
    "ListAliases": READER,
    "ListDeployments": READER,
    "GetPolicy": MAINTAINER,
}
#: Reads across namespaces, with the role that each needs there.
ACROSS = {"ListNamespaces": READER, "FindVersions": READER, "ListAuditEntries": OWNER, "WatchChanges": READER}
CACHED = {
    method.name
    for service in services()
    for method in service.methods
    if service.full_name.startswith("modelyard.registry.") and method.GetOptions().HasExtension(policy_pb2.policy)
}


class World:
    """
    A registry and a cache in this process, and what the model says of them.

    Args:
        issuer: of the tokens.
        start: starts a registry; at the same database each time.
        start_cache: starts a cache in front of the link.
        link: between the cache and the registry.
    """

    def __init__(self, issuer: Issuer, start: Callable[[], Any], start_cache: Callable[[], Any], link: Link) -> None:
        self.model = Model()
        self.revision = 1
        # The change stream is read from here on: that of a long run has too much in it.
        self.oldest = 1
        self.done: Counter[str] = Counter()
        self.faulted = 0.0
        self.held: set[str] = set()
        self._issuer, self._start, self._start_cache, self._link = issuer, start, start_cache, link
        self._tokens: dict[Caller, str] = {}
        self._registry_stack, self._cache_stack = AsyncExitStack(), AsyncExitStack()
        self._names = 0
        self._registry: Registry
        self._channel: grpc.aio.Channel

    async def begin(self) -> None:
        """
        Start both.
        """
        await self.restart_registry()
        await self.restart_cache()

    async def end(self) -> None:
        """
        Stop both.
        """
        await self._cache_stack.aclose()
        await self._registry_stack.aclose()

    async def restart_registry(self) -> None:
        """
        Another process on the same database.
        """
        await self._link.down()
        await self._registry_stack.aclose()
        self._registry = await self._registry_stack.enter_async_context(self._start())
        self._link._target = self._registry.port
        await self._link.up()
        self.faulted = time.monotonic()

    async def restart_cache(self) -> None:
        """
        Another process on the same Valkey.
        """
        await self._cache_stack.aclose()
        self._channel = (await self._cache_stack.enter_async_context(self._start_cache())).channel
        self.faulted = time.monotonic()

    def metadata(self, caller: Caller, *, fresh: bool) -> list[tuple[str, str]]:
        """
        What a call of somebody sends.
        """
        if caller not in self._tokens:
            scope = "admin" if caller is ROOT else "registry.read registry.write"
            self._tokens[caller] = self._issuer.mint(scope, sub=caller.subject, groups=list(caller.groups))
        return [
            ("authorization", f"Bearer {self._tokens[caller]}"),
            *([("x-min-revision", str(self.revision))] if fresh else []),
        ]

    async def call(self, caller: Caller, method: str, request: Message, *, fresh: bool, cached: bool) -> Any:
        """
        The response, or the code of the error.
        """
        registry = self._registry if not cached else Registry(self._channel, None, "", 0)  # type: ignore[arg-type]
        stub = next(getattr(each, method) for each in vars(registry).values() if hasattr(each, method))
        try:
            return await stub(request, metadata=self.metadata(caller, fresh=fresh), timeout=15)
        except grpc.aio.AioRpcError as error:
            return error.code()

    async def write(self, method: str, request: Message) -> Any:
        """
        A write of the administrator, once everything has been heard from again.
        """
        while True:
            made = await self.call(ROOT, method, request, fresh=False, cached=False)
            if made is not grpc.StatusCode.UNAVAILABLE:
                break
            await asyncio.sleep(0.02)
        assert not isinstance(made, grpc.StatusCode), (method, made)
        self.revision = max(self.revision, getattr(made, "revision", 0))
        return made

    async def create(self) -> str:
        """
        A namespace with something of many kinds in it.
        """
        self._names += 1
        namespace = f"p{self._names}"
        self.model.changed()
        await self.write("CreateNamespace", namespaces_pb2.CreateNamespaceRequest(namespace_id=namespace))
        self.model.rules[namespace] = Rule({"user:root": OWNER})
        self.model.settled()
        model = f"namespaces/{namespace}/models/m"
        found = requests(namespace)
        await self.write("CreateModel", models_pb2.CreateModelRequest(parent=f"namespaces/{namespace}", model_id="m"))
        artifact = versions_pb2.Artifact(path="w", sha256=SHA, size_bytes=1)
        await self.write(
            "CreateVersion",
            versions_pb2.CreateVersionRequest(parent=model, version=versions_pb2.Version(artifacts=[artifact])),
        )
        for method in ("UpdateCard", "RecordEvaluations"):
            await self.write(method, found[method])
        async with self._registry.owner() as connection:
            # There is no asset service that would pin it.
            await connection.execute("UPDATE versions SET state = 'READY' WHERE state = 'PENDING'")
        return namespace

    async def delete(self, namespace: str) -> None:
        """
        Delete a namespace with what is in it.
        """
        token = ""
        while True:
            request = models_pb2.ListModelsRequest(
                parent=f"namespaces/{namespace}", show_deleted=True, page_size=1000, page_token=token
            )
            page = await self.write("ListModels", request)
            for model in page.models:
                await self.write("DeleteModel", models_pb2.DeleteModelRequest(name=model.name))
                await self.write("PurgeModel", models_pb2.PurgeModelRequest(name=model.name))
            token = page.next_page_token
            if not token:
                break
        self.model.changed()
        await self.write("DeleteNamespace", namespaces_pb2.DeleteNamespaceRequest(name=f"namespaces/{namespace}"))
        self.model.gone[namespace] = Rule({}, self.model.rules.pop(namespace).private)
        self.model.settled()
        # The response has no revision: that of the next write is newer.
        await self.add("default")

    async def add(self, namespace: str) -> None:
        """
        Write something.
        """
        self._names += 1
        request = models_pb2.CreateModelRequest(parent=f"namespaces/{namespace}", model_id=f"m{self._names}")
        await self.write("CreateModel", request)

    async def set_policy(self, namespace: str, rule: Rule) -> None:
        """
        Change a policy; the registry's when *namespace* is empty.
        """
        policy = policies_pb2.Policy(
            name=f"namespaces/{namespace}/policy" if namespace else "policy", private=rule.private
        )
        for member, role in rule.roles.items():
            policy.bindings.add(role=_READER + role - READER, members=[member])
        self.model.changed()
        await self.write("SetPolicy", policies_pb2.SetPolicyRequest(policy=policy))
        if namespace:
            self.model.rules[namespace] = rule
        else:
            self.model.above = rule
        self.model.settled()

    @property
    def troubled(self) -> bool:
        """
        Whether a read may fail because of a fault.
        """
        return bool(self.held) or time.monotonic() - self.faulted < 2.0

    async def read(self, caller: Caller, method: str, namespace: str, *, fresh: bool, cached: bool) -> None:
        """
        Read something, and compare it with the model.

        Args:
            namespace: empty for all of them.
        """
        cached = cached and method in CACHED
        request = _about(method, namespace) if namespace else _across(method)
        if cached:
            # So that there is an entry that must not be served to others.
            await self.call(ROOT, method, request, fresh=False, cached=True)
        began, excused = time.monotonic(), self.troubled
        while True:
            if method == "WatchChanges":
                answer = await self._watch(caller, fresh=fresh)
            else:
                answer = await self.call(caller, method, request, fresh=fresh, cached=cached)
            if answer not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                break
            self.done["refused"] += 1
            if excused or self.troubled:
                return
            # A machine with too much to do has not heard of the policies for a moment.
            assert time.monotonic() - began < 60
            await asyncio.sleep(0.05)
        what = f"{method} of {namespace or 'all'} by {caller.subject}, {fresh=}, {cached=}"
        least = ABOUT_ONE[method] if namespace else ACROSS[method]
        told = set() if isinstance(answer, grpc.StatusCode) else set(_MENTIONED.findall(str(answer)))
        for seen in told:
            role = self.model.role(caller, seen) if fresh else self.model.lately(caller, seen, began)
            assert role >= least, f"{what}: tells of {seen}, where the role is {role}"
        self.done[f"{'fresh' if fresh else 'any'}, {'cached' if cached else 'registry'}"] += 1
        if fresh and namespace in self.model.rules:
            # Where there is no namespace, or none that the caller knows of, the registry's policy decides.
            elsewhere = self.model.role(caller, "nowhere")
            self._check_one(method, self.model.role(caller, namespace), elsewhere, answer, what)
        elif fresh and not namespace:
            assert not isinstance(answer, grpc.StatusCode), f"{what}: {answer}"
            due = {each for each in self.model.rules if self.model.role(caller, each) >= least} - {"default"}
            assert due <= told or method != "ListNamespaces", f"{what}: nothing of {due - told}"

    def _check_one(self, method: str, role: int, elsewhere: int, answer: Any, what: str) -> None:
        if role >= ABOUT_ONE[method]:
            assert not isinstance(answer, grpc.StatusCode), f"{what}: {answer}, with the role {role}"
        elif role != NONE:
            assert answer is grpc.StatusCode.PERMISSION_DENIED, f"{what}: {answer}, with the role {role}"
        else:
            # Some of the registry's lists are empty where there is nothing.
            is_empty = not isinstance(answer, grpc.StatusCode) and not str(answer)
            denied = NONE < elsewhere < ABOUT_ONE[method] and answer is grpc.StatusCode.PERMISSION_DENIED
            missing = answer is grpc.StatusCode.NOT_FOUND
            assert is_empty or missing or denied, f"{what}: {answer}, without a role"

    async def _watch(self, caller: Caller, *, fresh: bool) -> Any:
        watch = self._registry.changes.WatchChanges(
            changes_pb2.WatchChangesRequest(start_revision=self.oldest),
            metadata=self.metadata(caller, fresh=fresh),
            timeout=15,
        )
        events = []
        try:
            async for event in watch:
                events.append(event)
                if event.heartbeat.HasField("current_until"):
                    break
        except grpc.aio.AioRpcError as error:
            return error.code()
        watch.cancel()
        return events


def _about(method: str, namespace: str) -> Message:
    return requests(namespace)[method]


def _across(method: str) -> Message:
    return {
        "ListNamespaces": namespaces_pb2.ListNamespacesRequest(page_size=1000),
        "FindVersions": versions_pb2.FindVersionsRequest(parent="namespaces/-", sha256=SHA, page_size=1000),
        "ListAuditEntries": audit_pb2.ListAuditEntriesRequest(page_size=1000),
        "WatchChanges": changes_pb2.WatchChangesRequest(),
    }[method]


@pytest.fixture(scope="module")
def gates() -> Iterator[set[str]]:
    """
    Names of services whose policies are held up: what is news is delivered once they are no longer in it.
    """
    held: set[str] = set()
    apply: Any = follower.PolicyFollower._apply
    watch: Any = policy_follower.watch_policies
    backlog: list[tuple[Any, ...]] = []

    def gated_apply(*args: Any) -> None:
        backlog.append(args)
        if "cache" not in held:
            waiting, backlog[:] = backlog[:], []
            for each in waiting:
                apply(*each)

    async def gated_watch(*args: Any) -> AsyncIterator[Any]:
        async for event in watch(*args):
            while "registry" in held:
                await asyncio.sleep(0.005)
            yield event

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follower.PolicyFollower, "_apply", gated_apply)
        patch.setattr(policy_follower, "watch_policies", gated_watch)
        yield held


@pytest.fixture(scope="module")
async def world(new_database: Callable[[], str], valkey: Valkey, gates: set[str]) -> AsyncIterator[World]:
    """
    A registry and a cache with access control.
    """
    database, link = new_database(), Link(0)
    with scratch() as folder:
        issuer, own = Issuer(folder / "jwks.json"), folder / "token"
        own.write_text(issuer.mint("registry.read registry.follow assets.read", sub="cache"))
        common = settings_of(issuer)

        @asynccontextmanager
        async def cache() -> AsyncIterator[Any]:
            own_settings = {"MODELYARD_SERVICE_TOKEN_FILE": str(own), "MODELYARD_CACHE_STREAM_BOUND_SECONDS": "2"}
            async with running_cache(f"127.0.0.1:{link.port}", Backend(valkey.url), **common, **own_settings) as made:
                yield made

        found = World(issuer, lambda: running_registry(database, **common), cache, link)
        found.held = gates
        await found.begin()
        try:
            yield found
        finally:
            gates.clear()
            await found.end()
            await link.down()


RULES = st.builds(
    Rule,
    st.dictionaries(st.sampled_from(MEMBERS), st.integers(READER, OWNER), max_size=3),
    st.booleans(),
)
ABOVE = st.builds(Rule, st.dictionaries(st.sampled_from(MEMBERS), st.integers(READER, OWNER), max_size=2))
READS = st.tuples(
    st.sampled_from(CALLERS),
    st.one_of(
        st.tuples(st.sampled_from(sorted(ABOUT_ONE)), st.integers(0, 2)),
        st.tuples(st.sampled_from(sorted(ACROSS)), st.none()),
    ),
    st.booleans(),
    st.booleans(),
)
STEPS = st.one_of(
    st.tuples(st.just("policy"), st.integers(0, 2), RULES),
    st.tuples(st.just("above"), ABOVE),
    st.tuples(st.just("delete"), st.integers(0, 2)),
    st.tuples(st.just("add"), st.integers(0, 2)),
    st.tuples(st.just("read"), READS),
    st.tuples(st.just("reads"), st.lists(READS, min_size=4, max_size=8)),
)


async def follow(world: World, steps: list[Any]) -> None:
    """
    Do what an example says, in namespaces of its own.
    """
    world.oldest = world.revision
    places = [await world.create() for _ in range(3)]
    for step in steps:
        kind, *rest = step
        if kind == "policy" and places[rest[0]] in world.model.rules:
            await world.set_policy(places[rest[0]], rest[1])
        elif kind == "above":
            await world.set_policy("", rest[0])
        elif kind == "delete" and places[rest[0]] in world.model.rules:
            await world.delete(places[rest[0]])
        elif kind == "add" and places[rest[0]] in world.model.rules:
            await world.add(places[rest[0]])
        elif kind in ("read", "reads"):
            for caller, (method, place), fresh, cached in rest if kind == "read" else rest[0]:
                namespace = "" if place is None else places[place]
                await world.read(caller, method, namespace, fresh=fresh, cached=cached)


@settings(max_examples=examples(20), deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, min_size=4, max_size=24))
async def test_no_read_returns_what_is_denied(world: World, steps: list[Any]) -> None:
    """
    Whatever policies are set, in whatever order, reads return what the model allows.
    """
    await world.set_policy("", Rule({"everyone": MAINTAINER}))
    await follow(world, steps)
    for place, rule in list(world.model.rules.items()):
        # So that lists do not grow from example to example.
        if rule.private or place != "default":
            await world.delete(place)


class Course:
    """
    Random steps with faults between them.

    Args:
        world: of the course.
        dice: chooses.
    """

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world, self._dice = world, dice
        self._places: list[str] = []

    async def step(self, fault: str = "") -> None:
        """
        One change of who may read what, under a fault, and what everybody is told then.

        Args:
            fault: "cache" or "registry", whose policies are held up; "restart cache", "restart registry"; "".
        """
        world, dice = self.world, self._dice
        world.oldest = max(1, world.revision - 500)
        while len(self._places) < 3:
            self._places.append(await world.create())
        place = dice.choice(self._places)
        await world.set_policy(place, self._rule())
        await self._read(place, 6)
        if fault in ("cache", "registry"):
            world.held.add(fault)
        what = dice.random()
        if what < 0.1:
            await world.delete(place)
            self._places.remove(place)
        elif what < 0.2:
            await world.set_policy("", Rule({dice.choice(MEMBERS): dice.randint(READER, OWNER)}))
        else:
            await world.set_policy(place, self._rule())
        if fault == "restart cache":
            await world.restart_cache()
        elif fault == "restart registry":
            await world.restart_registry()
        await self._read(place, 12)
        if fault in world.held:
            if dice.random() < 0.2:
                # Beyond the bound.
                await asyncio.sleep(2.5)
                await self._read(place, 4)
            world.held.discard(fault)
            world.faulted = time.monotonic()

    def _rule(self) -> Rule:
        dice = self._dice
        members = dice.sample(MEMBERS, dice.randint(0, 2))
        return Rule({each: dice.randint(READER, OWNER) for each in members}, dice.random() < 0.7)

    async def _read(self, place: str, count: int) -> None:
        dice = self._dice
        for _ in range(count):
            caller, fresh, cached = dice.choice(CALLERS), dice.random() < 0.8, dice.random() < 0.7
            if dice.random() < 0.2:
                await self.world.read(caller, dice.choice(sorted(ACROSS)), "", fresh=fresh, cached=cached)
            else:
                await self.world.read(caller, dice.choice(sorted(ABOUT_ONE)), place, fresh=fresh, cached=cached)


@pytest.mark.parametrize("late", ["cache", "registry"])
async def test_a_revision_is_decided_by_its_policies(world: World, late: str) -> None:
    """
    While policies arrive late, a caller that names the revision of a revocation gets nothing of what was revoked,
    though it is cached.
    """
    place, bob = await world.create(), CALLERS[1]
    await world.set_policy(place, Rule({"user:bob": READER}, private=True))
    await world.read(bob, "GetModel", place, fresh=True, cached=True)
    await world.read(bob, "GetModel", place, fresh=True, cached=True)
    world.held.add(late)
    try:
        await world.set_policy(place, Rule({}, private=True))
        for cached in (True, False):
            await world.read(bob, "GetModel", place, fresh=True, cached=cached)
    finally:
        world.held.discard(late)
        world.faulted = time.monotonic()


FAULTS = ("", "cache", "registry", "restart cache", "restart registry")


async def test_nor_while_something_is_wrong(world: World) -> None:
    """
    The same while policies arrive late at the cache or at the registry, and when either starts again.
    """
    sys.stdout.write(f"MODELYARD_CHECK_SEED={SEED}\n")
    dice = random.Random(SEED)  # noqa: S311 - test data
    course, ends = Course(world, dice), time.monotonic() + SECONDS
    for fault in FAULTS:
        await course.step(fault)
    while time.monotonic() < ends:
        await course.step(dice.choice(FAULTS))
    assert world.done["fresh, cached"]
    sys.stdout.write(f"{dict(world.done)}\n")
