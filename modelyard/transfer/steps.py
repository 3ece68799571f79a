"""
The steps of a transfer: plans are written once and executed by both clients.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """
    An RPC to make.

    Args:
        stub: attribute of the client, such as uploads.
        method: method of the stub.
        request: the request, or a function that returns the stream of requests.
    """

    stub: str
    method: str
    request: Message | Callable[[], Iterator[Message]]


@dataclass(frozen=True, slots=True)
class Pause:
    """
    A delay.

    Args:
        seconds: duration.
    """

    seconds: float


#: Yields steps; receives the response of each call, or has its `grpc.RpcError` thrown in; returns the result.
Plan = Generator[Call | Pause, Any, T]
