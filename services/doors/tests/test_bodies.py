"""
Requests that take too long: bodies that are sent slowly, and handlers.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from modelyard.error_details import Problem
from services.doors.service import http
from services.doors.service.hub.errors import render as hub
from services.doors.service.mlflow.errors import render as mlflow
from services.doors.service.oci.errors import render as oci


async def answer(render: http.Render, messages: list[Any]) -> Response:
    """
    The response of a route that reads its body, to a client that sends *messages* and then nothing.
    """

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        return await asyncio.Event().wait()

    async def handler(request: Request) -> Response:
        return JSONResponse({"size": len(await http.body(request))})

    found = http.route("/x", "x", handler, render, ("POST",))
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [], "query_string": b""}
    response: Response = await found.endpoint(Request(scope, receive))
    return response


@pytest.mark.parametrize("render", [hub, mlflow, oci], ids=["hub", "mlflow", "oci"])
async def test_a_body_that_does_not_come_is_not_waited_for(
    render: http.Render, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A client that begins a body and does not go on gets 408 in the form of the protocol, and holds nothing any longer.
    """
    monkeypatch.setattr(http, "_BODY_SECONDS", 0.05)
    response = await answer(render, [{"type": "http.request", "body": b"{", "more_body": True}])
    assert response.status_code == 408
    assert b"BODY_TOO_SLOW" in response.body


@pytest.mark.parametrize("render", [hub, mlflow, oci], ids=["hub", "mlflow", "oci"])
async def test_a_handler_has_a_deadline(render: http.Render, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A handler that does not end is cancelled, and answered with 504 in the form of the protocol.
    """
    monkeypatch.setattr(http, "_HANDLER_SECONDS", 0.05)
    cancelled = []

    async def handler(_request: Request) -> Response:
        try:
            return await asyncio.Future()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    found = http.route("/x", "x", handler, render)
    request = Request({"type": "http", "method": "GET", "path": "/x", "headers": [], "query_string": b""})
    response: Response = await asyncio.wait_for(found.endpoint(request), 30)
    assert (response.status_code, cancelled) == (504, [True])
    assert b"took longer" in response.body


async def test_a_whole_body_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A body in two parts is read as one.
    """
    monkeypatch.setattr(http, "_BODY_SECONDS", 5.0)
    parts = [
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "body": b"c", "more_body": False},
    ]
    response = await answer(lambda request, problem: _unexpected(problem), parts)
    assert response.body == b'{"size":3}'


def _unexpected(problem: Problem) -> Response:
    raise AssertionError(problem)
