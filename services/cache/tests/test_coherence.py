from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cache.model.coherence import Coherence
from services.cache.model.entries import Entry
from services.cache.model.l1 import L1Cache
from services.cache.read_through.policies import Policy, policies

RESOURCES = ("a", "a/m", "a/m/x", "a/m/x/1", "a/m/y", "a/mm", "a/n", "b", "b/m")


def exactly(name: str) -> int:
    """
    A hash without collisions, neither of names nor of their complements.
    """
    return RESOURCES.index(name)


@dataclass
class Oracle:
    """
    Records every change, and validates against all of them: the rule of ADR 0003, without the code under test.
    """

    changes: list[tuple[int, str, bool]] = field(default_factory=list)

    def stale(self, revision: int, tag: str) -> bool:
        return any(
            at > revision and ((resource + "/").startswith(tag + "/") or (subtree and tag.startswith(resource + "/")))
            for at, resource, subtree in self.changes
        )


steps = st.lists(st.tuples(st.sampled_from(RESOURCES), st.booleans()), max_size=30)
tables = st.one_of(
    st.builds(lambda cells: Coherence(cells=cells), st.sampled_from([1, 2, 8, 64])),
    # The worst case: all names collide.
    st.builds(lambda cells: Coherence(cells=cells, hashed=lambda _: 0), st.sampled_from([1, 64])),
)


@settings(deadline=None)
@given(steps, tables)
def test_nothing_stale_is_valid(changes: list[tuple[str, bool]], coherence: Coherence) -> None:
    """
    However many names share a cell, an entry that any change invalidated is never valid, and `newest` reflects it.
    """
    oracle = Oracle()
    for revision, (resource, subtree) in enumerate(changes, start=1):
        coherence.apply(revision, [(resource, subtree)])
        oracle.changes.append((revision, resource, subtree))
        for read in range(revision + 1):
            for tag in RESOURCES:
                if oracle.stale(read, tag):
                    assert not coherence.valid(read, [tag])
                    assert coherence.newest([tag]) > read


@settings(deadline=None)
@given(steps, st.lists(st.sampled_from(RESOURCES), min_size=1, max_size=4))
def test_untouched_entries_are_valid(changes: list[tuple[str, bool]], tags: list[str]) -> None:
    """
    Without collisions, exactly the entries that no change touched are valid.
    """
    coherence, oracle = Coherence(cells=64, hashed=exactly), Oracle()
    for revision, (resource, subtree) in enumerate(changes, start=1):
        coherence.apply(revision, [(resource, subtree)])
        oracle.changes.append((revision, resource, subtree))
    for read in range(len(changes) + 1):
        assert coherence.valid(read, tags) is not any(oracle.stale(read, tag) for tag in tags)


@settings(deadline=None)
@given(steps, st.integers(0, 30), st.sampled_from(RESOURCES))
def test_a_memoized_validation_is_correct(changes: list[tuple[str, bool]], read: int, tag: str) -> None:
    """
    A validated entry becomes invalid with the first change that touches it, however often it was validated.
    """
    coherence, oracle = Coherence(cells=64, hashed=exactly), Oracle()
    entry = Entry(b"", read, (tag,), 0.0, 1e12)
    for revision, (resource, subtree) in enumerate(changes, start=1):
        coherence.apply(revision, [(resource, subtree)])
        oracle.changes.append((revision, resource, subtree))
        for _ in range(2):
            assert coherence.holds(entry) is not oracle.stale(read, tag)
    coherence.reset(read + 1)
    assert not coherence.holds(entry)


def test_many_changes_leave_most_entries_valid() -> None:
    """
    No number of changed names invalidates all earlier entries.
    """
    coherence = Coherence(cells=1 << 17)
    kept = [f"namespaces/default/models/kept-{number}" for number in range(1000)]
    for revision in range(1, 25_001):
        coherence.apply(revision, [(f"namespaces/default/models/new-{revision}", True)])
    # 50,000 of 131,072 cells were touched, some of them twice: about two thirds of the entries are valid.
    assert sum(coherence.valid(0, [name]) for name in kept) > 500
    assert coherence.floor == 0


@settings(deadline=None)
@given(steps, st.randoms(use_true_random=False))
def test_the_order_and_number_of_events_do_not_matter(changes: list[tuple[str, bool]], dice: random.Random) -> None:
    """
    Repeated and reordered events lead to the same validity.
    """
    ordered, shuffled = (Coherence(cells=64, hashed=exactly) for _ in range(2))
    events = list(enumerate(changes, start=1))
    for revision, change in events:
        ordered.apply(revision, [change])
    twice = events * 2
    dice.shuffle(twice)
    for revision, change in twice:
        shuffled.apply(revision, [change])
    for read in range(len(changes) + 1):
        assert [ordered.valid(read, [tag]) for tag in RESOURCES] == [shuffled.valid(read, [tag]) for tag in RESOURCES]


