"""
`modelyard top`: live statistics, from the metrics endpoints of the services.
"""

from __future__ import annotations

import json
import math
import os
import pty
import select
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import modelyard
from embedded.stack import Stack
from modelyard.cli.main import main
from modelyard.cli.scrape import Page, Sample, parse
from modelyard.cli.statistics import Calls, snapshot
from modelyard.registry.v1 import models_pb2
from tests.client.processes import interruptible

ROOT = Path(__file__).resolve().parents[2]
BUILD = 'modelyard_build_info{program="services.registry"} 1\n'
CALL = 'grpc_type="unary",grpc_service="modelyard.registry.v1.ModelService",grpc_method="GetModel"'


def _addresses(stack: Stack) -> list[str]:
    pages = [page for service in stack.services.values() for page in service.metrics]
    return [part for page in pages for part in ("--metrics", page.removeprefix("http://").removesuffix("/metrics"))]


@contextmanager
def _pages(*texts: str) -> Iterator[str]:
    """
    A server whose page is one text after another, the last one for ever; gives its host:port.
    """
    left = list(texts)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """
            Nothing.
            """

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _page(moment: float, text: str, address: str = "a:1") -> Page:
    return Page(address, moment, list(parse(BUILD + text)))


def _handled(count: int, code: str = "OK") -> str:
    return f'grpc_server_handled_total{{{CALL},grpc_code="{code}"}} {count}\n'


def test_pages_are_read_as_prometheus_reads_them(stack: Stack) -> None:
    """
    Every number of the real pages is the one that prometheus_client finds.
    """
    for service in stack.services.values():
        with urllib.request.urlopen(service.metrics[0], timeout=10) as page:  # noqa: S310 - our own page
            text = page.read().decode()
        expected = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        found = list(parse(text))
        assert len(found) == len(expected) > 100
        for mine, theirs in zip(found, expected, strict=True):
            assert (mine.name, dict(mine.labels)) == (theirs.name, theirs.labels)
            assert mine.value == theirs.value or math.isnan(mine.value)


def test_labels_may_hold_anything() -> None:
    """
    Quotes, backslashes, braces and line breaks in a label come back; a timestamp is passed over.
    """
    text = r'a{b="x\"y\\z\n{},=",c=""} +Inf 1700000000000' + "\n# HELP a b\n\nd 1e3\n"
    assert list(parse(text)) == [Sample("a", {"b": 'x"y\\z\n{},=', "c": ""}, math.inf), Sample("d", {}, 1000.0)]
    with pytest.raises(ValueError, match="no metric: <html>"):
        list(parse("<html>"))


def test_quantiles_are_those_of_prometheus() -> None:
    """
    Within a bucket calls are taken to be spread evenly; beyond the last bound it is that bound; without calls nothing.
    """
    calls = Calls(seconds={0.1: 50.0, 0.2: 100.0, math.inf: 100.0})
    assert calls.quantile(0.5) == pytest.approx(0.1)
    assert calls.quantile(0.95) == pytest.approx(0.19)
    assert Calls(seconds={0.1: 0.0, math.inf: 10.0}).quantile(0.5) == 0.1
    assert Calls(seconds={0.1: 0.0, math.inf: 0.0}).quantile(0.5) is None
    assert Calls().quantile(0.5) is None


def test_only_what_happened_between_the_looks_counts() -> None:
    """
    Calls are differences, also after a process has begun anew; of one that did not answer before, nothing is known.
    """
    first = _page(10.0, _handled(100) + _handled(5, "Internal"))
    grown = snapshot([first], [_page(12.0, _handled(140) + _handled(15, "Internal"))])
    assert (grown.seconds, grown.services[0].calls.ended, grown.services[0].calls.errors) == (2.0, 50.0, 10.0)
    anew = snapshot([first], [_page(12.0, _handled(7))])
    assert anew.services[0].calls.ended == 7.0
    late = snapshot([Page("a:1", 10.0, (), "refused")], [_page(12.0, _handled(140))])
    assert late.services[0].calls.ended == 0.0


def test_processes_of_a_service_are_one_line() -> None:
    """
    Calls, memory and connections of all processes are added up.
    """
    text = (
        _handled(0)
        + "process_resident_memory_bytes 100\n"
        + 'modelyard_database_pool_connections{server="primary"} 5\n'
        + 'modelyard_database_pool_idle{server="primary"} 2\n'
        + 'modelyard_database_pool_most{server="primary"} 20\n'
        + 'modelyard_database_pool_waiting{server="primary"} 1\n'
    )
    first = [_page(0.0, text, "a:1"), _page(0.0, text, "a:2")]
    second = [_page(1.0, text + _handled(3), "a:1"), _page(1.0, text + _handled(4), "a:2")]
    (service,) = snapshot(first, second).services
    assert (service.name, service.processes, service.calls.ended, service.memory) == ("registry", 2, 7.0, 200.0)
    assert (service.used, service.most, service.waiting) == (6.0, 40.0, 2.0)


