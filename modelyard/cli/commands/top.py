"""
`modelyard top`
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelyard.cli.errors import RefusedError
from modelyard.cli.output import Output, table
from modelyard.cli.parsing import Group, command, limit_argument
from modelyard.cli.progress import amount
from modelyard.cli.scrape import Page, fetch
from modelyard.cli.statistics import Calls, Endpoint, Service, Snapshot, snapshot
from modelyard.client import Client

_WINDOW = 10.0
_STATE = ".modelyard/run"
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _LINE_END, _REST = "\x1b[H", "\x1b[K\n", "\x1b[J"


def add(group: Group) -> None:
    """
    Register the commands.
    """
    parser = command(
        group, "top", top, "show live statistics of the services from their metrics endpoints, until Ctrl-C"
    )
    parser.add_argument(
        "--metrics",
        action="append",
        type=_address,
        metavar="HOST:PORT",
        help="metrics endpoint of a process; repeatable (default: the suite in $MODELYARD_STATE)",
    )
    parser.add_argument(
        "--interval", type=_seconds, default=2.0, metavar="SECONDS", help="refresh interval in seconds (2)"
    )
    parser.add_argument("--once", action="store_true", help="print one snapshot of one interval and exit")
    limit_argument(parser, default=10)


def top(_yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show statistics at each interval; once without a terminal.

    Raises:
        RefusedError: no endpoint is known, or none responds.
    """
    addresses = args.metrics or _running()
    shown = _snapshots(addresses, args.interval)
    if args.once or (not output.json and not sys.stdout.isatty()):
        now = next(shown)
        if not now.services:
            raise RefusedError("; ".join(f"{address}: {why}" for address, why in now.unreachable))
        print(_json(now, args.limit) if output.json else "\n".join(lines(now, args.limit)), flush=True)
    elif output.json:
        for now in shown:
            print(_json(now, args.limit), flush=True)
    else:
        with _screen():
            for now in shown:
                _draw(lines(now, args.limit))


def lines(now: Snapshot, limit: int) -> list[str]:
    """
    A snapshot as text.
    """
    found = [f"modelyard top   {datetime.now(UTC):%H:%M:%S} UTC   over {now.seconds:.1f} s", ""]
    heads = [
        "SERVICE",
        "PROCESSES",
        "CALLS/S",
        "RUNNING",
        "P50",
        "P95",
        "P99",
        "ERRORS",
        "HITS",
        "POOL",
        "CPU",
        "MEMORY",
    ]
    rows = [_service(each, now.seconds) for each in now.services]
    found += table(heads, rows, [False] + [True] * (len(heads) - 1))
    found += [f"{address}: {why}" for address, why in now.unreachable]
    found += ["", "slowest methods, by p95"]
    slowest = now.endpoints[: limit or None]
    heads = ["SERVICE", "METHOD", "CALLS/S", "RUNNING", "P50", "P95", "P99", "ERRORS"]
    rows = [[each.service, each.method, *_calls(each.calls, now.seconds)] for each in slowest]
    found += table(heads, rows, [False, False] + [True] * (len(heads) - 2)) if rows else ["no calls"]
    return found


def _snapshots(addresses: Sequence[str], interval: float) -> Iterator[Snapshot]:
    # Over ten seconds, so that the latencies of few calls do not fluctuate.
    scrapes: deque[list[Page]] = deque([fetch(addresses)], maxlen=max(2, int(_WINDOW / interval) + 1))
    while True:
        time.sleep(interval)
        scrapes.append(fetch(addresses))
        yield snapshot(scrapes[0], scrapes[-1])


def _running() -> list[str]:
    """
    The metrics endpoints of the suite on this machine.

    Raises:
        RefusedError: no suite runs.
    """
    run = Path(os.environ.get("MODELYARD_STATE") or _STATE) / "run.json"
    try:
        pages = [url for urls in json.loads(run.read_text(encoding="utf-8"))["metrics"].values() for url in urls]
    except FileNotFoundError:
        raise RefusedError(
            f"there is no {run}: start the suite with `make run`, or name the endpoints with --metrics"
        ) from None
    return [re.sub(r"^http://|/metrics$", "", page) for page in pages]


def _service(service: Service, seconds: float) -> list[str]:
    pool = f"{service.used:.0f}/{service.most:.0f}" + (f" +{service.waiting:.0f}" if service.waiting else "")
    return [
        service.name,
        str(service.processes),
        *_calls(service.calls, seconds),
        "" if service.hit_rate is None else f"{service.hit_rate:.1%}",
        pool if service.most else "",
        f"{service.cores:.0%}",
        amount(int(service.memory), "B"),
    ]


def _calls(calls: Calls, seconds: float) -> list[str]:
    return [
        f"{calls.ended / seconds:,.1f}" if seconds else "",
        f"{max(calls.running, 0):.0f}",
        *(_time(calls.quantile(share)) for share in (0.5, 0.95, 0.99)),
        f"{calls.errors / calls.ended:.2%}" if calls.ended else "",
    ]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _json(now: Snapshot, limit: int) -> str:
    found: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "seconds": round(now.seconds, 3),
        "services": [_service_json(each, now.seconds) for each in now.services],
        "slowest": [_endpoint_json(each, now.seconds) for each in now.endpoints[: limit or None]],
        "unreachable": [{"address": address, "reason": why} for address, why in now.unreachable],
    }
    return json.dumps(found, ensure_ascii=False)


def _service_json(service: Service, seconds: float) -> dict[str, Any]:
    return {
        "service": service.name,
        "processes": service.processes,
        **_calls_json(service.calls, seconds),
        "hitRate": service.hit_rate,
        "poolUsed": service.used,
        "poolMost": service.most,
        "poolWaiting": service.waiting,
        "cores": round(service.cores, 3),
        "memoryBytes": service.memory,
    }


def _endpoint_json(endpoint: Endpoint, seconds: float) -> dict[str, Any]:
    return {"service": endpoint.service, "method": endpoint.method, **_calls_json(endpoint.calls, seconds)}


def _calls_json(calls: Calls, seconds: float) -> dict[str, Any]:
    return {
        "callsPerSecond": round(calls.ended / seconds, 3) if seconds else 0.0,
        "running": max(calls.running, 0),
        "p50Seconds": calls.quantile(0.5),
        "p95Seconds": calls.quantile(0.95),
        "p99Seconds": calls.quantile(0.99),
        "errorRatio": calls.errors / calls.ended if calls.ended else None,
    }


@contextmanager
def _screen() -> Iterator[None]:
    """
    Switch to the terminal's alternate screen without a cursor, and back when the block ends.
    """
    sys.stdout.write(_ENTER + _HOME + "loading …")
    sys.stdout.flush()
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


def _draw(text: Sequence[str]) -> None:
    width, height = shutil.get_terminal_size()
    drawn = _LINE_END.join(line[:width] for line in text[:height])
    sys.stdout.write(f"{_HOME}{drawn}\x1b[K{_REST}")
    sys.stdout.flush()


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def _seconds(text: str) -> float:
    number = float(text)
    if not 0.1 <= number <= 3600:
        raise argparse.ArgumentTypeError("must be from 0.1 to 3600")
    return number
