"""
Health over HTTP, beside the metrics: Kubernetes' own gRPC probes speak no TLS.

GET /livez answers as the health of `""`, and notices a blocked event loop: a thread answers it. GET /readyz answers as
the health of the services.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from services.chassis.serving.health import Health

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def probed(rest: App, health: Health) -> App:
    """
    The WSGI application (PEP 3333) that answers the two paths, and leaves others to *rest*.
    """
    asked = {"/livez": health.not_alive, "/readyz": health.not_ready}

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        question = asked.get(environ["PATH_INFO"])
        if question is None:
            return rest(environ, start)
        trouble = question()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
        start("503 Service Unavailable" if trouble else "200 OK", headers)
        return [f"{trouble or 'ok'}\n".encode()]

    return answer
