"""
The settings that every service has.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from services.chassis.access import Access, AccessMode, Keys, KeysError, ServiceToken, Verifier
from services.chassis.access.callers import LOOPBACK, Bounds, Network, Proxies
from services.chassis.access.http_fetch import may_fetch
from services.chassis.access.keys import MOST_AGE
from services.chassis.loopback import is_loopback
from services.chassis.settings.kinds import (
    Address,
    address,
    boolean,
    choice,
    delays,
    integer,
    networks,
    seconds,
    text,
    url,
)
from services.chassis.settings.loading import SettingsError, setting
from services.chassis.settings.tls import CA, CERT, KEY, TlsError, TlsFiles


class HostChoice(StrEnum):
    """
    What serves the calls: see docs/adr/0001.
    """

    AUTO = "auto"
    ENVOY = "envoy"
    GRPCIO = "grpcio"


class LogFormat(StrEnum):
    """
    How log records are written: json for machines, text for people, auto by whether stderr is a terminal.
    """

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """
    The least level that is written.
    """

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonSettings:
    """
    What a process needs to serve: derive from it, and override a field to give it another default.
    """

    host: HostChoice = setting(
        "MODELYARD_HOST",
        choice(HostChoice),
        default=HostChoice.AUTO,
        help="server that hosts the service; auto prefers envoy and falls back to grpcio",
    )
    listen: Address = setting(
        "MODELYARD_LISTEN",
        address(),
        default=Address("127.0.0.1", 50051),
        help="gRPC listen address; worker i uses the i-th port after it",
    )
    metrics: Address = setting(
        "MODELYARD_METRICS",
        address(),
        default=Address("127.0.0.1", 9464),
        help="listen address of Prometheus metrics; worker i uses the i-th port after it",
    )
    log_format: LogFormat = setting(
        "MODELYARD_LOG_FORMAT",
        choice(LogFormat),
        default=LogFormat.AUTO,
        help="log format; auto is text on a terminal and json elsewhere",
    )
    log_level: LogLevel = setting(
        "MODELYARD_LOG_LEVEL",
        choice(LogLevel),
        default=LogLevel.INFO,
        help="minimum log level; debug also logs every call",
    )
    drain_seconds: float = setting(
        "MODELYARD_DRAIN_SECONDS",
        seconds(0, 3600),
        default=15.0,
        help="grace period for calls in flight after SIGTERM",
    )
    drain_delay: float = setting(
        "MODELYARD_DRAIN_DELAY_SECONDS",
        seconds(0, 3600),
        default=0.0,
        help="how long after SIGTERM new calls are still accepted, for load balancers to notice",
    )
    connection_age: float = setting(
        "MODELYARD_CONNECTION_AGE_SECONDS",
        seconds(0, 86400),
        default=0.0,
        help="maximum connection age (GOAWAY), so that callers resolve names again; 0: unlimited",
    )
    max_message_bytes: int = setting(
        "MODELYARD_MAX_MESSAGE_BYTES",
        integer(1024, 1 << 30),
        default=16 << 20,
        help="maximum message size, received or sent, in bytes",
    )
    default_deadline_seconds: float = setting(
        "MODELYARD_DEFAULT_DEADLINE_SECONDS",
        seconds(0.1, 3600),
        default=60.0,
        help="deadline of a unary call whose client set none",
    )
    slow_call_seconds: float = setting(
        "MODELYARD_SLOW_CALL_SECONDS",
        seconds(0.001, 3600),
        default=0.5,
        help="threshold above which a unary call is logged as a warning",
    )
    otlp_endpoint: str | None = setting(
        "MODELYARD_OTLP_ENDPOINT",
        url("http", "https"),
        default=None,
        help="OTLP/gRPC endpoint for traces, such as http://127.0.0.1:4317; unset: no export",
    )
    fault_delay: dict[str, float] | None = setting(
        "MODELYARD_FAULT_DELAY",
        delays(),
        default=None,
        help="fault injection, for drills only: delays of unary calls, such as SearchModels=0.3",
    )
    access: AccessMode = setting(
        "MODELYARD_ACCESS",
        choice(AccessMode),
        default=AccessMode.OFF,
        help="which calls need a token: all (on), all but reads (read-public), none on loopback (off) or none at all",
    )
    jwks_file: str | None = setting(
        "MODELYARD_JWKS_FILE",
        text(),
        default=None,
        help="JSON Web Key Set file for token verification; reloaded when it changes",
    )
    jwks_url: str | None = setting(
        "MODELYARD_JWKS_URL", url("https", "http"), default=None, help="JSON Web Key Set URL; fetched every minute"
    )
    jwks_plain_http: bool = setting(
        "MODELYARD_JWKS_PLAIN_HTTP",
        boolean(),
        default=False,
        help="allow http:// beyond this machine for MODELYARD_JWKS_URL: open to man-in-the-middle attacks",
    )
    jwks_most_age: float = setting(
        "MODELYARD_JWKS_MOST_AGE_SECONDS",
        seconds(60, 30 * 86400),
        default=MOST_AGE,
        help="how long keys stay valid that cannot be reloaded; then tokens are rejected and readiness fails",
    )
    jwt_issuer: str | None = setting(
        "MODELYARD_JWT_ISSUER", text(), default=None, help="required issuer of tokens (iss)"
    )
    jwt_audience: str | None = setting(
        "MODELYARD_JWT_AUDIENCE", text(), default=None, help="required audience of tokens (aud)"
    )
    jwt_groups_claim: str = setting(
        "MODELYARD_JWT_GROUPS_CLAIM",
        text(),
        default="groups",
        help="claim with the names of the subject's groups, for members group:{name} of policies",
    )
    reflection_open: bool = setting(
        "MODELYARD_REFLECTION_OPEN",
        boolean(),
        default=False,
        help="serve reflection without a token while calls need one; otherwise it is not served",
    )
    trusted_proxies: tuple[Network, ...] = setting(
        "MODELYARD_TRUSTED_PROXIES",
        networks(),
        default=LOOPBACK,
        help="networks of trusted proxies, whose caller headers are accepted; with mutual TLS, all callers are trusted",
    )
    streams_per_client: int = setting(
        "MODELYARD_STREAMS_PER_CLIENT",
        integer(0, 1 << 20),
        default=1000,
        help="maximum concurrent streams per client (token subject or IP address) in this process; 0: unlimited",
    )
    streams_most: int = setting(
        "MODELYARD_STREAMS_MOST",
        integer(0, 1 << 20),
        default=10_000,
        help="maximum concurrent streams of all clients in this process; 0: unlimited",
    )
    service_token_file: str | None = setting(
        "MODELYARD_SERVICE_TOKEN_FILE",
        text(),
        default=None,
        help="token for calls that this service makes on its own behalf; reloaded when it changes",
    )

    tls_cert_file: str | None = setting(
        CERT,
        text(),
        default=None,
        help="certificate of this service; enables mutual TLS between services and the gateway",
    )
    tls_key_file: str | None = setting(KEY, text(), default=None, help="private key of the certificate")
    tls_ca_file: str | None = setting(
        CA, text(), default=None, help="CA bundle for the certificates of callers and other services"
    )

    def tls(self) -> TlsFiles | None:
        """
        Where this service's certificate is; None where services speak plain text.

        Raises:
            SettingsError: one of the three settings is missing, or a file is not what it should be.
        """
        given = {CERT: self.tls_cert_file, KEY: self.tls_key_file, CA: self.tls_ca_file}
        if not any(given.values()):
            return None
        if missing := [name for name, file in given.items() if file is None]:
            raise SettingsError([f"{name} is not set: mutual TLS takes all of {', '.join(given)}" for name in missing])
        files = TlsFiles(*(Path(file) for file in given.values() if file is not None))
        try:
            files.read()
        except TlsError as error:
            raise SettingsError([str(error)]) from None
        return files

    def check_access(self) -> None:
        """
        Raises:
            SettingsError: everybody in a network could do everything, and nobody has asked for that.
        """
        if self.access is AccessMode.OFF and not is_loopback(self.listen.host):
            raise SettingsError(
                [
                    f"MODELYARD_ACCESS is off, and {self.listen} is not on loopback: everybody who connects could do "
                    f"everything. Set MODELYARD_ACCESS=on (docs/access.md), or say MODELYARD_ACCESS={AccessMode.OPEN}"
                ]
            )

    def keys(self) -> Keys | None:
        """
        The keys that sign tokens; None while access control is off.

        Raises:
            SettingsError: access control is on without all that it needs.
        """
        if not self.access.asks:
            return None
        wrong = []
        if (self.jwks_file is None) == (self.jwks_url is None):
            wrong.append("MODELYARD_JWKS_FILE, MODELYARD_JWKS_URL: set one of them")
        if self.jwks_url is not None and not may_fetch(self.jwks_url, plain=self.jwks_plain_http):
            wrong.append("MODELYARD_JWKS_URL has to be https:// (or set MODELYARD_JWKS_PLAIN_HTTP=true)")
        if self.jwt_issuer is None:
            wrong.append("MODELYARD_JWT_ISSUER is not set: tokens of every issuer would be taken")
        if self.jwt_audience is None:
            wrong.append("MODELYARD_JWT_AUDIENCE is not set: tokens for anything would be taken")
        if wrong:
            raise SettingsError([f"with MODELYARD_ACCESS={self.access}, {each}" for each in wrong])
        try:
            return Keys(
                file=Path(self.jwks_file) if self.jwks_file else None,
                url=self.jwks_url,
                plain=self.jwks_plain_http,
                most_age=self.jwks_most_age,
            )
        except KeysError as error:
            raise SettingsError([f"MODELYARD_JWKS_FILE: {error}"]) from None

    def access_to(self, keys: Keys) -> Access:
        """
        What is checked of every call.

        Args:
            keys: that sign tokens.
        """
        verifier = Verifier(keys, self.jwt_issuer or "", self.jwt_audience or "", self.jwt_groups_claim)
        return Access(self.access, verifier, self.reflection_open)

    def proxies(self) -> Proxies:
        """
        Who may say on whose behalf they call.
        """
        return Proxies(self.trusted_proxies, everybody=self.tls_ca_file is not None)

    def streams(self) -> Bounds:
        """
        How many streams may be open.
        """
        return Bounds(self.streams_per_client, self.streams_most)

    def service_token(self) -> ServiceToken:
        """
        What goes along with calls on this service's own behalf.
        """
        return ServiceToken(self.service_token_file)
