"""
What a composition root is handed to put its servicers into, and the `main` that runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from services.chassis.access.policies import Policies
from services.chassis.access.tokens import Verifier
from services.chassis.interceptors import AccessInterceptor, PermissionInterceptor, StreamInterceptor, standard
from services.chassis.interceptors.access import NO, Rejection
from services.chassis.interceptors.metrics import measured
from services.chassis.observability.call_recorder import Recorders
from services.chassis.observability.http_metrics import HttpMetrics
from services.chassis.observability.metrics import Metrics
from services.chassis.observability.tracing import Spans
from services.chassis.serving.background import beside
from services.chassis.serving.calls import Handler, Interceptor, Method, wrap_handler
from services.chassis.serving.health import Health, HealthService
from services.chassis.serving.health import add_to_server as add_health
from services.chassis.serving.http_calls import AsgiApp, HttpCalls
from services.chassis.serving.launcher import main
from services.chassis.serving.reflection import ReflectionService, add_v1_to_server, add_v1alpha_to_server
from services.chassis.serving.tls import Identity
from services.chassis.settings import CommonSettings

__all__ = ["Compose", "Server", "collect", "main"]

Compose = Callable[["Server"], AbstractAsyncContextManager[None]]


class Server:
    """
    The servicers of one process, their health and their metrics.

    Args:
        settings: those that every service has.
        metrics: of this process.
        spans: where spans are exported, what makes them.

    Attributes:
        settings: as given.
        metrics: as given; register a service's own on `metrics.registry`.
        health: tell it what the service depends on.
        draining: set when the process is about to end. Streams that would go on for ever end when they see it.
        handlers: by path, what the host serves.
        recorders: count and log what it serves, and what it refuses.
        identity: this process's certificate, for its host and its calls of other services; None means plain text.
        app: what the HTTP host serves; None for a service of gRPC.
    """

    def __init__(self, settings: CommonSettings, metrics: Metrics, spans: Spans | None = None) -> None:
        self.settings = settings
        self.metrics = metrics
        self.health = Health(metrics)
        self.draining = asyncio.Event()
        self.handlers: dict[str, Handler] = {}
        self.app: AsgiApp | None = None
        settings.check_access()
        files = settings.tls()
        self._proxies = settings.proxies()
        self.recorders = Recorders(metrics.calls, settings.slow_call_seconds, self._proxies)
        self.identity = None if files is None else Identity(files)
        if self.identity is not None:
            metrics.show_certificate(self.identity)
        self._spans = spans
        self._keys = settings.keys()
        self._access = None if self._keys is None else settings.access_to(self._keys)
        self._streams = StreamInterceptor(settings.streams(), self._proxies, self.verifier)
        self._interceptors = self._standard({})
        self._services: set[str] = set()
        self._described: set[str] = set()

    def ask_for(
        self,
        scopes: Mapping[str, str],
        permissions: PermissionInterceptor | None = None,
        *,
        policies: Policies | None = None,
        rejections: Mapping[str, Rejection] = NO,
    ) -> None:
        """
        Say which scope and which permissions each method needs, before any is added. While access control is on, a
        method without one is denied to everybody.

        Args:
            scopes: by the method's path.
            permissions: checks them; None where the service does that itself.
            policies: with the API tokens that are accepted; None where none are.
            rejections: what unary methods answer to rejected callers in place of an error, by the method's path.
        """
        if self._access is not None and policies is not None:
            self._access.verifier.accept_api_tokens(policies)
        self._interceptors = self._standard(scopes, permissions, rejections)

    @property
    def asks(self) -> bool:
        """
        Whether access control is on.
        """
        return self._access is not None

    def add(self, adder: Callable[[Any, Any], None], servicer: Any) -> None:
        """
        Serve *servicer*.

        Args:
            adder: the generated `add_…Servicer_to_server`.
            servicer: of the generated class.

        Raises:
            ValueError: a method of it is served already.
            TypeError: a method of it is not of the form that its contract asks for.
        """
        for service, handlers in collect(adder, servicer).items():
            self.add_methods(service, handlers)

    def add_methods(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """
        Serve methods that have no generated servicer.

        Args:
            service: the full name, "modelyard.registry.v1.ModelService".
            handlers: by the method's name.
        """
        self._wrap(service, handlers)
        self.health.serves(service)

    def serve_http(self, service: str, app: AsgiApp) -> None:
        """
        Serve an ASGI application, in place of gRPC: the launcher of the service names the host "http".

        Args:
            service: its name in logs and spans, "modelyard.doors".
            app: leaves the name of a request's route in the scope, see `http_calls.ROUTE`.
        """
        metrics = HttpMetrics()
        self.metrics.registry.register(metrics)
        self.app = HttpCalls(
            app,
            service,
            self.health,
            metrics,
            self._proxies,
            self.verifier,
            self._spans,
            self.settings.slow_call_seconds,
        )
        self.health.serves(service)

    @property
    def verifier(self) -> Verifier | None:
        """
        Of tokens; None while access control is off.
        """
        return None if self._access is None else self._access.verifier

    def describe(self, services: Iterable[str]) -> None:
        """
        Let reflection list what other processes serve at the same address.

        Args:
            services: their full names; their contracts have to be imported.
        """
        self._described.update(services)

    def drain(self) -> None:
        """
        Say that this process is about to end: not ready any more, and endless streams come to their end.
        """
        self.health.drain()
        self.draining.set()

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """
        Add what every process serves beside its own, and keep asking its dependencies how they are.
        """
        for service, handlers in collect(add_health, HealthService(self.health)).items():
            self._wrap(service, handlers)
        reflection = ReflectionService(self._services | self._described)
        for adder in (add_v1_to_server, add_v1alpha_to_server):
            for service, handlers in collect(adder, reflection).items():
                self._wrap(service, handlers)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(beside(self.metrics.watch_loop()))
            if self._keys is not None:
                self.health.depends_on("token-keys", self._keys.ping)
                await stack.enter_async_context(self._keys.following())
            await stack.enter_async_context(self.health.watch_dependencies())
            yield

    def _standard(
        self,
        scopes: Mapping[str, str],
        permissions: PermissionInterceptor | None = None,
        rejections: Mapping[str, Rejection] = NO,
    ) -> Sequence[Interceptor]:
        access = None if self._access is None else AccessInterceptor(self._access, scopes, rejections)
        return standard(
            default_deadline=self.settings.default_deadline_seconds,
            spans=self._spans,
            access=access,
            permissions=None if access is None else permissions,
            delays=self.settings.fault_delay,
            proxies=self._proxies,
            streams=self._streams,
        )

    def _wrap(self, service: str, handlers: Mapping[str, Handler]) -> None:
        self._services.add(service)
        for name, handler in handlers.items():
            method = Method.of(service, name, handler)
            if method.path in self.handlers:
                raise ValueError(f"{method.path} is served already")
            wrapped = wrap_handler(handler, method, self._interceptors)
            self.recorders.of(method)
            self.handlers[method.path] = measured(wrapped, self.metrics.calls.of(method))


def collect(adder: Callable[[Any, Any], None], servicer: Any) -> dict[str, Mapping[str, Handler]]:
    """
    The handlers that *adder* registers, by service and name.
    """
    collector = _Collector()
    adder(servicer, collector)
    return collector.found


class _Collector:
    """
    Stands in for a `grpc.Server` while a generated function adds a servicer to it.
    """

    def __init__(self) -> None:
        self.found: dict[str, Mapping[str, Handler]] = {}

    def add_generic_rpc_handlers(self, generic_handlers: Sequence[grpc.GenericRpcHandler[Any, Any]]) -> None:
        for generic in generic_handlers:
            # Generated code registers the same methods below as well, by name. What does not (reflection v1) comes
            # from grpc.method_handlers_generic_handler, which keeps them by path here.
            by_path: Mapping[str, Handler] = getattr(generic, "_method_handlers", {})
            for path, handler in by_path.items():
                _, service, name = path.split("/")
                self.found.setdefault(service, {})
                self.found[service] = {**self.found[service], name: handler}

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        self.found[service_name] = method_handlers
