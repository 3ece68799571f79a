"""
The steps of a transfer: plans are written once, and each client executes them in its
own way.
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
    Make a call.

    Args:
        stub: the client's attribute, such as uploads.
        method: of the stub.
        request: the message, or what makes the stream of messages.
    """

    stub: str
    method: str
    request: Message | Callable[[], Iterator[Message]]


@dataclass(frozen=True, slots=True)
class Pause:
    """
    Wait.
    """

    seconds: float


#: Gives steps; is sent the answer of each call, or has its `grpc.RpcError` thrown in; returns the transfer's result.
Plan = Generator[Call | Pause, Any, T]
