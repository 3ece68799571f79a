"""
Methods, their handlers, and how interceptors are put round them once, when a servicer is added.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from services.chassis.errors import Unimplemented
from services.chassis.serving.context import Context

Unary = Callable[[Any, Context], Awaitable[Any]]
Stream = Callable[[Any, Context], AsyncIterator[Any]]
Behaviour = Unary | Stream

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Handler = grpc.RpcMethodHandler  # generic in the stubs only


class Kind(StrEnum):
    """
    The four kinds of calls, spelt as in the metrics' label `grpc_type`.
    """

    UNARY_UNARY = "unary"
    UNARY_STREAM = "server_stream"
    STREAM_UNARY = "client_stream"
    STREAM_STREAM = "bidi_stream"

    @property
    def requests_stream(self) -> bool:
        """
        The client sends any number of messages: the behaviour's first argument is an async iterator.
        """
        return self in {Kind.STREAM_UNARY, Kind.STREAM_STREAM}

    @property
    def responses_stream(self) -> bool:
        """
        The server sends any number of messages: the behaviour is a `Stream`.
        """
        return self in {Kind.UNARY_STREAM, Kind.STREAM_STREAM}


@dataclass(frozen=True, slots=True)
class Method:
    """
    One RPC of a contract.

    Args:
        path: as on the wire, "/modelyard.registry.v1.ModelService/GetModel".
        service: "modelyard.registry.v1.ModelService".
        name: "GetModel".
        kind: which of the four kinds it is.
    """

    path: str
    service: str
    name: str
    kind: Kind

    @classmethod
    def of(cls, service: str, name: str, handler: Handler) -> Method:
        """
        The method *name* of *service* that *handler* serves.
        """
        return cls(f"/{service}/{name}", service, name, kind_of(handler))


class Interceptor(Protocol):
    """
    Something that is done round every call.
    """

    def around(self, method: Method, proceed: Any) -> Any:
        """
        A behaviour of *method*'s kind that calls *proceed*, which is one too. Called once per method, not per call.
        """


def kind_of(handler: Handler) -> Kind:
    """
    The kind of calls that *handler* serves.
    """
    if handler.request_streaming:
        return Kind.STREAM_STREAM if handler.response_streaming else Kind.STREAM_UNARY
    return Kind.UNARY_STREAM if handler.response_streaming else Kind.UNARY_UNARY


def behaviour_of(handler: Handler) -> Any:
    """
    The function in *handler*, whichever kind it is.
    """
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def wrap_handler(handler: Handler, method: Method, interceptors: Sequence[Interceptor]) -> Handler:
    """
    Put *interceptors* round *handler*, the first of them outermost.

    A stream may yield messages that are serialised already, as bytes: those that carry much need not be copied again.

    A behaviour that is a plain function is a method of the generated servicer that nobody overrode: it becomes one
    that raises Unimplemented, inside the interceptors, so that it is counted like any other call.

    Raises:
        TypeError: a method with a stream of responses is not an async generator.
    """
    behaviour = _checked(behaviour_of(handler), method)
    for interceptor in reversed(interceptors):
        behaviour = interceptor.around(method, behaviour)
    serialize = handler.response_serializer
    if method.kind.responses_stream and serialize is not None:
        serialize = _unless_serialized(serialize)
    return _MAKERS[method.kind](behaviour, handler.request_deserializer, serialize)


def _unless_serialized(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    return lambda response: response if isinstance(response, bytes) else serialize(response)


def with_behaviour(handler: Handler, behaviour: Any) -> Handler:
    """
    *handler* with another function in it, of the same kind.
    """
    return _MAKERS[kind_of(handler)](behaviour, handler.request_deserializer, handler.response_serializer)


def with_serializers(handler: Handler, read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Handler:
    """
    *handler* with another way from bytes and to bytes.
    """
    return _MAKERS[kind_of(handler)](behaviour_of(handler), read, write)


_MAKERS: dict[Kind, Callable[..., Handler]] = {
    Kind.UNARY_UNARY: grpc.unary_unary_rpc_method_handler,
    Kind.UNARY_STREAM: grpc.unary_stream_rpc_method_handler,
    Kind.STREAM_UNARY: grpc.stream_unary_rpc_method_handler,
    Kind.STREAM_STREAM: grpc.stream_stream_rpc_method_handler,
}


def _checked(behaviour: Any, method: Method) -> Any:
    generates = _is(inspect.isasyncgenfunction, behaviour)
    awaits = _is(inspect.iscoroutinefunction, behaviour)
    if method.kind.responses_stream:
        if awaits:
            # grpc.aio would let it call context.write(); interceptors could not see those messages.
            raise TypeError(f"{method.path} answers with a stream: write it as an async generator that yields messages")
        return behaviour if generates else _unimplemented_stream(method)
    if generates:
        raise TypeError(f"{method.path} answers with one message: return it instead of yielding")
    return behaviour if awaits else _unimplemented_unary(method)


def _is(asks: Callable[[object], bool], behaviour: Any) -> bool:
    # The second question is for objects with an async __call__.
    return asks(behaviour) or asks(getattr(behaviour, "__call__", None))  # noqa: B004 - not whether it is callable


def _unimplemented_unary(method: Method) -> Unary:
    async def answer(_request: Any, _context: Context) -> Any:
        raise _not_yet(method)

    return answer


def _unimplemented_stream(method: Method) -> Stream:
    async def answer(_request: Any, _context: Context) -> AsyncIterator[Any]:
        raise _not_yet(method)
        yield  # makes it a generator, like the methods that it stands for

    return answer


def _not_yet(method: Method) -> Unimplemented:
    return Unimplemented("METHOD_NOT_IMPLEMENTED", f"{method.path} is not implemented yet")
