"""
Settings are read once, completely, and whatever is wrong is said at once and without secrets.
"""

from __future__ import annotations

import logging
import string
from dataclasses import FrozenInstanceError, dataclass, fields
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.settings import (
    Address,
    CommonSettings,
    Kind,
    Secret,
    SettingsError,
    address,
    addresses,
    boolean,
    choice,
    describe,
    integer,
    load,
    seconds,
    secret,
    setting,
    text,
    url,
)


class _Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings(CommonSettings):
    listen: Address = setting("MODELYARD_LISTEN", address(), default=Address("127.0.0.1", 7001), help="where")
    database_url: str = setting("MODELYARD_DATABASE_URL", url("postgresql", "postgres"), help="where models are stored")
    database_password: Secret | None = secret("MODELYARD_DATABASE_PASSWORD_FILE", default=None, help="its password")
    targets: tuple[Address, ...] = setting("MODELYARD_TARGETS", addresses(), help="who to ask")
    colour: _Colour = setting("MODELYARD_COLOUR", choice(_Colour), default=_Colour.RED, help="which colour")
    verbose: bool = setting("MODELYARD_VERBOSE", boolean(), default=False, help="more of it")
    count: int = setting("MODELYARD_COUNT", integer(1, 10), default=3, help="how many")
    pause: float = setting("MODELYARD_PAUSE", seconds(0, 5), default=0.5, help="how long")
    name: str = setting("MODELYARD_NAME", text(), default="", help="what to call it")


_LEAST = {"MODELYARD_DATABASE_URL": "postgresql://me@/db?host=/run/pg", "MODELYARD_TARGETS": "127.0.0.1:1,[::1]:2"}


def _problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(_Settings, _LEAST | environ)
    return [*caught.value.problems, *caught.value.hints]


@pytest.fixture
def password(tmp_path: Path) -> Path:
    """
    A file that only we can read.
    """
    path = tmp_path / "password"
    path.write_text("hunter2\n")
    path.chmod(0o600)
    return path


