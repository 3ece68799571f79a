"""
The system under test: an embedded suite with a fresh database, or a deployed gateway.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2

import modelyard
from bench.population import Say, populate
from bench.run.generators import Target
from embedded.stack import Stack, StackSettings
from embedded.testing import scratch
from gateway.render import descriptor_set


@dataclass(frozen=True, slots=True)
class Measured:
    """
    What is measured.

    Args:
        target: where calls go.
        metrics: pages of metrics by service; none of a deployed gateway.
        what: for people.
        models: how many there are, if that is known.
        stack: the suite, if it is ours.
        pids: of its parts by name, as they are now; none of a deployed gateway.
    """

    target: Target
    metrics: Mapping[str, list[str]]
    what: str
    models: int | None
    stack: Stack | None
    pids: Callable[[], Mapping[str, int]] = dict

    def connect(self) -> modelyard.Client:
        """
        A client of it.
        """
        return modelyard.connect(self.target.address, ca_file=self.target.ca_file, token_file=self.target.token_file)


@contextmanager
def embedded(models: int, say: Say, settings: Mapping[str, str]) -> Iterator[Measured]:
    """
    The suite on loopback with a database of its own.

    Args:
        models: to put into it.
        say: is told how far it is.
        settings: of the services.
    """
    with scratch() as state:
        environment = {"MODELYARD_LOG_LEVEL": "error", **settings}
        with Stack(StackSettings(state=state, gateway_port=0, environment=environment)) as stack:
            say(f"copying {models:,} models into a fresh database")
            asyncio.run(populate(stack.postgres.url(), models, lambda _: None))
            pages = {name: service.metrics for name, service in stack.services.items()}
            target = Target(stack.gateway, _protoset(state))
            what = f"a suite of its own, one process a service, {models:,} models"
            yield Measured(target, pages, what, models, stack, stack.pids)
            stack.kill("s3")


@contextmanager
def deployed(address: str, ca_file: Path | None, token_file: Path | None) -> Iterator[Measured]:
    """
    A gateway that runs somewhere.
    """
    with scratch() as state:
        target = Target(address, _protoset(state), ca_file, token_file)
        yield Measured(target, {}, f"the gateway at {address}", None, None)


def _protoset(folder: Path) -> Path:
    whole = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set())
    health_pb2.DESCRIPTOR.CopyToProto(whole.file.add())
    path = folder / "calls.binpb"
    path.write_bytes(whole.SerializeToString())
    return path


def own_settings() -> dict[str, str]:
    """
    Settings of the services that were given to the bench: MODELYARD_FAULT_DELAY and the like.
    """
    return {name: value for name, value in os.environ.items() if name.startswith("MODELYARD_FAULT_")}
