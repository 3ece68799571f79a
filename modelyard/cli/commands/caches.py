"""
`modelyard cache …`
"""

from __future__ import annotations

import argparse

from modelyard.cache.v1 import cache_pb2 as pb
from modelyard.cli.output import Output
from modelyard.cli.parsing import Group, command, subcommands
from modelyard.client import Client


def add(group: Group) -> None:
    """
    Register the commands.
    """
    commands = subcommands(group, "cache", "inspect and control the cache")
    command(commands, "status", status, "show the state of the cache process that responds")
    parser = command(commands, "warm", warm, "load the most-read responses into the cache")
    parser.add_argument(
        "--keys", type=int, default=0, metavar="N", help="number of keys (default: the service's setting)"
    )
    parser.add_argument(
        "--rate", type=int, default=0, metavar="N", help="calls per second (default: the service's setting)"
    )
    parser = command(commands, "flush", flush, "drop all responses in the L1 cache of the process that responds")
    parser.add_argument("--shared", action="store_true", help="also flush the L2 cache in Valkey")
    parser = command(commands, "stats", stats, "show statistics of a namespace of the key-value cache")
    parser.add_argument("namespace", metavar="NAMESPACE")


def status(yard: Client, _args: argparse.Namespace, output: Output) -> None:
    """
    Show the state of one process.
    """
    found = yard.cache_admin.GetStatus(pb.GetStatusRequest())
    facts = [
        ("in memory", f"{found.near_entries:,} answers, {found.near_bytes:,} bytes"),
        ("breaker", found.breaker_state),
    ]
    for stream in found.streams:
        told = f"{stream.age.ToMilliseconds() / 1000:.3f} s old" if stream.connected else "not connected"
        facts.append((f"changes of {stream.service}", f"revision {stream.applied_revision}, {told}"))
    output.one(found, facts)


def warm(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Load what is read most.
    """
    found = yard.cache_admin.Warm(pb.WarmRequest(key_count=args.keys, rate=args.rate))
    output.one(found, [("loaded", f"{found.loaded_count:,}"), ("skipped", f"{found.skipped_count:,}")])


def flush(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Drop answers.
    """
    found = yard.cache_admin.Flush(pb.FlushRequest(shared=args.shared))
    output.one(found, [("dropped", f"{found.dropped_count:,}")])


def stats(yard: Client, args: argparse.Namespace, output: Output) -> None:
    """
    Show a namespace.
    """
    found = yard.keyvalue.Stats(pb.StatsRequest(namespace=args.namespace))
    facts = [
        ("entries", f"{found.entries:,}"),
        ("bytes", f"{found.bytes:,}"),
        ("expired", f"{found.evictions:,}"),
        ("hits", f"{found.hits:,}"),
        ("misses", f"{found.misses:,}"),
    ]
    output.one(found, facts)
