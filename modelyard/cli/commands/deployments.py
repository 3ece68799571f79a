"""
`modelyard deployments …`
"""

from __future__ import annotations

import argparse
import uuid
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from modelyard.cli.errors import RefusedError
from modelyard.cli.names import DEFAULT_NAMESPACE, FORMS, model_name, namespace_name
from modelyard.cli.output import Column, Output, pairs, time_of
from modelyard.cli.parsing import (
    Group,
    all_pages,
    command,
    limit_argument,
    namespace_argument,
    namespace_of,
    pair,
    subcommands,
)
from modelyard.cli.refs import resolve, version_or_model, version_ref
from modelyard.client import Client
from modelyard.registry.v1 import deployments_pb2 as pb

_STATES = [name.removeprefix("STATE_").lower() for name in pb.Deployment.State.keys()[1:]]


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "deployments", "manage deployments: which version runs where")
    parser = command(commands, "list", list_, "list the deployments of a namespace")
    namespace_argument(parser)
    parser.add_argument("--model", default="", help="only of this model")
    parser.add_argument("--environment", default="", help="only in this environment")
    parser.add_argument("--version", type=version_ref, metavar="VERSION", help=f"only of this: {FORMS}")
    parser.add_argument("--state", choices=_STATES, action="append", default=[], help="only in this state; repeatable")
    limit_argument(parser)
    _deployment(command(commands, "get", get, "show a deployment"))
    parser = command(commands, "create", create, "register a deployment of a version")
    _deployment(parser)
    parser.add_argument("version", type=version_or_model, metavar="VERSION", help=f"MODEL for its newest; or {FORMS}")
    parser.add_argument("--environment", required=True, help="such as production")
    parser.add_argument("--endpoint", default="", help="URL or address of the endpoint")
    parser.add_argument("--replicas", type=int, default=0, metavar="N")
    parser.add_argument("--label", type=pair, action="append", default=[], metavar="KEY=VALUE")
    parser = command(commands, "update", update, "change a deployment; another version begins a rollout")
    _deployment(parser)
    parser.add_argument("--version", type=version_ref, metavar="VERSION", help="MODEL@3 or MODEL@production")
    parser.add_argument("--environment", help="such as production")
    parser.add_argument("--endpoint", help="URL or address of the endpoint")
    parser.add_argument("--replicas", type=int, metavar="N")
    parser.add_argument("--message", help="message about its state")
    parser.add_argument(
        "--label", type=pair, action="append", metavar="KEY=VALUE", help="replacement of all labels; repeatable"
    )
    parser.add_argument("--clear-labels", action="store_true", help="remove all labels")
    parser = command(commands, "delete", delete, "remove a deployment that is retired or failed; its id is free again")
    _deployment(parser)
    parser.add_argument("--force", action="store_true", help="delete it in any state")
    parser = command(commands, "status", status, "report the state of a deployment")
    _deployment(parser)
    parser.add_argument("state", choices=_STATES)
    parser.add_argument("--message", default="", help="why")
    _deployment(command(commands, "watch", watch, "show the state of a deployment and follow its changes"))


def _deployment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("deployment", metavar="DEPLOYMENT", help="edge-1, default/edge-1 or the full name")


def _split(text: str) -> tuple[str, str]:
    """
    The full name of the namespace, and the deployment's id.
    """
    if text.startswith("namespaces/"):
        parent, _, deployment = text.partition("/deployments/")
        return parent, deployment
    namespace, _, deployment = text.rpartition("/")
    return namespace_name(namespace or DEFAULT_NAMESPACE), deployment


def _name(text: str) -> str:
    return "/deployments/".join(_split(text))


