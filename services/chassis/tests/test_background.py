"""
Work that goes on beside the calls.
"""

from __future__ import annotations

import ast
import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.errors import Unavailable
from services.chassis.observability.metrics import BackgroundMetrics
from services.chassis.serving import background
from services.chassis.serving.background import Chores, OverdueError, Work, begin, beside, end, every, standings
from services.chassis.tests.wired import eventually

_ROOT = Path(__file__).resolve().parents[3]
_STARTERS = {"create_task", "ensure_future"}
#: What starts tasks by itself, with the reason why nobody else has to look after them: file, function, why.
_ALLOWED = {
    ("services/chassis/serving/background.py", "begin"): "the helper",
    ("services/chassis/serving/background.py", "add"): "the helper",
    ("services/chassis/observability/exporting.py", "exporting"): "awaited in the next lines",
    ("services/chassis/serving/launcher.py", "_run"): "awaited: the wait for a signal, and for the death of a worker",
    ("services/chassis/serving/worker.py", "serve"): "awaited: the drain, and the wait for a second signal",
    ("gateway/__main__.py", "_run"): "awaited: Envoy's end, the signals, the drain",
    ("services/cache/proxy/loading.py", "start"): "awaited by every caller that joins the load, with its error",
    ("services/cdn/store/copying.py", "_send_parts"): "awaited",
    ("services/cdn/store/reader.py", "pieces"): "awaited, or handed to Chores",
    ("services/cdn/store/resuming.py", "_ship"): "awaited by the next part",
    ("services/cdn/store/resuming.py", "_send"): "awaited below",
    ("services/cdn/store/shares.py", "_copy_all"): "awaited",
    ("services/cdn/store/transactions.py", "kept_alive"): "cancelled and awaited at the end of the block",
    ("services/cdn/store/writer.py", "finish"): "awaited, or handed to Chores",
    ("services/cdn/store/writer.py", "_ship"): "awaited with the parts",
    ("embedded/link.py", "_forward"): "awaited; for tests and drills",
    ("services/ledger/store/batching.py", "_send"): "it gives whatever is raised to its callers",
    ("services/ledger/store/grouping.py", "_set_aside"): "it gives whatever is raised to its caller",
    ("services/ledger/store/grouping.py", "_start"): "it gives whatever is raised to its callers",
    ("services/ledger/store/together.py", "__init__"): "awaited by prepare and finish",
    ("services/ledger/store/together.py", "prepare"): "awaited in the next lines",
    ("services/registry/service/assets.py", "_sizes"): "awaited",
    ("modelyard/_aio_companions.py", "_note"): "the client's: what it notes is lost with its call",
    ("modelyard/_aio_moving.py", "receive_ranges"): "awaited",
}


async def test_it_ends_with_the_block() -> None:
    """
    What goes on is cancelled when the block ends, and has ended when that is left.
    """
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            seen.append("ended")

    async with beside(work(), work()):
        await asyncio.sleep(0)
    assert seen == ["ended", "ended"]


async def test_a_mistake_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """
    A mistake that ends work in the background is an error in the log while the block goes on.
    """

    async def mistaken() -> None:
        raise ZeroDivisionError("a mistake")

    async with beside(mistaken()):
        await asyncio.sleep(0.01)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "a mistake" in caplog.text


async def test_what_is_done_now_and_then_survives_errors(caplog: pytest.LogCaptureFixture) -> None:
    """
    Neither a dependency that is away nor a mistake keeps periodic work from its next turn; only the mistake is logged
    as an error, with where it happened.
    """
    errors = [Unavailable("AWAY", "the database is away"), ZeroDivisionError("a mistake")]
    went_on = asyncio.Event()

    async def work() -> None:
        if errors:
            raise errors.pop(0)
        went_on.set()

    async with beside(every(0.001, work, "sweep")):
        await asyncio.wait_for(went_on.wait(), 10)
    assert [(record.levelname, bool(record.exc_info)) for record in caplog.records] == [
        ("WARNING", False),
        ("ERROR", True),
    ]
    assert "could not sweep: the database is away" in caplog.text


