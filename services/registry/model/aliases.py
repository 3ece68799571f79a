"""
Aliases: names that point at versions, and the history of where they pointed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from services.chassis.checks import Checks
from services.chassis.errors import Aborted, FailedPrecondition
from services.registry.model.names import ALIAS_ID, AliasName, ModelName, VersionName
from services.registry.model.references import is_reserved
from services.registry.model.versions import VersionState, no_version, version_deleted

MOST_MOVES = 100


@dataclass(frozen=True, slots=True)
class Move:
    """
    Where to point an alias.

    Args:
        alias: the alias's id.
        version: the number of the version; None removes the alias.
        expected: the number that it has to point at now; None when the client does not care.
        absent: there must be no such alias now.
    """

    alias: str
    version: int | None
    expected: int | None = None
    absent: bool = False

    @classmethod
    def check(
        cls, checks: Checks, at: str, parent: ModelName, alias: str, version: str, expected: str, *, absent: bool
    ) -> Move:
        """
        The move that a request asks for; *at* is its path in the request.
        """
        checks.matches(f"{at}.alias_id", alias, ALIAS_ID)
        # An alias that was made before its name was reserved can be removed.
        if version and is_reserved(alias):
            checks.add(f"{at}.alias_id", "is reserved: it stands for the newest READY version or for a number")
        if expected and absent:
            checks.add(f"{at}.expected_absent", "must not be set together with expected_version")
        return cls(
            alias,
            version_of(checks, f"{at}.version", parent, version),
            version_of(checks, f"{at}.expected_version", parent, expected),
            absent,
        )


@dataclass(frozen=True, slots=True)
class Alias:
    """
    An alias as it points now, or as it pointed at some time.

    Args:
        move_time: since when it points there.
        actor: who moved it there.
        revision: of that move.
    """

    name: AliasName
    version: int
    move_time: datetime
    actor: str
    revision: int


@dataclass(frozen=True, slots=True)
class AliasPeriod:
    """
    One period of an alias's history.

    Args:
        version: None while the alias was removed.
        end_time: None for the current period.
    """

    version: int | None
    start_time: datetime
    end_time: datetime | None
    actor: str
    revision: int


def check_moves(checks: Checks, moves: Iterable[Move]) -> None:
    """
    Each alias may be moved only once per call: the result of two moves would be ambiguous.
    """
    seen: dict[str, int] = {}
    for index, move in enumerate(moves):
        first = seen.setdefault(move.alias, index)
        if first != index:
            checks.add(f"moves[{index}].alias_id", f"is moved by moves[{first}], too")


def check_move(parent: ModelName, move: Move, points_at: int | None, states: Mapping[int, VersionState]) -> None:
    """
    Check whether a move is allowed, given the alias's current target and the states of the versions.

    Raises:
        NotFound: there is no such version.
        FailedPrecondition: the version is not READY.
        Aborted: the alias does not point where the client expects.
    """
    check_expected(AliasName(parent.namespace, parent.model, move.alias), move.expected, points_at)
    if move.absent and points_at is not None:
        raise Aborted(
            "ALIAS_MOVED",
            f"{move.alias} points at version {points_at}, and was expected not to exist: read it again and retry",
            metadata={"alias": str(AliasName(parent.namespace, parent.model, move.alias))},
        )
    if move.version is None:
        return
    name = VersionName(parent.namespace, parent.model, move.version)
    if move.version not in states:
        raise no_version(name)
    if states[move.version] is VersionState.DELETED:
        raise version_deleted(name)
    if states[move.version] is not VersionState.READY:
        raise FailedPrecondition(
            "VERSION_NOT_READY",
            f"{name} is {states[move.version]}: finalize it first",
            metadata={"resource": str(name), "state": states[move.version]},
        )


def check_expected(name: AliasName, expected: int | None, points_at: int | None) -> None:
    """
    Raises:
        Aborted: the alias does not point where the client expects.
    """
    if expected is not None and points_at != expected:
        there = "nothing" if points_at is None else f"version {points_at}"
        raise Aborted(
            "ALIAS_MOVED",
            f"{name.alias} points at {there}, not at version {expected}: read it again and retry",
            metadata={"alias": str(name)},
        )


def check_moved(name: AliasName, before: int | None) -> int:
    """
    The target of a rollback.

    Args:
        before: where it pointed before its last move; None for nowhere.

    Raises:
        FailedPrecondition: it pointed at nothing.
    """
    if before is None:
        raise FailedPrecondition(
            "ALIAS_NEVER_MOVED",
            f"{name} pointed at nothing before its last move: there is nothing to go back to",
            metadata={"resource": str(name)},
        )
    return before


def version_of(checks: Checks, field: str, parent: ModelName, version: str) -> int | None:
    """
    The number of a version of *parent*; None when *version* is empty.
    """
    if not version:
        return None
    before = len(checks)
    name = checks.name(VersionName, field, version)
    if len(checks) == before and name.parent != parent:
        checks.add(field, "must be a version of the parent")
    return name.number
