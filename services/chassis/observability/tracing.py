"""
Which trace a call belongs to: W3C Trace Context (https://www.w3.org/TR/trace-context/), without any library.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import grpc

from services.chassis.serving.calls import Method

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

# Later versions may add fields at the end, after a dash. Version 00 has none.
_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
# What is longer need not be passed on (section 3.3.1.5).
_MOST_STATE = 512
# Sampled, and random (level 2). The other flags mean nothing yet, and are not passed on.
_FLAGS = 0b11


@dataclass(frozen=True, slots=True)
class Trace:
    """
    A place in a trace.

    Args:
        trace_id: of the whole trace, 32 hex digits.
        span_id: of the part of it that is meant, 16 hex digits.
        flags: 1 when it is sampled.
        state: `tracestate`, what tracing systems say to themselves.
    """

    trace_id: str
    span_id: str
    flags: int = 0
    state: str = ""

    def child(self) -> Trace:
        """
        A place below this one.
        """
        return replace(self, span_id=secrets.token_hex(8))

    def headers(self) -> tuple[tuple[str, str], ...]:
        """
        What tells another service: metadata of an outgoing call.
        """
        parent = (TRACEPARENT, f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}")
        return (parent, (TRACESTATE, self.state)) if self.state else (parent,)


class Span(Protocol):
    """
    A part of a trace that is exported when it ends.
    """

    @property
    def trace(self) -> Trace:
        """
        Where it is.
        """

    def below(self, path: str, /) -> Span:
        """
        The span of an outgoing call to *path*.
        """

    def end(self, code: grpc.StatusCode, /) -> None:
        """
        What it stands for has ended.
        """


class Spans(Protocol):
    """
    Makes spans.
    """

    def begin(self, method: Method, above: Trace | None, request_id: str, /) -> Span:
        """
        The span of a call of *method*.

        Args:
            above: where the caller is; None begins a trace.
            request_id: of the call.
        """


def new() -> Trace:
    """
    The beginning of a trace that nobody samples.
    """
    return Trace(secrets.token_hex(16), secrets.token_hex(8))


def received(metadata: Iterable[tuple[str, str | bytes]]) -> Trace | None:
    """
    Where the caller is; None when it says nothing that can be read.
    """
    parents = [value for key, value in metadata if key == TRACEPARENT]
    if len(parents) != 1 or not isinstance(parents[0], str):
        return None
    found = _HEADER.fullmatch(parents[0].strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Trace(trace_id, span_id, int(flags, 16) & _FLAGS, _state(metadata))


def _state(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    state = ",".join(value for key, value in metadata if key == TRACESTATE and isinstance(value, str) and value)
    # It goes out again as a header, so it has to be one.
    return state if len(state) <= _MOST_STATE and state.isascii() and state.isprintable() else ""
