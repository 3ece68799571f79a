"""
Settings of delivery: missing, incomplete and invalid ones are reported before anything is served.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from services.cdn.delivery_settings import DeliverySettings
from services.chassis.settings import SettingsError, describe, load

BASE = {"MODELYARD_DATABASE_URL": "postgresql://me@localhost/cdn"}


def settings(**environ: str) -> DeliverySettings:
    """
    The settings of an environment.
    """
    return load(DeliverySettings, BASE | environ)


def secret(folder: Path, text: str) -> str:
    """
    A file that only this user can read.
    """
    file = folder / "secret"
    file.touch(0o600)
    file.write_text(text)
    return str(file)


def pem(key: Any) -> str:
    """
    A private key in PEM.
    """
    encryption = serialization.NoEncryption()
    text: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return text.decode()


def test_by_default_s3_signs_and_nothing_is_in_front() -> None:
    """
    By default there is no CloudFront.
    """
    found = settings()
    assert (found.cloudfront_key(), found.edge()) == (None, None)
    assert found.ttl_bounds().usual == 3600


@pytest.mark.parametrize(
    ("media_type", "control"),
    [
        ("text/html", "public, max-age=1"),
        ("Text/HTML; charset=utf-8", "public, max-age=1"),
        ("text/plain", "public, max-age=2"),
        ("image/png", "public, max-age=3"),
        ("", "public, max-age=3"),
    ],
)
def test_the_closest_entry_of_the_table_counts(media_type: str, control: str) -> None:
    """
    The most specific entry applies: the type, then its kind, then *.
    """
    found = settings(MODELYARD_STATIC_AGES="text/html=1, text/*=2,*=3")
    assert found.static_ages.control(media_type) == control


def test_a_table_without_everything_has_the_usual_age() -> None:
    """
    Types without an entry have a max-age of ten minutes.
    """
    assert settings(MODELYARD_STATIC_AGES="text/html=1").static_ages.control("a/b") == "public, max-age=600"


@pytest.mark.parametrize("table", ["text/html", "text/html=x", "text=1", "=1", "text/html=1,,", "*/*=1", "*=-1"])
def test_a_table_that_is_none_is_refused(table: str) -> None:
    """
    The error names the variable.
    """
    with pytest.raises(SettingsError, match="MODELYARD_STATIC_AGES"):
        settings(MODELYARD_STATIC_AGES=table)


@pytest.mark.parametrize("domain", ["https://a.cloudfront.net", "a.cloudfront.net/x", "localhost", "a..b", "a.b?c"])
def test_a_domain_is_a_domain(domain: str) -> None:
    """
    A scheme or a path is rejected.
    """
    with pytest.raises(SettingsError, match="MODELYARD_CLOUDFRONT_DOMAIN"):
        settings(MODELYARD_CLOUDFRONT_DOMAIN=domain)


def test_cloudfront_needs_all_of_its_three(tmp_path: Path) -> None:
    """
    An incomplete signer is rejected.
    """
    with pytest.raises(SettingsError, match="or none"):
        settings(MODELYARD_CLOUDFRONT_DOMAIN="a.cloudfront.net").cloudfront_key()
    key = secret(tmp_path, pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    whole = {
        "MODELYARD_CLOUDFRONT_DOMAIN": "a.cloudfront.net",
        "MODELYARD_CLOUDFRONT_KEY_PAIR_ID": "K",
        "MODELYARD_CLOUDFRONT_PRIVATE_KEY_FILE": key,
    }
    found = settings(**whole).cloudfront_key()
    assert found is not None
    assert "PRIVATE" not in repr(found)


@pytest.mark.parametrize("text", ["nonsense", "elliptic"])
def test_a_key_that_is_none_is_said_without_its_text(tmp_path: Path, text: str) -> None:
    """
    Neither the message nor its cause quotes the file.
    """
    content = pem(ec.generate_private_key(ec.SECP256R1())) if text == "elliptic" else text
    whole = {
        "MODELYARD_CLOUDFRONT_DOMAIN": "a.cloudfront.net",
        "MODELYARD_CLOUDFRONT_KEY_PAIR_ID": "K",
        "MODELYARD_CLOUDFRONT_PRIVATE_KEY_FILE": secret(tmp_path, content),
    }
    with pytest.raises(SettingsError, match="MODELYARD_CLOUDFRONT_PRIVATE_KEY_FILE") as error:
        settings(**whole).cloudfront_key()
    assert content not in str(error.value)
    assert error.value.__suppress_context__


def test_the_keys_of_the_api_come_in_pairs(tmp_path: Path) -> None:
    """
    One key without the other is rejected.
    """
    with pytest.raises(SettingsError, match="or neither"):
        settings(MODELYARD_CLOUDFRONT_ACCESS_KEY_FILE=secret(tmp_path, "x")).edge()


@pytest.mark.parametrize(
    "bounds",
    [
        {"MODELYARD_SIGNED_URL_SECONDS": "59"},
        {"MODELYARD_SIGNED_URL_MOST_SECONDS": "3599"},
        {"MODELYARD_SIGNED_URL_LEAST_SECONDS": "3601"},
    ],
)
def test_the_usual_time_is_within_the_bounds(bounds: dict[str, str]) -> None:
    """
    A default TTL outside the limits is rejected.
    """
    with pytest.raises(SettingsError, match="MODELYARD_SIGNED_URL_SECONDS"):
        settings(**bounds).ttl_bounds()


def test_the_table_of_settings_shows_the_table_of_types() -> None:
    """
    The default is shown as it would be set.
    """
    assert "text/html=300,application/json=300,text/*=600,*=600" in describe(DeliverySettings)
