from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from embedded.parts import EmbeddedError, Part, free_port, is_free, listening, take
from embedded.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[2]
# Listens on a port, and writes down when it starts and when it is asked to end.
LISTENER = """
import signal, socket, sys, time
name, port, diary = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def note(what): open(diary, "a").write(f"{what} {name}\\n")
def end(*_): note("end"); sys.exit(0)
signal.signal(signal.SIGTERM, end)
note("start")
server = socket.create_server(("127.0.0.1", port))
while True: server.accept()[0].close()
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    found = Supervisor(tmp_path / "log")
    yield found
    found.stop()


def listener(name: str, diary: Path, *needs: str) -> Part:
    port = free_port()
    argv = [sys.executable, "-c", LISTENER, name, str(port), str(diary)]
    return Part(name=name, argv=argv, ready=listening(port), needs=needs)


def script(name: str, code: str) -> Part:
    return Part(name=name, argv=[sys.executable, "-c", code], ready=listening(free_port()), start_patience=5)


def left_of(mark: str) -> list[psutil.Process]:
    """
    The processes below this one that have *mark* in their command line: others start servers of their own meanwhile.
    """
    found = []
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [each] if mark in " ".join(each.cmdline()) else []
    return found


def test_parts_start_as_their_needs_allow_and_stop_the_other_way(supervisor: Supervisor, tmp_path: Path) -> None:
    """
    A part starts when what it needs is ready, whatever their order in the list, and ends before it.
    """
    diary = tmp_path / "diary"
    supervisor.start([listener("third", diary, "second"), listener("second", diary, "first"), listener("first", diary)])
    supervisor.stop()
    assert diary.read_text().split("\n")[:-1] == [
        *("start first", "start second", "start third"),
        *("end third", "end second", "end first"),
    ]


def test_a_part_that_ends_while_starting_is_told_with_its_last_words(supervisor: Supervisor) -> None:
    """
    The error names the part, how it ended and what it said last.
    """
    with pytest.raises(EmbeddedError, match=r"(?s)^bad ended while starting \(exit code 3\).*no such luck"):
        supervisor.start([script("bad", "print('no such luck'); raise SystemExit(3)")])


def test_a_part_that_never_gets_ready_is_given_up(supervisor: Supervisor, tmp_path: Path) -> None:
    """
    After its patience a part that runs and does not serve is an error, and nothing is left of it.
    """
    mark = str(tmp_path)
    with pytest.raises(EmbeddedError, match="slow was not ready within 1 s"):
        supervisor.start([replace(script("slow", f"import time; time.sleep(60)  # {mark}"), start_patience=1)])
    supervisor.stop()
    assert left_of(mark) == []


def test_a_failure_stops_the_others_from_being_waited_for(supervisor: Supervisor) -> None:
    """
    One part that fails ends the start of all, long before another one's patience is over.
    """
    slow = replace(script("slow", "import time; time.sleep(60)"), start_patience=50)
    began = time.monotonic()
    with pytest.raises(EmbeddedError, match=r"bad ended while starting \(exit code 1\)"):
        supervisor.start([slow, script("bad", "raise SystemExit(1)")])
    assert time.monotonic() - began < 20


def test_a_program_that_is_not_there_is_an_error(supervisor: Supervisor) -> None:
    """
    What cannot be run at all is named.
    """
    with pytest.raises(EmbeddedError, match="ghost cannot be run"):
        supervisor.start([Part(name="ghost", argv=["/nonexistent/ghost"], ready=None)])


def test_a_part_that_dies_while_serving_ends_the_watch(supervisor: Supervisor, tmp_path: Path) -> None:
    """
    Nothing is restarted silently: the death of a part is an error that says which and how.
    """
    supervisor.start([listener("fragile", tmp_path / "diary")])
    threading.Timer(0.3, os.kill, (supervisor.pid("fragile"), signal.SIGKILL)).start()
    with pytest.raises(EmbeddedError, match=r"fragile ended by itself \(signal SIGKILL\)"):
        supervisor.watch(threading.Event())


def test_a_part_that_does_not_end_is_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    """
    A part that ignores its stop signal is killed after its patience.
    """
    port = free_port()
    code = LISTENER.replace("SIGTERM, end", "SIGTERM, signal.SIG_IGN")
    part = Part(
        name="stubborn",
        argv=[sys.executable, "-c", code, "stubborn", str(port), str(tmp_path / "diary")],
        ready=listening(port),
        patience=0.5,
    )
    supervisor.start([part])
    supervisor.stop()
    assert left_of(str(tmp_path)) == []


def test_a_task_is_ready_when_it_has_ended_well(supervisor: Supervisor, tmp_path: Path) -> None:
    """
    A part without a readiness check runs to its end; one that fails is an error.
    """
    done = tmp_path / "done"
    supervisor.start([Part(name="task", argv=[sys.executable, "-c", f"open({str(done)!r}, 'w')"], ready=None)])
    assert done.exists()
    with pytest.raises(EmbeddedError, match=r"task failed \(exit code 1\)"):
        supervisor.start([Part(name="task", argv=[sys.executable, "-c", "raise SystemExit(1)"], ready=None)])


def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    """
    When the supervising process is killed with -9 its parts are asked to end, in order, and end.
    """
    code = f"""
import time
from pathlib import Path
from embedded.supervisor import Supervisor
from embedded.tests.test_supervisor import listener
folder = Path({str(tmp_path)!r})
supervisor = Supervisor(folder / "log")
supervisor.start([listener("first", folder / "diary"), listener("second", folder / "diary", "first")])
print("ready", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 3
    process.kill()
    process.wait()
    process.stdout.close()
    gone, alive = psutil.wait_procs(family, timeout=10)
    assert (len(gone), alive) == (3, [])
    assert (tmp_path / "diary").read_text().split("\n")[2:4] == ["end second", "end first"]


def test_a_port_that_another_process_has_asked_for_is_not_free() -> None:
    """
    A port that one process has asked for is given to no other, though nobody listens on it, until that process ends.
    """
    code = "from embedded.parts import free_port; print(free_port(), flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        assert is_free(port)
        assert not take(port)
        holder.kill()
        holder.wait()
        assert take(port)
    assert not take(port)
