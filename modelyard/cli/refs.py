"""
Version references on the command line (`modelyard.cli.names.VersionRef`): parsing and resolution.
"""

from __future__ import annotations

import argparse

from modelyard.cli.errors import RefusedError
from modelyard.cli.names import FORMS, GRAMMAR, LATEST, VersionRef
from modelyard.client import Client
from modelyard.registry.v1 import versions_pb2 as pb


def version_ref(text: str) -> VersionRef:
    """
    Parse the reference of a command that changes a version: the model alone is rejected.

    Raises:
        argparse.ArgumentTypeError: *text* is not a version, or is the model alone.
    """
    found = version_or_model(text)
    if found.bare:
        raise argparse.ArgumentTypeError(f"{text!r} names no version: {GRAMMAR}")
    return found


def version_argument(parser: argparse.ArgumentParser) -> None:
    """
    Add the argument VERSION.
    """
    parser.add_argument("version", type=version_ref, metavar="VERSION", help=FORMS)


def version_or_model(text: str) -> VersionRef:
    """
    Parse a reference; the model alone means its newest READY version.

    Raises:
        argparse.ArgumentTypeError: *text* is not a version.
    """
    try:
        return VersionRef.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def resolve(yard: Client, ref: VersionRef) -> str:
    """
    The full name of a version; an alias or the newest version is resolved by a call.

    Raises:
        grpc.RpcError: the model or alias does not exist, or the model has no READY version.
    """
    return ref.name if ref.number else fetch_version(yard, ref).name


def fetch_version(yard: Client, ref: VersionRef) -> pb.Version:
    """
    Get a version in one call.

    Raises:
        grpc.RpcError: the model, alias or version does not exist, or the model has no READY version.
    """
    if ref.number:
        return yard.versions.GetVersion(pb.GetVersionRequest(name=ref.name))
    return yard.versions.ResolveVersion(pb.ResolveVersionRequest(parent=ref.model, reference=ref.alias or LATEST))


def resolve_in_model(yard: Client, model: str, text: str) -> str:
    """
    The full name of a version of *model*, from its number, an alias or ``latest`` alone, or any other reference; empty
    for an empty text.

    Args:
        model: the model's full name.

    Raises:
        grpc.RpcError: the alias does not exist.
        RefusedError: *text* is not a version, or is one of another model.
    """
    if not text:
        return ""
    try:
        ref = VersionRef.parse(text if any(mark in text for mark in "/@:") else f"{model}@{text}")
    except ValueError as error:
        raise RefusedError(str(error)) from None
    if ref.model != model:
        raise RefusedError(f"{text} is not a version of {model}")
    return resolve(yard, ref)