def test_what_is_set_is_read_and_the_rest_has_its_default(password: Path) -> None:
    """
    Each kind is parsed to its type; unset and empty variables take the default, a derived class's own first.
    """
    found = load(
        _Settings,
        _LEAST
        | {
            "MODELYARD_DATABASE_PASSWORD_FILE": str(password),
            "MODELYARD_COLOUR": "BLUE",
            "MODELYARD_VERBOSE": "yes",
            "MODELYARD_COUNT": "10",
            "MODELYARD_PAUSE": " 1.25 ",
            "MODELYARD_NAME": "",
        },
    )
    assert found.database_url == "postgresql://me@/db?host=/run/pg"
    assert found.database_password is not None
    assert found.database_password.reveal() == "hunter2"
    assert found.targets == (Address("127.0.0.1", 1), Address("::1", 2))
    assert (found.colour, found.verbose, found.count, found.pause) == (_Colour.BLUE, True, 10, 1.25)
    assert (found.name, found.listen, found.drain_seconds) == ("", Address("127.0.0.1", 7001), 15.0)


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without an environment of its own, load reads that of the process.
    """
    monkeypatch.setenv("MODELYARD_DRAIN_SECONDS", "2")
    assert load(CommonSettings).drain_seconds == 2


def test_settings_do_not_change() -> None:
    """
    What was loaded is frozen.
    """
    found = load(_Settings, _LEAST)
    with pytest.raises(FrozenInstanceError):
        found.count = 4  # type: ignore[misc]  # that is the point


def test_everything_wrong_is_said_at_once() -> None:
    """
    One error lists each missing and each wrong setting, by variable, with the value and with what would be right.
    """
    with pytest.raises(SettingsError) as caught:
        load(_Settings, {"MODELYARD_LISTEN": "localhost", "MODELYARD_COUNT": "11", "MODELYARD_COLOUR": "green"})
    assert str(caught.value).splitlines() == [
        "5 settings are wrong:",
        '  MODELYARD_LISTEN="localhost": expected host:port, such as 127.0.0.1:50051 (this is not host:port)',
        "  MODELYARD_DATABASE_URL is not set: where models are stored; expected a URL that starts with "
        "postgresql:// or postgres:// and holds no password",
        "  MODELYARD_TARGETS is not set: who to ask; expected a comma-separated list of host:port, such as "
        "127.0.0.1:50051,127.0.0.1:50052",
        '  MODELYARD_COLOUR="green": expected red or blue',
        '  MODELYARD_COUNT="11": expected a whole number from 1 to 10 (it is out of bounds)',
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MODELYARD_LISTEN", ":1"),
        ("MODELYARD_LISTEN", "127.0.0.1:0"),
        ("MODELYARD_LISTEN", "127.0.0.1:65536"),
        ("MODELYARD_LISTEN", "127.0.0.1:١"),
        ("MODELYARD_LISTEN", "::1:80"),
        ("MODELYARD_LISTEN", "http://localhost:80"),
        ("MODELYARD_TARGETS", "a:1,,b:2"),
        ("MODELYARD_TARGETS", "a:1,a:1"),
        ("MODELYARD_VERBOSE", "maybe"),
        ("MODELYARD_COUNT", "1.0"),
        ("MODELYARD_COUNT", "1_0"),
        ("MODELYARD_COUNT", "9" * 5000),
        ("MODELYARD_PAUSE", "nan"),
        ("MODELYARD_PAUSE", "2s"),
        ("MODELYARD_PAUSE", "5.01"),
        ("MODELYARD_NAME", "two\nlines"),
        ("MODELYARD_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("MODELYARD_TRUSTED_PROXIES", "gateway"),
        ("MODELYARD_DATABASE_URL", "mysql://db/x"),
        ("MODELYARD_DATABASE_URL", "db:5432"),
        ("MODELYARD_DATABASE_URL", "postgresql://"),
        ("MODELYARD_DATABASE_URL", "postgresql://[::1/db"),
    ],
)
def test_wrong_values_are_refused(variable: str, value: str) -> None:
    """
    A value that is not of its kind is named with its variable.
    """
    (problem,) = _problems({variable: value})
    assert problem.startswith(f'{variable}="')


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://me:hunter2@db/x",
        "postgresql://me:hun@ter2@db/x",
        "postgresql://db/x?user=me&password=hunter2",
        "postgresql://db/x?sslpassword=hunter2",
        "mysql://me:hunter2@db/x",
        "me:hunter2@db/x",
        "postgresql://[me:hunter2@db/x",
    ],
)
def test_urls_with_a_password_are_refused_and_not_repeated(value: str) -> None:
    """
    A password in a URL is refused, and whatever else is wrong with the URL, the message does not hold it.
    """
    (problem,) = _problems({"MODELYARD_DATABASE_URL": value})
    assert "hun" not in problem
    assert "ter2" not in problem


def test_a_secret_in_the_environment_is_not_read() -> None:
    """
    The variable without _FILE is pointed out, without its value.
    """
    problems = _problems({"MODELYARD_DATABASE_PASSWORD": "hunter2", "MODELYARD_COUNT": "0"})
    assert problems[1:] == [
        "MODELYARD_DATABASE_PASSWORD is not read, secrets come from files: unset it and set "
        "MODELYARD_DATABASE_PASSWORD_FILE"
    ]


def test_bad_secret_files_are_named_with_a_way_out(tmp_path: Path, password: Path) -> None:
    """
    Missing, empty, open to others, not a file, not text, too large: each is said, with the path and never the content.
    """

    def problem(path: Path) -> str:
        (found,) = _problems({"MODELYARD_DATABASE_PASSWORD_FILE": str(path)})
        assert found.startswith(f'MODELYARD_DATABASE_PASSWORD_FILE="{path}": ')
        assert "hunter2" not in found
        return found

    assert "no such file" in problem(tmp_path / "missing")
    assert "not a file" in problem(tmp_path)
    assert "cannot be read" in problem(password / "below")
    password.chmod(0o604)
    assert f"chmod 600 {password}" in problem(password)
    password.chmod(0o600)
    password.write_text(" \n")
    assert "empty" in problem(password)
    password.write_bytes(b"hunter2\xff")
    assert "not text" in problem(password)
    password.write_text("hunter2" * 100_000)
    assert "too large" in problem(password)


def test_secrets_mounted_for_a_group_are_read(password: Path) -> None:
    """
    A file that its group may read is fine: that is how Kubernetes mounts secrets, as links, for an unprivileged user.
    """
    password.chmod(0o440)
    link = password.with_name("link")
    link.symlink_to(password)
    found = load(_Settings, _LEAST | {"MODELYARD_DATABASE_PASSWORD_FILE": str(link)})
    assert found.database_password == Secret("hunter2")


def test_secrets_do_not_show_in_a_repr(password: Path) -> None:
    """
    Printing all settings does not print a secret.
    """
    found = load(_Settings, _LEAST | {"MODELYARD_DATABASE_PASSWORD_FILE": str(password)})
    assert "hunter2" not in repr(found)
    assert "hunter2" not in f"{found.database_password}"


def test_typing_errors_are_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    """
    A variable that is nearly a setting's is mentioned with it, in the error if there is one, as a warning otherwise.
    """
    typo = {"MODELYARD_LOGLEVEL": "debug"}
    hint = "MODELYARD_LOGLEVEL is not a setting of this service: did you mean MODELYARD_LOG_LEVEL?"
    assert hint in _problems(typo | {"MODELYARD_COUNT": "0"})
    load(_Settings, _LEAST | typo)
    assert hint in caplog.messages


def test_settings_of_others_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """
    Variables of other services, and of other programs, are none of our business.
    """
    load(_Settings, _LEAST | {"MODELYARD_S3_BUCKET": "x", "MODELYARD_CDN_TARGET": "a:1", "COUNT": "1"})
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_table_shows_every_setting() -> None:
    """
    describe has one line per setting: variable, default or "required", what is expected, and what it is for.
    """
    lines = describe(_Settings).splitlines()
    assert len(lines) == 1 + len(fields(_Settings))
    rows = {line.split()[0]: line for line in lines}
    assert "required" in rows["MODELYARD_DATABASE_URL"]
    assert rows["MODELYARD_DATABASE_URL"].endswith("where models are stored")
    assert "127.0.0.1:7001" in rows["MODELYARD_LISTEN"]
    assert "none" in rows["MODELYARD_DATABASE_PASSWORD_FILE"]
    assert "false" in rows["MODELYARD_VERBOSE"]


# --- for all values ------------------------------------------------------------------------------------------------

_hosts = st.from_regex(r"\A[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?\Z") | st.ip_addresses(v=4).map(str)
_ports = st.integers(1, 65535)
_anything = st.text(max_size=40) | st.text(alphabet=string.printable, max_size=40)


@given(st.builds(Address, _hosts | st.ip_addresses(v=6).map(str), _ports))
def test_addresses_survive_being_written(value: Address) -> None:
    """
    An address that was printed parses to itself, IPv6 included.
    """
    assert Address.parse(str(value)) == value


@given(st.lists(st.builds(Address, _hosts, _ports), min_size=1, max_size=5, unique=True))
def test_lists_of_addresses_survive_being_written(values: list[Address]) -> None:
    """
    A list of addresses that was printed parses to itself, in order.
    """
    assert addresses().parse(", ".join(map(str, values))) == tuple(values)


@given(st.integers(), st.integers(-1000, 1000), st.integers(0, 1000))
def test_integers_are_accepted_exactly_within_their_bounds(value: int, least: int, span: int) -> None:
    """
    A whole number parses if, and only if, it is within its bounds.
    """
    kind = integer(least, least + span)
    if least <= value <= least + span:
        assert kind.parse(str(value)) == value
    else:
        with pytest.raises(ValueError, match=r"out of bounds|^$"):
            kind.parse(str(value))


@pytest.mark.parametrize(
    "kind", [text(), boolean(), integer(0, 9), seconds(0, 9), address(), addresses(), choice(_Colour), url("redis")]
)
@given(value=_anything)
def test_no_text_breaks_a_parser(kind: Kind[object], value: str) -> None:
    """
    Whatever is in a variable, a kind accepts it or raises ValueError, and can show it.
    """
    try:
        kind.parse(value)
    except ValueError:
        assert isinstance(kind.show(value), str)


@given(
    st.text(alphabet=string.ascii_letters + string.digits + "@/?#:%&=", min_size=8, max_size=30),
    st.sampled_from(["redis://u:{}@host/0", "redis://:{}@host:1/0", "rediss://u:{}@host", "u:{}@host"]),
)
def test_no_password_in_a_url_is_ever_shown(password: str, form: str) -> None:
    """
    However a password is made up, a URL that holds it is refused, and what is shown of it does not hold it.
    """
    kind = url("redis")
    value = form.format("zz" + password + "zz")
    with pytest.raises(ValueError, match=r"\w") as caught:
        kind.parse(value)
    for told in (kind.show(value), str(caught.value)):
        assert "zz" + password not in told


@given(st.dictionaries(st.sampled_from([f.metadata["variable"].name for f in fields(_Settings)]), _anything))
def test_any_environment_loads_or_is_explained(environ: dict[str, str]) -> None:
    """
    load returns settings or raises a SettingsError whose every problem names one of the variables.
    """
    outcome = _outcome(environ)
    known = tuple(each.metadata["variable"].name for each in fields(_Settings))
    assert isinstance(outcome, _Settings) or (outcome and all(problem.startswith(known) for problem in outcome))


def _outcome(environ: dict[str, str]) -> _Settings | tuple[str, ...]:
    try:
        return load(_Settings, environ)
    except SettingsError as error:
        return error.problems


def test_no_network_is_served_without_access_control() -> None:
    """
    With access control off a service serves this machine alone, unless it is told in so many words that everybody may.
    """
    for listen in ("127.0.0.1:1", "[::1]:1", "localhost:1"):
        load(CommonSettings, {"MODELYARD_LISTEN": listen}).check_access()
    for listen in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "localhost.example:1"):
        with pytest.raises(SettingsError, match="MODELYARD_ACCESS=open-to-everybody"):
            load(CommonSettings, {"MODELYARD_LISTEN": listen}).check_access()
        for mode in ("on", "read-public", "open-to-everybody"):
            load(CommonSettings, {"MODELYARD_LISTEN": listen, "MODELYARD_ACCESS": mode}).check_access()
    open_to_all = load(CommonSettings, {"MODELYARD_ACCESS": "open-to-everybody"})
    assert open_to_all.keys() is None