def list_(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    List the deployments of a namespace.
    """
    request = pb.ListDeploymentsRequest(
        parent=namespace_of(args),
        model=model_name(args.model) if args.model else "",
        environment=args.environment,
        version=resolve(yard, args.version) if args.version else "",
        states=[pb.Deployment.State.Value(f"STATE_{each.upper()}") for each in args.state],
    )
    columns: list[Column[pb.Deployment]] = [
        Column("DEPLOYMENT", lambda each: each.name.rpartition("/")[2]),
        Column("ENVIRONMENT", lambda each: each.environment),
        Column("STATE", state),
        Column("VERSION", lambda each: each.version.partition("/models/")[2].replace("/versions/", "@")),
        Column("UPDATED", lambda each: time_of(each.update_time)),
    ]
    found = all_pages(yard.deployments.ListDeployments, request, "deployments", args.limit)
    output.many(found, columns, "no deployments")


def get(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show a deployment.
    """
    show(output, yard.deployments.GetDeployment(pb.GetDeploymentRequest(name=_name(args.deployment))))


def create(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Register that a version is about to run somewhere.
    """
    parent, deployment_id = _split(args.deployment)
    deployment = pb.Deployment(
        version=resolve(yard, args.version),
        environment=args.environment,
        endpoint=args.endpoint,
        replicas=args.replicas,
        labels=dict(args.label),
    )
    request = pb.CreateDeploymentRequest(
        parent=parent, deployment_id=deployment_id, deployment=deployment, request_id=uuid.uuid4().hex
    )
    show(output, yard.deployments.CreateDeployment(request))


def update(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Change the fields that options give.
    """
    labels = {} if args.clear_labels else dict(args.label) if args.label is not None else None
    fields = {
        "version": resolve(yard, args.version) if args.version else None,
        "environment": args.environment,
        "endpoint": args.endpoint,
        "replicas": args.replicas,
        "status_message": args.message,
        "labels": labels,
    }
    given: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    if not given:
        raise RefusedError("say what to change: --version, --endpoint, --replicas, …")
    request = pb.UpdateDeploymentRequest(
        deployment=pb.Deployment(name=_name(args.deployment), **given),
        update_mask=FieldMask(paths=list(given)),
        request_id=uuid.uuid4().hex,
    )
    show(output, yard.deployments.UpdateDeployment(request))


def delete(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Remove a deployment.
    """
    name = _name(args.deployment)
    request = pb.DeleteDeploymentRequest(name=name, force=args.force, request_id=uuid.uuid4().hex)
    yard.deployments.DeleteDeployment(request)
    output.note(f"deleted {name}")


def status(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Say how a deployment stands.
    """
    request = pb.UpdateDeploymentStatusRequest(
        name=_name(args.deployment),
        state=pb.Deployment.State.Value(f"STATE_{args.state.upper()}"),
        status_message=args.message,
        request_id=uuid.uuid4().hex,
    )
    show(output, yard.deployments.UpdateDeploymentStatus(request))


def watch(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show the state of a deployment and each change of it, until Ctrl-C or until it is deleted.
    """
    for answer in yard.deployments.WatchDeployment(pb.WatchDeploymentRequest(name=_name(args.deployment))):
        deployment = answer.deployment
        message = f"  {deployment.status_message}" if deployment.status_message else ""
        output.line(deployment, f"{time_of(deployment.update_time)}  {state(deployment)}{message}")


def state(deployment: pb.Deployment) -> str:
    """
    The state as people write it.
    """
    return pb.Deployment.State.Name(deployment.state).removeprefix("STATE_").lower()


def show(output: Output, deployment: pb.Deployment) -> None:
    """
    Print a deployment.
    """
    facts = [
        ("name", deployment.name),
        ("version", deployment.version),
        ("environment", deployment.environment),
        ("state", state(deployment)),
        ("message", deployment.status_message),
        ("endpoint", deployment.endpoint),
        ("replicas", str(deployment.replicas or "")),
        ("labels", pairs(deployment.labels.items())),
        ("created", time_of(deployment.create_time)),
        ("updated", time_of(deployment.update_time)),
        ("revision", str(deployment.revision)),
    ]
    output.one(deployment, facts)
