"""
Settings from the environment and secret files: a frozen dataclass per service, one error for everything wrong.

Example:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class RegistrySettings(CommonSettings):
        database_url: str = setting("MODELYARD_DATABASE_URL", url("postgresql"), help="where models are stored")
        database_password: Secret | None = secret(
            "MODELYARD_DATABASE_PASSWORD_FILE", default=None, help="the password of that database's user"
        )

    settings = load(RegistrySettings)
"""

from services.chassis.settings.common import CommonSettings, HostChoice, LogFormat, LogLevel
from services.chassis.settings.kinds import (
    Address,
    Kind,
    address,
    addresses,
    boolean,
    choice,
    integer,
    seconds,
    text,
    url,
    urls,
)
from services.chassis.settings.loading import SettingsError, Variable, describe, load, secret, setting
from services.chassis.settings.secrets import Secret

__all__ = [
    "Address",
    "CommonSettings",
    "HostChoice",
    "Kind",
    "LogFormat",
    "LogLevel",
    "Secret",
    "SettingsError",
    "Variable",
    "address",
    "addresses",
    "boolean",
    "choice",
    "describe",
    "integer",
    "load",
    "seconds",
    "secret",
    "setting",
    "text",
    "url",
    "urls",
]
