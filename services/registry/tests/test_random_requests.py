"""
Random requests to any method: hypothesis fills every field with anything.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.registry.v1 import models_pb2
from services.registry.tests.calls import DEFAULT
from services.registry.tests.contract import call, methods, request_class
from services.registry.tests.server import Registry
from tests.examples import examples

METHODS = {method.name: method for method in methods()}
MODEL = f"{DEFAULT}/models/m"

TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            DEFAULT,
            MODEL,
            f"{MODEL}/versions/1",
            f"{MODEL}/aliases/a",
            "m",
            "a",
            "*",
            "imagenet",
            "top1",
            "owner",
            "1",
            *[
                "\0",
                "namespaces/\0",
                "a" * 300,
                "a" * 20_000,
                "task = a",
                "labels.a:b OR",
                "name desc",
                "é😀",
                "a" * 64,
            ],
        ]
    ),
    st.text(max_size=20),
)
NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]),
    FieldDescriptor.CPPTYPE_INT64: st.sampled_from([0, 1, -1, 5, 2**63 - 1, -(2**63)]),
    FieldDescriptor.CPPTYPE_DOUBLE: st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf, -math.inf, 1e308, 5e-324]),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_STRING: TEXTS,
}


def messages(kind: type[Message], depth: int = 0) -> st.SearchStrategy[Any]:
    """
    Messages of a class with anything in their fields.
    """

    @st.composite
    def make(draw: st.DrawFn) -> Message:
        message = kind()
        for field in kind.DESCRIPTOR.fields:
            if draw(st.integers(0, 3)) == 0 or depth > 3:
                continue
            _fill(draw, message, field, depth)
        return message

    return make()


def _fill(draw: st.DrawFn, message: Message, field: Any, depth: int) -> None:
    target = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        for key, value in draw(st.dictionaries(TEXTS, TEXTS, max_size=2)).items():
            if field.message_type.fields_by_name["value"].message_type is not None:
                target.get_or_create(key)
            else:
                target[key] = value
    elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        strategy = messages(message_factory.GetMessageClass(field.message_type), depth + 1)
        if field.is_repeated:
            target.extend(draw(st.lists(strategy, max_size=2)))
        else:
            target.CopyFrom(draw(strategy))
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        if field.is_repeated:
            target.extend(draw(st.lists(st.integers(0, 9), max_size=3)))
        else:
            setattr(message, field.name, draw(st.integers(0, 9)))
    elif field.is_repeated:
        target.extend(draw(st.lists(NUMBERS[field.cpp_type], max_size=3)))
    else:
        setattr(message, field.name, draw(NUMBERS[field.cpp_type]))


DOCUMENTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
}


@pytest.mark.parametrize("name", METHODS)
@settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
async def test_random_requests(full: Registry, name: str, data: st.DataObject) -> None:
    """
    Every random request is answered with a documented status, never INTERNAL, and the server keeps working.
    """
    method = METHODS[name]
    request = data.draw(messages(request_class(method)))
    assert await _code(full, method, request) in DOCUMENTED
    if method.name != "FinalizeVersion":
        # Finalizing a version with artifacts is UNAVAILABLE here, where no asset service runs.
        assert (await create_or_get(full)).name == MODEL


async def create_or_get(registry: Registry) -> models_pb2.Model:
    """
    A call that always works.
    """
    return await registry.models.GetModel(models_pb2.GetModelRequest(name=MODEL))


async def _code(registry: Registry, method: MethodDescriptor, request: Message) -> grpc.StatusCode:
    async def one() -> AsyncIterator[Message]:
        yield request

    made = call(registry, method, one() if method.client_streaming else request)
    try:
        async with asyncio.timeout(10):
            if method.server_streaming:
                # Changes go on for ever: the first message tells whether the request was taken.
                await made.read()
            else:
                await made
    except grpc.aio.AioRpcError as error:
        return error.code()
    if method.server_streaming and not method.client_streaming:
        made.cancel()
        return grpc.StatusCode.OK
    return await made.code() if not method.server_streaming else grpc.StatusCode.OK
