"""
What a launcher will run, and the checks before anything is started.
"""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass

from services.chassis.hosts import envoy
from services.chassis.settings import Address, CommonSettings, HostChoice

_log = logging.getLogger(__name__)


class StartError(Exception):
    """
    The service cannot start; the message says why and what to do about it.
    """


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """
    What to run.

    Args:
        program: the name of the service, "services.registry".
        module: where its composition root is.
        compose: the name of the composition root in it.
        settings_class: "module:class" of its settings.
        settings: as read.
        host: "envoy" or "grpcio", or "http".
        workers: how many.
    """

    program: str
    module: str
    compose: str
    settings_class: str
    settings: CommonSettings
    host: str
    workers: int

    def check(self) -> None:
        """
        Raises:
            SettingsError: the certificate is not what it should be.
            StartError: a port is taken.
        """
        self.settings.tls()
        for index in range(self.workers):
            _check_free("MODELYARD_LISTEN", self.settings.listen.plus(index))
            _check_free("MODELYARD_METRICS", self.settings.metrics.plus(index))


def choose_host(choice: HostChoice) -> str:
    """
    The host to use: what is asked for, or grpcio if the choice is free and this machine cannot run the other.

    Raises:
        StartError: it is asked for and cannot run.
    """
    if choice is HostChoice.GRPCIO:
        return "grpcio"
    lacks = envoy.missing()
    if lacks is None:
        return "envoy"
    if choice is HostChoice.ENVOY:
        raise StartError(f"MODELYARD_HOST=envoy, but {lacks}, or set MODELYARD_HOST=grpcio")
    _log.warning("serving with grpcio, several times slower, because %s", lacks)
    return "grpcio"


def _check_free(setting: str, address: Address) -> None:
    """
    Raises:
        StartError: nothing can listen at *address*, which comes from *setting*.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        # Without this, a port whose last owner has just ended counts as taken for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise StartError(
                f"{address} cannot be listened on ({why}): end what uses it, or set {setting} to another address"
            ) from None
