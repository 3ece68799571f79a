"""
Render `gateway/envoy.yaml`: addresses from the caller, routes and services from the contracts' descriptors.

`python -m gateway.render --registry HOST:PORT[,HOST:PORT…] --cache … --cdn … --bucket NAME --descriptors FILE` prints
the configuration and writes the contracts' descriptors to FILE, and the landing page's files to a folder beside it (or
`--site FOLDER`); Envoy reads both. With TLS, SDS files that name the certificates are in a folder `tls` beside it.

Envoy finds the credentials for the bucket itself, as the AWS tools do: AWS_SHARED_CREDENTIALS_FILE, or the role of the
machine, the container or the pod. They need s3:GetObject on assets/* and static/*, and on the same prefixes below zstd/
and gzip/; and s3:ListBucket: without it S3 responds to a missing key with 403 instead of 404.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from gateway import access, access_log, bodies, browsers, doors, draining, limits, site, tls, tls_options
from gateway.access import Tokens
from gateway.access_log import STANDARD_OUTPUT, AccessLog
from gateway.bucket import STATIC_PATH, SYSTEM_CA, Bucket
from gateway.limits import USUAL, Limits
from gateway.openapi.bindings import bindings
from gateway.tls import NO_TLS, Tls
from modelyard.cache.v1 import policy_pb2
from modelyard.contracts import is_internal, services

TEMPLATE = Path(__file__).with_name("envoy.yaml")

Address = tuple[str, int]
#: sockaddr_un of Linux has room for 107 bytes, that of macOS for 103.
LONGEST_SOCKET: Final = 103


@dataclass(frozen=True, slots=True)
class Addresses:
    """
    The addresses of the gateway, of the services (host and port of every worker) and of the bucket, and the options.

    Args:
        admin: the admin socket, which only its user may open.
        origins: allowed CORS origins, such as https://app.example; none by default.
        hosts: allowed host names besides those of loopback. Without any, a gateway that listens on loopback allows only
            those, and any other allows every name.
        tokens: the accepted tokens; None while access control is off.
        limits: rate and resource limits.
        operations: address of /livez, /readyz and /metrics; none by default.
        tls: TLS of the listener and to the services; none by default.
        access_log: destination and sampling of the access log; standard output by default.
        doors: where clients of MLflow, the Hugging Face Hub and OCI registries are served; nowhere by default.
    """

    listen: Address
    admin: Path
    registry: Sequence[Address]
    cache: Sequence[Address]
    cdn: Sequence[Address]
    bucket: Bucket
    origins: Sequence[str] = ()
    hosts: Sequence[str] = ()
    tokens: Tokens | None = None
    limits: Limits = USUAL
    operations: Address | None = None
    tls: Tls = NO_TLS
    access_log: AccessLog = STANDARD_OUTPUT
    doors: Sequence[Address] = ()


def render(addresses: Addresses, descriptors: Path, served: Sequence[Mapping[str, str]] = ()) -> str:
    """
    The configuration as YAML.

    Args:
        addresses: the addresses and options.
        descriptors: the descriptor set, as a path that Envoy can read.
        served: the files of the landing page from `gateway.site.write`; without any there is none.
    """
    values: dict[str, object] = {
        "ADMIN": str(addresses.admin),
        "DRAINING": str(draining.file(addresses.admin)),
        "OPERATIONS": [{"host": at[0], "port": at[1]} for at in [addresses.operations] if at],
        "LISTEN_HOST": addresses.listen[0],
        "LISTEN_PORT": addresses.listen[1],
        "DESCRIPTORS": str(descriptors),
        "SERVICES": [service.full_name for service in services()],
        "REGISTRY_READS": cached_methods("modelyard.registry.v1"),
        "CDN_READS": cached_methods("modelyard.cdn.v1"),
        "REGISTRY_CALLS": other_methods("modelyard.registry.v1", streaming=False),
        "REGISTRY_STREAMS": other_methods("modelyard.registry.v1", streaming=True),
        "CDN_CALLS": other_methods("modelyard.cdn.v1", streaming=False),
        "CDN_STREAMS": other_methods("modelyard.cdn.v1", streaming=True),
        "CACHE_CALLS": other_methods("modelyard.cache.v1", streaming=False),
        "CACHE_STREAMS": other_methods("modelyard.cache.v1", streaming=True),
        "REGISTRY": [_endpoint(address) for address in addresses.registry],
        "CACHE": [_endpoint(address) for address in addresses.cache],
        "CDN": [_endpoint(address) for address in addresses.cdn],
        "REGISTRY_HEALTH": _health("modelyard.registry.v1.ModelService"),
        "CACHE_HEALTH": _health("modelyard.cache.v1.CacheAdminService"),
        "CDN_HEALTH": _health("modelyard.cdn.v1.AssetService"),
        "DOORS": doors.cluster([_endpoint(address) for address in addresses.doors]),
        "DOORS_ROUTES": doors.routes() if addresses.doors else [],
        "SITE": list(served),
        "STREAMS": streams(),
        "GRPC_LUA": TEMPLATE.with_name("grpc.lua").read_text().replace("${GRACE}", str(limits.GRACE)),
        **bodies.values(),
        **_bytes(addresses.bucket),
        **tls.values(
            addresses.tls,
            {
                "registry": addresses.registry,
                "cdn": addresses.cdn,
                "cache": addresses.cache,
                "doors": addresses.doors,
            },
        ),
        **access.values(addresses.tokens),
        **addresses.limits.values(access.refused(addresses.tokens)),
        **browsers.values(addresses.origins, browsers.hosts(addresses.listen[0], addresses.hosts)),
        **addresses.access_log.values(),
    }
    template = yaml.load(TEMPLATE.read_text(), Loader=yaml.CSafeLoader)
    # The x- keys only hold the anchors.
    parts = {key: part for key, part in template.items() if not key.startswith("x-")}
    # Strings with other than ASCII characters would be escaped on one long line.
    return yaml.dump(_fill(parts, values), Dumper=_NoAliases, sort_keys=False, width=120, allow_unicode=True)


def _health(service: str) -> str:
    """
    The body of a health check of *service*, a HealthCheckRequest as a message of gRPC, in hexadecimal.
    """
    request: bytes = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    return (b"\0" + len(request).to_bytes(4, "big") + request).hex()


def descriptor_set() -> bytes:
    """
    The contracts with their imports for the transcoder: a serialised FileDescriptorSet.

    It includes google.rpc error details, which the transcoder renders as JSON.
    """
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in files:
            for needed in file.dependencies:
                add(needed)
            # A file comes after its imports.
            files[file.name] = file

    for service in services():
        add(service.file)
    add(error_details_pb2.DESCRIPTOR)
    found = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(found.file.add())
    return found.SerializeToString()


def cached_methods(package: str) -> list[str]:
    """
    The gRPC paths of a package's RPCs that declare a cache policy.
    """
    return [
        f"/{service.full_name}/{method.name}"
        for service in services()
        if service.file.package == package
        for method in service.methods
        if _is_cached(method)
    ]


def other_methods(package: str, *, streaming: bool) -> list[str]:
    """
    The gRPC paths of a package's other RPCs that clients may call: those that stream in either direction, or those
    that do not.
    """
    return [
        f"/{service.full_name}/{method.name}"
        for service in services()
        if service.file.package == package
        for method in service.methods
        if not _is_cached(method)
        and not is_internal(method)
        and (method.client_streaming or method.server_streaming) == streaming
    ]


def streams() -> list[str]:
    """
    The JSON paths of the RPCs that answer with a stream, as regular expressions.
    """
    return [
        binding.regex
        for service in services()
        for method in service.methods
        if method.server_streaming
        for binding in bindings(method)
    ]


def _bytes(bucket: Bucket) -> dict[str, object]:
    return {
        "ASSETS_LUA": TEMPLATE.with_name("assets.lua").read_text(),
        "CONDITIONS_LUA": TEMPLATE.with_name("conditions.lua").read_text(),
        "STATIC_PATH": STATIC_PATH,
        "S3": [_endpoint(bucket.address)],
        "S3_HOST": bucket.host,
        "S3_LUA": TEMPLATE.with_name("s3.lua").read_text(),
        "S3_PATH": bucket.path,
        "S3_REGION": bucket.region,
        "S3_TRANSPORT": bucket.transport(),
    }


def _is_cached(method: MethodDescriptor) -> bool:
    return bool(method.GetOptions().HasExtension(policy_pb2.policy))


def _endpoint(address: Address) -> dict[str, object]:
    return {"endpoint": {"address": {"socket_address": {"address": address[0], "port_value": address[1]}}}}


def _fill(part: object, values: Mapping[str, object]) -> object:
    if isinstance(part, dict):
        filled = {key: _fill(value, values) for key, value in part.items()}
        return {key: value for key, value in filled.items() if value is not None}
    if isinstance(part, list):
        return [item for value in part for item in _repeat(value, values)]
    if isinstance(part, str) and (name := re.fullmatch(r"\$\{([A-Z0-9_]+)(?:\.([a-z]+))?\}", part)):
        value = values[name[1]]
        return value[name[2]] if name[2] and isinstance(value, Mapping) else value
    return part


def _repeat(item: object, values: Mapping[str, object]) -> Iterator[object]:
    """
    Render a list item once, or for each value of the list in its `for each`.
    """
    if not isinstance(item, dict) or "for each" not in item:
        yield _fill(item, values)
        return
    each = _fill(item["for each"], values)
    rest = {key: value for key, value in item.items() if key != "for each"}
    for value in each if isinstance(each, list) else []:
        yield _fill(rest, {**values, "EACH": value})


class _NoAliases(yaml.CSafeDumper):
    """
    Writes YAML without aliases, which Envoy's parser does not support reliably.
    """

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: _NoAliases, text: str) -> yaml.ScalarNode:
    # A script stays readable in the rendered file.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text.strip() else None)


_NoAliases.add_representer(str, _text)


def _addresses(text: str) -> list[Address]:
    def one(part: str) -> Iterator[Address]:
        host, colon, port = part.strip().rpartition(":")
        if not colon or not host or not port.isdecimal():
            raise argparse.ArgumentTypeError(f"{part!r} is not host:port")
        yield host, int(port)

    return [address for part in text.split(",") for address in one(part)]


def origin(text: str) -> str:
    """
    Parse a CORS origin: http(s)://host[:port].
    """
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an origin: http://host[:port] or https://host[:port]")
    return text


def _bucket(found: argparse.Namespace, parser: argparse.ArgumentParser) -> Bucket:
    style = found.s3_style or ("path" if found.s3 else "virtual-host")
    try:
        return Bucket(found.bucket, found.region, found.s3, style == "virtual-host", found.s3_ca)
    except ValueError as error:
        parser.error(str(error))


def _limits(found: argparse.Namespace, parser: argparse.ArgumentParser) -> Limits:
    try:
        return limits.parse(found)
    except ValueError as error:
        parser.error(str(error))


def _socket(found: argparse.Namespace, parser: argparse.ArgumentParser) -> Path:
    path: Path = (found.admin or found.descriptors.with_name("admin.sock")).absolute()
    if len(str(path).encode()) > LONGEST_SOCKET:
        parser.error(f"--admin: a socket's path has at most {LONGEST_SOCKET} bytes: {path}")
    return path


def _access_log(found: argparse.Namespace, parser: argparse.ArgumentParser) -> AccessLog:
    try:
        return access_log.parse(found)
    except ValueError as error:
        parser.error(str(error))


def _tls(found: argparse.Namespace, parser: argparse.ArgumentParser) -> Tls:
    try:
        return tls_options.parse(found, found.descriptors.with_name("tls"))
    except ValueError as error:
        parser.error(str(error))


def _tokens(found: argparse.Namespace, parser: argparse.ArgumentParser) -> Tokens | None:
    try:
        return access.parse(found)
    except ValueError as error:
        parser.error(str(error))


def main(argv: Sequence[str] | None = None) -> None:
    """
    Print the configuration for the options in *argv*, by default those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", type=_addresses, default=[("0.0.0.0", 8080)], help="default 0.0.0.0:8080")  # noqa: S104 - a container's only listener
    parser.add_argument(
        "--admin", type=Path, metavar="FILE", help="admin socket; default admin.sock beside the descriptors"
    )
    parser.add_argument(
        "--operations",
        type=_addresses,
        metavar="HOST:PORT",
        help="address of /livez, /readyz and /metrics; default none",
    )
    for service in ("registry", "cache", "cdn"):
        parser.add_argument(f"--{service}", type=_addresses, required=True, metavar="HOST:PORT[,…]")
    parser.add_argument(
        "--doors",
        type=_addresses,
        default=[],
        metavar="HOST:PORT[,…]",
        help="where clients of MLflow, the Hugging Face Hub and OCI registries are served; default nowhere",
    )
    parser.add_argument("--bucket", required=True, metavar="NAME", help="the bucket of the asset service")
    parser.add_argument("--region", default="us-east-1", help="region of the bucket; default us-east-1")
    parser.add_argument("--s3", metavar="URL", help="an S3-compatible server, http:// or https://; default AWS")
    parser.add_argument(
        "--s3-style",
        choices=["path", "virtual-host"],
        help="S3 addressing style; default virtual-host on AWS (names with dots need path), path elsewhere",
    )
    parser.add_argument(
        "--s3-ca", type=Path, default=SYSTEM_CA, metavar="FILE", help=f"CA bundle for https; default {SYSTEM_CA}"
    )
    parser.add_argument(
        "--cors-origin",
        type=origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="allowed CORS origin, such as https://app.example; repeatable; default none",
    )
    parser.add_argument(
        "--host",
        type=browsers.host,
        action="append",
        default=[],
        metavar="NAME",
        help="allowed host name, without the port, besides localhost; *.example allows all subdomains; repeatable; "
        "default any, or only localhost if it listens on loopback",
    )
    parser.add_argument("--descriptors", type=Path, required=True, metavar="FILE", help="write the descriptor set here")
    parser.add_argument(
        "--site", type=Path, metavar="FOLDER", help="write the landing page here; default site beside the descriptors"
    )
    access.add_arguments(parser)
    limits.add_arguments(parser)
    tls_options.add_arguments(parser)
    access_log.add_arguments(parser)
    found = parser.parse_args(argv)
    tokens, bounds = _tokens(found, parser), _limits(found, parser)
    services_at = (found.registry, found.cache, found.cdn)
    secure, bucket = _tls(found, parser), _bucket(found, parser)
    addresses = Addresses(
        found.listen[0],
        _socket(found, parser),
        *services_at,
        bucket,
        found.cors_origin,
        found.host,
        tokens=tokens,
        limits=bounds,
        operations=found.operations[0] if found.operations else None,
        tls=secure,
        access_log=_access_log(found, parser),
        doors=found.doors,
    )
    try:
        access.check(found)
    except ValueError as error:
        parser.error(str(error))
    tls.write(secure)
    found.descriptors.write_bytes(descriptor_set())
    served = site.write((found.site or found.descriptors.with_name("site")).absolute(), tokens)
    sys.stdout.write(render(addresses, found.descriptors, served))


if __name__ == "__main__":
    main()
