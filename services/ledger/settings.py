"""
The settings of a database. A service's own settings derive from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from services.chassis.settings import (
    CommonSettings,
    Secret,
    SettingsError,
    boolean,
    integer,
    seconds,
    secret,
    setting,
    text,
    url,
    urls,
)
from services.ledger.store.database import DatabaseSettings

_URL = "the service's database: postgresql://user@host:port/database, or with ?host=/socket/folder"
_PASSWORD = "the password of that database's user; unset when the server trusts it"  # noqa: S105 - says what it is for


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationSettings:
    """
    The settings of a migration.
    """

    database_url: str = setting("MODELYARD_DATABASE_URL", url("postgresql", "postgres"), help=_URL)
    database_password: Secret | None = secret("MODELYARD_DATABASE_PASSWORD_FILE", default=None, help=_PASSWORD)
    startup: float = setting(
        "MODELYARD_DATABASE_STARTUP_SECONDS",
        seconds(0, 3600),
        default=30.0,
        help="how long the database may take to answer at start",
    )
    service_role: str = setting(
        "MODELYARD_DATABASE_SERVICE_ROLE",
        text(),
        default="modelyard_service",
        help="the role that the service logs in as: it is made if it is missing, and given what it needs",
    )

    def database(self) -> DatabaseSettings:
        """
        The database of these settings.
        """
        return DatabaseSettings(url=self.database_url, password=_revealed(self.database_password), startup=self.startup)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings(CommonSettings):
    """
    The settings of a service with a database.
    """

    database_url: str = setting("MODELYARD_DATABASE_URL", url("postgresql", "postgres"), help=_URL)
    database_password: Secret | None = secret("MODELYARD_DATABASE_PASSWORD_FILE", default=None, help=_PASSWORD)
    replica_urls: tuple[str, ...] = setting(
        "MODELYARD_DATABASE_REPLICA_URLS",
        urls("postgresql", "postgres"),
        default=(),
        help="read replicas of that database, separated by commas; they take the same user and password",
    )
    replica_lag: float = setting(
        "MODELYARD_DATABASE_REPLICA_LAG_SECONDS",
        seconds(0, 3600),
        default=5.0,
        help="how far a replica may be behind and still answer reads, with the time since it was last looked at",
    )
    slow_query: float = setting(
        "MODELYARD_SLOW_QUERY_SECONDS",
        seconds(0, 3600),
        default=0.1,
        help="statements that take longer are logged by name",
    )
    slow_query_plans: bool = setting(
        "MODELYARD_SLOW_QUERY_PLANS",
        boolean(),
        default=False,
        help="log the plans of slow statements, too, without their values",
    )
    startup: float = setting(
        "MODELYARD_DATABASE_STARTUP_SECONDS",
        seconds(0, 3600),
        default=30.0,
        help="how long the database may take to answer at start",
    )
    pool_min: int = setting(
        "MODELYARD_DATABASE_POOL_MIN", integer(1, 1000), default=2, help="connections that are open from the start"
    )
    pool_max: int = setting(
        "MODELYARD_DATABASE_POOL_MAX", integer(1, 1000), default=20, help="the most connections of one process"
    )
    pool_wait: float = setting(
        "MODELYARD_DATABASE_POOL_WAIT_SECONDS",
        seconds(0.01, 60),
        default=2.0,
        help="how long a call waits for a connection before it fails",
    )
    search_seconds: float = setting(
        "MODELYARD_SEARCH_SECONDS", seconds(0.01, 600), default=2.0, help="how long a search may take"
    )
    changes_keep: float = setting(
        "MODELYARD_CHANGES_KEEP_SECONDS",
        seconds(60, 10 * 365 * 86400),
        default=7 * 86400.0,
        help="how far back the change stream reaches",
    )

    def database(self, application: str, *search_settings: str) -> DatabaseSettings:
        """
        The database of these settings.

        Args:
            application, search_settings: see `DatabaseSettings`.

        Raises:
            SettingsError: the pool's minimum exceeds its maximum.
        """
        if self.pool_min > self.pool_max:
            raise SettingsError(["MODELYARD_DATABASE_POOL_MIN must not be more than MODELYARD_DATABASE_POOL_MAX"])
        return DatabaseSettings(
            url=self.database_url,
            password=_revealed(self.database_password),
            least=self.pool_min,
            most=self.pool_max,
            patience=self.pool_wait,
            startup=self.startup,
            search_timeout=self.search_seconds,
            replicas=self.replica_urls,
            slow=self.slow_query,
            explain=self.slow_query_plans,
            most_lag=self.replica_lag,
            application=application,
            search_settings=search_settings,
        )

    @property
    def keep(self) -> timedelta:
        """
        How far back the change stream reaches.
        """
        return timedelta(seconds=self.changes_keep)


def _revealed(password: Secret | None) -> str | None:
    return password.reveal() if password else None