def test_watches_and_checks_are_left_out() -> None:
    """
    How long a watch lasts says nothing, and health checks would hide what callers see.
    """
    watch = CALL.replace("GetModel", "WatchChanges")
    check = 'grpc_service="grpc.health.v1.Health",grpc_method="Check"'
    name = "grpc_server_handled_total"

    def page(moment: float, count: int) -> Page:
        return _page(moment, "".join(f'{name}{{{each},grpc_code="OK"}} {count}\n' for each in (watch, check)))

    found = snapshot([page(0.0, 0)], [page(1.0, 9)])
    assert (found.services[0].calls.ended, found.endpoints) == (0, [])


def test_a_snapshot_of_the_suite(stack: Stack, yard: modelyard.Client, capsys: pytest.CaptureFixture[str]) -> None:
    """
    --once prints every service once, with the calls of the interval, and the slowest methods.
    """
    calling = Thread(target=_search, args=(yard, 1.5))
    calling.start()
    assert main(["top", "--once", "--interval", "1", *_addresses(stack)]) == 0
    calling.join()
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split()[0]: line.split() for line in lines if line}
    assert {"registry", "cache", "cdn"} <= set(cells)
    assert float(cells["registry"][2].replace(",", "")) > 0
    assert any("ModelService/SearchModels" in line and line.startswith("registry") for line in lines)
    assert "MiB" in next(line for line in lines if line.startswith("cdn"))


def test_json_for_programs(stack: Stack, yard: modelyard.Client, capsys: pytest.CaptureFixture[str]) -> None:
    """
    --json prints one object; methods are sorted by their p95, the slowest first.
    """
    calling = Thread(target=_search, args=(yard, 1.5))
    calling.start()
    assert main(["top", "--once", "--json", "--interval", "1", *_addresses(stack)]) == 0
    calling.join()
    found = json.loads(capsys.readouterr().out)
    services: dict[str, dict[str, Any]] = {each["service"]: each for each in found["services"]}
    assert services["registry"]["callsPerSecond"] > 0
    assert services["registry"]["poolMost"] == 20
    assert 0 < services["registry"]["p50Seconds"] <= services["registry"]["p99Seconds"]
    assert services["cdn"]["memoryBytes"] > 1 << 20
    times = [each["p95Seconds"] for each in found["slowest"]]
    assert times == sorted(times, reverse=True)
    assert found["unreachable"] == []


def test_where_the_suite_runs_is_found(
    stack: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Without --metrics it reads the suite of $MODELYARD_STATE; without a terminal it prints one snapshot.
    """
    monkeypatch.setenv("MODELYARD_STATE", str(stack.settings.state))
    assert main(["top", "--interval", "0.2"]) == 0
    assert "registry" in capsys.readouterr().out


def test_it_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    No running suite, no answer, and another program's metrics are errors of one line each, without a traceback.
    """
    monkeypatch.setenv("MODELYARD_STATE", str(tmp_path))
    assert main(["top", "--once"]) == 1
    assert "--metrics" in capsys.readouterr().err
    assert main(["top", "--once", "--interval", "0.1", "--metrics", "127.0.0.1:1"]) == 1
    assert "127.0.0.1:1: " in capsys.readouterr().err
    with _pages("up 1\n") as address:
        assert main(["top", "--once", "--interval", "0.1", "--metrics", address]) == 1
    assert "not a service of Modelyard" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["top", "--metrics", "nowhere"])
    assert "'nowhere' is not HOST:PORT" in capsys.readouterr().err


def test_one_of_two_is_unreachable(capsys: pytest.CaptureFixture[str]) -> None:
    """
    A process that answers is shown; one that does not is named.
    """
    with _pages(BUILD + _handled(0), BUILD + _handled(8)) as address:
        arguments = ["--interval", "0.1", "--metrics", address, "--metrics", "127.0.0.1:1"]
        assert main(["top", "--once", *arguments]) == 0
    out = capsys.readouterr().out
    assert "127.0.0.1:1: " in out
    assert "ModelService/GetModel" in out


def test_a_terminal_is_drawn_on_until_ctrl_c(stack: Stack) -> None:
    """
    On a terminal it redraws the alternate screen; Ctrl-C restores the main screen and the cursor.
    """
    ours, theirs = pty.openpty()
    arguments = ["top", "--interval", "0.2", *_addresses(stack)]
    process = interruptible(*arguments, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    drawn = _read_until(ours, b"slowest methods", times=2)
    process.send_signal(signal.SIGINT)
    drawn += _read_until(ours, b"\x1b[?1049l", times=1)
    assert process.wait(30) == 130
    os.close(ours)
    assert drawn.startswith(b"started\r\n\x1b[?1049h\x1b[?25l")
    assert b"Traceback" not in drawn


def _read_until(file: int, text: bytes, times: int) -> bytes:
    found, until = b"", time.monotonic() + 60
    while found.count(text) < times:
        assert time.monotonic() < until, found
        if select.select([file], [], [], 1)[0]:
            found += os.read(file, 1 << 16)
    return found


def _search(yard: modelyard.Client, seconds: float) -> None:
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        number += 1
        yard.models.SearchModels(models_pb2.SearchModelsRequest(parent="namespaces/default", query=f"w{number}"))
