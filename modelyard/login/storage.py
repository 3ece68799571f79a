"""
Where the credentials of logins are kept: the operating system's keyring, or a file that only its owner can read.

The file names every login, so that clients without one never ask the keyring, which takes long to load.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from modelyard.login.credentials import Credentials, LoginOptions
from modelyard.login.errors import LoginError
from modelyard.transfer.locks import try_lock

_SERVICE = "modelyard"
_LOCK_SECONDS = 60.0
# Below it, backends of the keyring library are those to use only on request, such as a file in plain text.
_KEYRING_PRIORITY = 1


def folder() -> Path:
    """
    The folder of the credentials: $XDG_CONFIG_HOME/modelyard, by default ~/.config/modelyard (%APPDATA% on Windows).

    Raises:
        LoginError: this user has no home directory.
    """
    base = os.environ.get("APPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME") or ""
    try:
        return (Path(base) if Path(base).is_absolute() else Path.home() / ".config") / "modelyard"
    except RuntimeError:
        raise LoginError("this user has no home directory: set XDG_CONFIG_HOME") from None


def load(server: str) -> Credentials | None:
    """
    The credentials of a server; None without a login.

    Args:
        server: as `modelyard._target.server_of` names it.

    Raises:
        LoginError: the file can be read by other users, or is damaged; or the keyring does not return them.
    """
    try:
        folder()
    except LoginError:
        # Users of containers often have no home directory, and no login.
        return None
    entry = _read().get(server)
    if entry is None:
        return None
    _check_mode()
    try:
        secrets = _recall(server) if entry.get("keyring") is True else entry
        return Credentials(
            LoginOptions(*(str(entry[name]) for name in ("issuer", "client_id", "audience", "scopes"))),
            str(secrets["access"]),
            str(secrets["refresh"]),
            float(entry["expires"]),
            float(entry["due"]),
        )
    except (KeyError, TypeError, ValueError):
        raise LoginError(f"the login at {server} in {_file()} is damaged: run `modelyard login` again") from None


def save(server: str, credentials: Credentials, *, keyring: bool) -> bool:
    """
    Store the credentials of a server, in place of earlier ones.

    Args:
        server: as `modelyard._target.server_of` names it.
        credentials: the credentials.
        keyring: whether to use the keyring, if there is one that works.

    Returns:
        Whether they are in the keyring.

    Raises:
        LoginError: the folder or file cannot be written.
    """
    options = credentials.options
    secrets = {"access": credentials.access, "refresh": credentials.refresh}
    stored = keyring and _remember(server, secrets)
    entry: dict[str, Any] = {
        "issuer": options.issuer,
        "client_id": options.client_id,
        "audience": options.audience,
        "scopes": options.scopes,
        "expires": credentials.expires,
        "due": credentials.due,
        **({"keyring": True} if stored else secrets),
    }
    with locked("credentials"):
        logins = _read()
        former = logins.get(server)
        _write({**logins, server: entry})
    if not stored and former is not None and former.get("keyring") is True:
        _forget(server)
    return stored


def remove(server: str) -> bool:
    """
    Delete the credentials of a server; returns whether there were any.

    Raises:
        LoginError: the file cannot be written.
    """
    with locked("credentials"):
        logins = _read()
        entry = logins.pop(server, None)
        if entry is None:
            return False
        _write(logins)
    if entry.get("keyring") is True:
        _forget(server)
    return True


def in_keyring(server: str) -> bool:
    """
    Whether the credentials of a server are in the keyring.
    """
    return _read().get(server, {}).get("keyring") is True


@contextmanager
def refreshing(server: str) -> Iterator[None]:
    """
    Hold the right to refresh the credentials of a server, of all processes of this user.

    Raises:
        LoginError: the folder cannot be written, or another process holds it for too long (temporary).
    """
    with locked(f"refresh-{hashlib.sha256(server.encode()).hexdigest()[:16]}"):
        yield


@contextmanager
def locked(name: str) -> Iterator[None]:
    """
    Hold a lock between the processes of this user.

    Raises:
        LoginError: the folder cannot be written, or another process holds it for too long (temporary).
    """
    path = _folder() / f"{name}.lock"
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    except OSError as error:
        raise _unwritable(error) from None
    with file:
        ends = time.monotonic() + _LOCK_SECONDS
        while not try_lock(file):
            if time.monotonic() > ends:
                raise LoginError(f"another process holds {path}", temporary=True)
            time.sleep(0.02)
        yield


def _file() -> Path:
    return folder() / "credentials.json"


def _folder() -> Path:
    found = folder()
    try:
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(error) from None
    return found


def _read() -> dict[str, dict[str, Any]]:
    file = _file()
    try:
        found = json.loads(file.read_bytes())["logins"]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        if not _is_there(file):
            return {}
        raise LoginError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise LoginError(f"{file} is damaged: delete it, and run `modelyard login` again")
    return found


def _is_there(file: Path) -> bool:
    # A folder that this user may not enter, such as another user's home directory in $HOME, holds no login of theirs.
    try:
        file.stat()
    except OSError:
        return False
    return True


def _check_mode() -> None:
    """
    Raises:
        LoginError: other users can read or write the file.
    """
    if sys.platform == "win32":
        return
    file = _file()
    found = file.stat()
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise LoginError(f"other users can read {file}: chmod 600 {file}")
    if found.st_uid != os.geteuid():
        raise LoginError(f"{file} belongs to another user: chown it, or set XDG_CONFIG_HOME")


def _write(logins: dict[str, dict[str, Any]]) -> None:
    # Loaded here: each client without a token reads, few write.
    import tempfile

    # Created for its owner alone, and complete at once: a reader sees the old file or the new one.
    file = _file()
    try:
        handle, temporary = tempfile.mkstemp(prefix=".credentials-", dir=file.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as fresh:
                json.dump({"logins": logins}, fresh, indent=1)
                fresh.flush()
                os.fsync(fresh.fileno())
            Path(temporary).replace(file)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise _unwritable(error) from None


def _unwritable(error: OSError) -> LoginError:
    return LoginError(
        f"{error.filename or folder()} cannot be written: {error.strerror}. Credentials change when they are "
        "refreshed: XDG_CONFIG_HOME selects a folder that can be written"
    )


def _keyring() -> Any | None:
    """
    The keyring library, if it has a backend that works.
    """
    try:
        import keyring

        return keyring if keyring.get_keyring().priority >= _KEYRING_PRIORITY else None
    except Exception:  # noqa: BLE001 - the extra is not installed, or a backend fails in its own way
        return None


def _remember(server: str, secrets: dict[str, str]) -> bool:
    if (keyring := _keyring()) is None:
        return False
    text = json.dumps(secrets)
    try:
        keyring.set_password(_SERVICE, server, text)
        # Some backends take everything and keep nothing, or only the first kilobytes.
        return bool(keyring.get_password(_SERVICE, server) == text)
    except Exception:  # noqa: BLE001 - each backend has errors of its own: no session bus, a locked keyring
        return False


def _recall(server: str) -> dict[str, Any]:
    try:
        text = keyring.get_password(_SERVICE, server) if (keyring := _keyring()) else None
    except Exception as error:  # noqa: BLE001 - each backend has errors of its own
        raise LoginError(f"the keyring does not return the login at {server}: {type(error).__name__}") from None
    if text is None:
        raise LoginError(f"the login at {server} is no longer in the keyring: run `modelyard login` again")
    found = json.loads(text)
    return found if isinstance(found, dict) else {}


def _forget(server: str) -> None:
    # Without a keyring there is nothing to delete.
    with suppress(Exception):
        if (keyring := _keyring()) is not None:
            keyring.delete_password(_SERVICE, server)
