"""
Versions on the command line: one grammar for all commands (`modelyard.cli.names.VersionRef`), one way to look them up.
"""

from __future__ import annotations

import argparse

from modelyard.cli.errors import RefusedError
from modelyard.cli.names import FORMS, GRAMMAR, LATEST, VersionRef
from modelyard.client import Client
from modelyard.registry.v1 import aliases_pb2
from modelyard.registry.v1 import versions_pb2 as pb


def version_ref(text: str) -> VersionRef:
    """
    A version, for options of commands that change it: which one has to be said.

    Raises:
        argparse.ArgumentTypeError: it is none, or the model alone.
    """
    found = newest_or(text)
    if found.bare:
        raise argparse.ArgumentTypeError(f"{text!r} says no version: {GRAMMAR}")
    return found


def one_version(parser: argparse.ArgumentParser) -> None:
    """
    The argument VERSION of a command that is about one.
    """
    parser.add_argument("version", type=version_ref, metavar="VERSION", help=FORMS)


def newest_or(text: str) -> VersionRef:
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
        grpc.RpcError: there is no such model or alias.
        RefusedError: the newest version is meant, and none is READY.
    """
    if ref.newest:
        return newest(yard, ref.model).name
    if ref.number:
        return ref.name
    return yard.aliases.GetAlias(aliases_pb2.GetAliasRequest(name=ref.name)).version


def of_model(yard: Client, model: str, text: str) -> str:
    """
    The full name of a version of *model*: by its number, an alias or ``latest`` alone, or as other commands take it;
    empty for no text.

    Args:
        model: the model's full name.

    Raises:
        grpc.RpcError: there is no such alias.
        RefusedError: it is no version, one of another model, or the newest is meant and none is READY.
    """
    if not text:
        return ""
    try:
        ref = VersionRef.parse(text if any(mark in text for mark in "/@:") else f"{model}@{text}")
    except ValueError as error:
        raise RefusedError(str(error)) from None
    if ref.model != model:
        raise RefusedError(f"{text} is no version of {model}")
    return resolve(yard, ref)


def newest(yard: Client, model: str) -> pb.Version:
    """
    The newest version of *model* that is READY.

    Raises:
        grpc.RpcError: there is no such model.
        RefusedError: none is.
    """
    request = pb.ListVersionsRequest(parent=model, page_size=1)
    while True:
        response = yard.versions.ListVersions(request)
        for version in response.versions:
            if version.state == pb.Version.STATE_READY:
                return version
        request.page_token = response.next_page_token
        if not request.page_token:
            raise RefusedError(f"{model} has no version that is READY, so none is its {LATEST}")
