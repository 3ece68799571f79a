"""
The settings of a service's certificate: all of them or none, and what is wrong is named.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from embedded import authority
from embedded.authority import Authority
from services.chassis.settings import CommonSettings, SettingsError, load
from services.chassis.settings.tls import TlsFiles

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("MODELYARD_TLS_CERT_FILE", "MODELYARD_TLS_KEY_FILE", "MODELYARD_TLS_CA_FILE")


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return Authority(tmp_path).issue("service")


def wrong(environ: dict[str, str]) -> str:
    """
    What is wrong with the settings.
    """
    with pytest.raises(SettingsError) as error:
        load(CommonSettings, environ).tls()
    return str(error.value)


def test_without_them_there_is_no_tls() -> None:
    """
    Plain text is the default.
    """
    assert load(CommonSettings, {}).tls() is None


def test_with_all_of_them_there_is(files: TlsFiles) -> None:
    """
    The three files are what settings name.
    """
    assert load(CommonSettings, authority.settings(files)).tls() == files


@pytest.mark.parametrize("left", range(3))
def test_some_of_them_are_not_enough(files: TlsFiles, left: int) -> None:
    """
    Those that are missing are named.
    """
    given = {NAMES[left]: authority.settings(files)[NAMES[left]]}
    said = wrong(given)
    for name in NAMES:
        assert (f"{name} is not set" in said) is (name not in given)


def _missing(files: TlsFiles) -> None:
    files.certificate.unlink()


def _no_certificate(files: TlsFiles) -> None:
    files.certificate.write_text("nonsense")


def _no_authority(files: TlsFiles) -> None:
    files.authority.write_text("nonsense")


def _no_key(files: TlsFiles) -> None:
    files.key.write_text("nonsense")


def _of_another(files: TlsFiles) -> None:
    Authority(files.key.parent).issue("another").key.replace(files.key)


def _open_to_all(files: TlsFiles) -> None:
    files.key.chmod(0o644)


def _encrypted(files: TlsFiles) -> None:
    key = load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))


def _ended(files: TlsFiles) -> None:
    Authority(files.key.parent).issue("service", days=-0.01)


@pytest.mark.parametrize(
    ("spoil", "name", "said"),
    [
        (_missing, NAMES[0], "cannot be read (No such file or directory)"),
        (_no_certificate, NAMES[0], "holds no certificate in PEM"),
        (_no_authority, NAMES[2], "holds no certificate in PEM"),
        (_no_key, NAMES[1], "holds no key in PEM"),
        (_of_another, NAMES[1], "is not the key of the certificate in MODELYARD_TLS_CERT_FILE"),
        (_open_to_all, NAMES[1], "is open to other users"),
        (_encrypted, NAMES[1], "the key is encrypted"),
        (_ended, NAMES[0], "the certificate ended at"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    files: TlsFiles, spoil: Callable[[TlsFiles], None], name: str, said: str
) -> None:
    """
    The setting and its file are named, and nothing of what a key file holds.
    """
    spoil(files)
    found = wrong(authority.settings(files))
    assert f"{name}={authority.settings(files)[name]}" in found
    assert said in found
    assert "nonsense" not in found


def test_a_service_says_so_before_it_starts(files: TlsFiles) -> None:
    """
    It is one line on the launcher's stderr, before any worker is started.
    """
    _no_key(files)
    done = subprocess.run(
        [sys.executable, "-m", "services.chassis.tests.probe"],
        cwd=ROOT,
        env={**os.environ, **authority.settings(files)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"{NAMES[1]}={files.key}: the file holds no key in PEM" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_authority_is_made_once_and_keys_are_their_owners_only(tmp_path: Path) -> None:
    """
    A second run has the authority of the first, so that clients go on trusting it.
    """
    first = Authority(tmp_path / "tls")
    first.issue("gateway")
    made = first.certificate.read_bytes()
    Authority(tmp_path / "tls").issue("registry")
    assert first.certificate.read_bytes() == made
    keys = {each.name: each.stat().st_mode & 0o777 for each in (tmp_path / "tls").glob("*.key")}
    assert keys == dict.fromkeys(["ca.key", "gateway.key", "registry.key"], 0o600)
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700
