"""
Scrapes the metrics endpoints of the suite's processes, in Prometheus' text format.
"""

from __future__ import annotations

import http.client
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

_PATIENCE = 2.0
# https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format; a timestamp may follow the value.
_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*,?')
_ESCAPED = re.compile(r"\\(.)")
# Metrics endpoints are never reached through a proxy of the environment.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Sample:
    """
    A sample of a metrics page.
    """

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Page:
    """
    The metrics of a process.

    Args:
        address: host:port.
        timestamp: time of the scrape (`time.monotonic`), in seconds.
        samples: its samples; empty if it did not respond.
        error: the reason why it did not respond; otherwise empty.
    """

    address: str
    timestamp: float
    samples: Sequence[Sample]
    error: str = ""

    @property
    def service(self) -> str:
        """
        What runs there: "registry"; empty when that is unknown.
        """
        programs = (each.labels.get("program", "") for each in self.samples if each.name == "modelyard_build_info")
        return next(programs, "").rpartition(".")[2]


def fetch(addresses: Sequence[str]) -> list[Page]:
    """
    Scrape http://address/metrics of all addresses concurrently.
    """
    with ThreadPoolExecutor(max_workers=min(len(addresses), 32)) as threads:
        return list(threads.map(_page, addresses))


def parse(text: str) -> Iterator[Sample]:
    """
    The samples of a page in Prometheus' text format.

    Raises:
        ValueError: a line is invalid.
    """
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"no metric: {line[:80]}")
        yield Sample(match[1], _labels(match[2] or ""), float(match[3]))


def _labels(text: str) -> dict[str, str]:
    return {match[1]: _ESCAPED.sub(_plain, match[2]) for match in _LABEL.finditer(text)}


def _plain(escaped: re.Match[str]) -> str:
    return "\n" if escaped[1] == "n" else escaped[1]


def _page(address: str) -> Page:
    try:
        with _opener.open(f"http://{address}/metrics", timeout=_PATIENCE) as answer:
            samples = list(parse(answer.read().decode()))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Page(address, time.monotonic(), (), str(getattr(error, "reason", error)) or type(error).__name__)
    page = Page(address, time.monotonic(), samples)
    return page if page.service else Page(address, page.timestamp, (), "not a service of Modelyard")