async def test_failures_are_counted() -> None:
    """
    Prometheus is shown how often each task has failed and when it succeeded last, from its beginning on.
    """
    registry = CollectorRegistry()
    registry.register(BackgroundMetrics())
    work = Work("count-me")
    at = {"task": "count-me"}
    failures, success = (
        "modelyard_background_failures_total",
        "modelyard_background_last_success_timestamp_seconds",
    )
    began = registry.get_sample_value(success, at) or 0
    assert (registry.get_sample_value(failures, at), began > 0) == (0, True)
    for _ in range(2):
        work.failed(ZeroDivisionError())
    work.succeeded()
    assert registry.get_sample_value(failures, at) == 2
    assert (registry.get_sample_value(success, at) or 0) > began


def test_it_is_tried_again_later_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The pauses double up to their bound, with jitter, and a success begins anew.
    """
    monkeypatch.setattr("services.chassis.serving.background.random.uniform", lambda _low, _high: 1.0)
    work = Work("try-again", retry=(1.0, 5.0))
    assert [work.failed(OSError()) for _ in range(5)] == [1, 2, 4, 5, 5]
    work.succeeded()
    assert work.failed(OSError()) == 1


def test_what_fails_all_day_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """
    Of a hundred failures in a row seven are logged.
    """
    work = Work("fill-the-log")
    for _ in range(100):
        work.failed(OSError("away"))
    assert len(caplog.records) == 7


async def test_work_that_is_overdue_says_so() -> None:
    """
    Its ping fails when it has not succeeded for longer than its bound, and not before.
    """
    work = Work("be-late", bound=0.05)
    await work.ping()
    await asyncio.sleep(0.06)
    with pytest.raises(OverdueError, match="be late"):
        await work.ping()
    work.succeeded()
    await work.ping()


async def test_what_has_to_be_done_once_is_tried_until_it_is() -> None:
    """
    Failures do not end it, the first success does.
    """
    turns = itertools.count()

    async def work() -> None:
        if next(turns) < 3:
            raise ZeroDivisionError

    await asyncio.wait_for(Work("be-done", retry=(0.001, 0.001)).once(work), 10)
    assert next(turns) == 4


async def test_a_chore_that_fails_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """
    Nobody waits for it: its error is told where somebody looks.
    """
    chores = Chores("do-chores")

    async def mistaken() -> None:
        raise ZeroDivisionError("a mistake")

    chores.add(mistaken())
    await chores.finish()
    assert standings()["do-chores"].failures == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_what_swallows_its_cancellation_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A library may take the first cancellation for its own time-out.
    """
    monkeypatch.setattr(background, "_AGAIN_SECONDS", 0.01)
    swallowed = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.sleep(60)

    task = begin(stubborn())
    await asyncio.sleep(0)
    await asyncio.wait_for(end(task), 10)
    assert swallowed.is_set()
    await eventually(task.cancelled)


def test_tasks_are_started_by_the_helper() -> None:
    """
    A task that nobody awaits ends silently: all are started by `services.chassis.serving.background`, except for those
    that are awaited where they are created.
    """
    found = set(_starts())
    bare = sorted(f"{file}: {function} starts a task by itself" for file, function in found - set(_ALLOWED))
    assert not bare, bare
    gone = sorted(set(_ALLOWED) - found)
    assert not gone, f"nothing is started here any more: {gone}"


def _starts() -> Iterator[tuple[str, str]]:
    for room in ("services", "gateway", "modelyard", "embedded"):
        for file in sorted((_ROOT / room).rglob("*.py")):
            if "tests" not in file.parts and not file.name.endswith(("_pb2.py", "_pb2_grpc.py")):
                text = file.read_text(encoding="utf-8")
                if any(starter in text for starter in _STARTERS):
                    name = file.relative_to(_ROOT).as_posix()
                    yield from ((name, function) for function in _functions(ast.parse(text), ""))


def _functions(node: ast.AST, function: str) -> Iterator[str]:
    """
    The names of the functions that start tasks.
    """
    for child in ast.iter_child_nodes(node):
        within = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(child, ast.Call):
            called = child.func
            name = (
                called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
            )
            if name in _STARTERS:
                yield within
        yield from _functions(child, within)