def test_it_is_live_only_within_the_bound() -> None:
    """
    Not live before the first message of the stream, nor later than the bound after the last one.
    """
    now = 0.0
    coherence = Coherence(bound=2.0, clock=lambda: now)
    assert not coherence.live
    coherence.heard(1, now)
    now = 2.0
    assert coherence.live
    now = 2.1
    assert not coherence.live


def test_a_reset_invalidates_what_was_read_before() -> None:
    """
    After a reset, entries read before the head are invalid, and those read at it are valid.
    """
    coherence = Coherence()
    coherence.apply(5, [("a", False)])
    coherence.reset(9)
    assert not coherence.valid(8, ["b"])
    assert coherence.valid(9, ["a"])


entries = st.builds(
    Entry,
    value=st.binary(max_size=200),
    revision=st.integers(0, 2**62),
    tags=st.lists(st.sampled_from(RESOURCES), max_size=3).map(tuple),
    stored=st.floats(0, 1e10),
    expires=st.floats(0, 1e10),
    took=st.floats(0, 10),
    absence=st.none() | st.text(max_size=20),
)


@settings(deadline=None)
@given(entries)
def test_an_entry_round_trips(entry: Entry) -> None:
    """
    Decoding returns the encoded entry.
    """
    assert Entry.decode(b"key", entry.encode(b"key")) == entry


@settings(deadline=None)
@given(entries)
def test_an_entry_is_its_own_keys_only(entry: Entry) -> None:
    """
    An entry found under another key is rejected.
    """
    assert Entry.decode(b"other", entry.encode(b"key")) is None


@settings(deadline=None)
@given(entries, st.data())
def test_a_damaged_entry_is_none(entry: Entry, data: st.DataObject) -> None:
    """
    A changed byte, or a missing end, makes an entry invalid.
    """
    encoded = bytearray(entry.encode(b"key"))
    place = data.draw(st.integers(0, len(encoded) - 1))
    assert Entry.decode(b"key", bytes(encoded[:place])) is None
    encoded[place] ^= data.draw(st.integers(1, 255))
    assert Entry.decode(b"key", bytes(encoded)) is None


def entry(size: int) -> Entry:
    return Entry(b"x" * size, 1, (), 0.0, 1e12)


def test_l1_stays_within_its_capacity() -> None:
    """
    Entries are evicted when the capacity is reached, the size is exact, and frequently read entries stay.
    """
    near = L1Cache(20 * 1200)
    for number in range(500):
        near.get(b"0")
        near.put(str(number).encode(), entry(500))
        assert near.size <= 20 * 1200
    assert near.get(b"0") is not None
    assert near.evictions["size"] == 500 - len(near)
    assert near.clear() > 10
    assert near.size == 0


def test_an_entry_above_the_capacity_is_not_stored() -> None:
    """
    An entry above the capacity evicts no other.
    """
    near = L1Cache(5000)
    near.put(b"small", entry(10))
    near.put(b"large", entry(10_000))
    assert near.get(b"small") is not None
    assert near.get(b"large") is None


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: policy.path)
def test_every_policy_expands(policy: Policy) -> None:
    """
    The templates of every policy name fields of the request, and expand to at least one tag.
    """
    request = policy.request()
    for template in policy.templates:
        name = template[template.find("{") + 1 : template.find("}")] if "{" in template else ""
        if name == "names":
            getattr(request, name).extend(["namespaces/a/models/m", "namespaces/a/models/n"])
        elif name:
            setattr(request, name, "namespaces/a")
    tags = policy.tags(request.SerializeToString())
    assert tags
    assert all(tag and "{" not in tag and not tag.endswith("/") for tag in tags)


def test_names_that_are_not_nested() -> None:
    """
    Without nesting, slashes have no meaning: a change of a name touches no other name.
    """
    asked: list[str] = []

    def counted(name: str) -> int:
        asked.append(name)
        return len(name) % 2

    coherence = Coherence(nested=False, cells=2, hashed=counted)
    coherence.apply(1, [("user/1/profile", False)] * 1000)
    assert len(asked) == 1000
    assert coherence.valid(0, ["user/11"])
    assert not coherence.valid(0, ["user/1/profile"])
