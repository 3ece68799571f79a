"""
Versions on the command line: one grammar for all commands (`modelyard.cli.names.VersionRef`), one way to look them up.
"""

from __future__ import annotations

import argparse

from modelyard.cli.errors import RefusedError
from modelyard.cli.names import FORMS, GRAMMAR, LATEST, VersionRef
from modelyard.client import Client
from modelyard.registry.v1 import versions_pb2 as pb


def version_ref(text: str) -> VersionRef:
    """
    A version, for options of commands that change it: which one has to be said.

    Raises:
        argparse.ArgumentTypeError: it is none, or the model alone.
    """
    found = version_or_model(text)
    if found.bare:
        raise argparse.ArgumentTypeError(f"{text!r} names no version: {GRAMMAR}")
    return found


def version_argument(parser: argparse.ArgumentParser) -> None:
    """
    The argument VERSION of a command that is about one.
    """
    parser.add_argument("version", type=version_ref, metavar="VERSION", help=FORMS)


def version_or_model(text: str) -> VersionRef:
    """
    A version, for options; the model alone means its newest READY version.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        return VersionRef.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def resolve(yard: Client, ref: VersionRef) -> str:
    """
    The full name of a version; an alias, or which is the newest, is looked up.

    Raises:
        grpc.RpcError: there is no such model or alias, or none that is READY when the newest is meant.
    """
    return ref.name if ref.number else fetch_version(yard, ref).name


def fetch_version(yard: Client, ref: VersionRef) -> pb.Version:
    """
    A version, in one call.

    Raises:
        grpc.RpcError: there is no such model, alias or version, or none that is READY when the newest is meant.
    """
    if ref.number:
        return yard.versions.GetVersion(pb.GetVersionRequest(name=ref.name))
    return yard.versions.ResolveVersion(pb.ResolveVersionRequest(parent=ref.model, reference=ref.alias or LATEST))


def resolve_in_model(yard: Client, model: str, text: str) -> str:
    """
    The full name of a version of *model*: by its number, an alias or ``latest`` alone, or as other commands take it;
    empty for no text.

    Args:
        model: the model's full name.

    Raises:
        grpc.RpcError: there is no such alias.
        RefusedError: it is no version, or one of another model.
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
