"""
The Envoy configuration of one worker: a listener for HTTP/2 with prior knowledge, and the service behind it.
"""

from __future__ import annotations

from typing import Any

from pyvoy import PyvoyServer

from services.chassis.hosts.headers import ARRIVAL
from services.chassis.settings import Address

APP = "services.chassis.hosts.entry:app"
STAT_PREFIX = "modelyard"
_HEADER_MUTATION = "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
ACTIVE_CONNECTIONS = f"http.{STAT_PREFIX}.downstream_cx_active"

_MIB = 1 << 20
# Named as what Envoy makes of it: a resource whose use a file tells, between 0 and 1.
_DRAINING = "envoy.resource_monitors.injected_resource"
_HTTP_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def envoy_config(
    listen: Address, admin: str, draining: str, tls: dict[str, Any] | None = None, connection_age: float = 0
) -> dict[str, Any]:
    """
    The configuration, ready for `--config-yaml` (JSON is YAML).

    Args:
        listen: where to serve.
        admin: path of the unix socket for Envoy's administration, in a folder that nobody else can enter.
        draining: path of an existing file beside it, which says "0", and "1" once idle connections are to be closed.
        tls: the transport socket of the listener; None means plain text.
        connection_age: seconds after which a connection is asked to go elsewhere; 0 means never.
    """
    return {
        # Without one, Envoy takes no certificates from files that change.
        "node": {"id": "modelyard-worker", "cluster": "modelyard"},
        "admin": {"address": {"pipe": {"path": admin, "mode": 0o600}}},
        "overload_manager": _overload_manager(draining),
        # Only what the drain reads: a service's metrics are its own (MODELYARD_METRICS).
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [{"exact": ACTIVE_CONNECTIONS}]}}},
        # By default Envoy closes a connection once 500 calls have ended on it and most of them were cancelled within a
        # second: a defence for the edge. Here a gateway's connection carries many clients' calls, and when a dependency
        # is slow, short deadlines cancel most of them; closing it would fail the others too.
        "layered_runtime": {
            "layers": [
                {
                    "name": "static",
                    "static_layer": {
                        "overload.premature_reset_total_stream_count": 1_000_000_000,
                        # That codec loses the trailers of an answer that takes the connection's window to its last byte
                        # (https://github.com/envoyproxy/envoy/issues/40821).
                        "envoy.reloadable_features.http2_use_oghttp2": False,
                    },
                }
            ]
        },
        "static_resources": {"listeners": [_listener(listen, tls, connection_age)]},
    }


def _overload_manager(draining: str) -> dict[str, Any]:
    """
    Lets a drain end idle connections in order: GOAWAY, `drain_timeout`, a last GOAWAY, the end. Whatever else makes
    Envoy send GOAWAY waits for a response, and an idle connection that is closed without one loses the call that is on
    its way.
    """
    kind = "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig"
    scale = "envoy.config.overload.v3.ScaleTimersOverloadActionConfig"
    return {
        # How long it may take until the file is noticed.
        "refresh_interval": "0.1s",
        "resource_monitors": [
            {"name": _DRAINING, "typed_config": {"@type": f"type.googleapis.com/{kind}", "filename": draining}}
        ],
        "actions": [
            {
                "name": "envoy.overload_actions.reduce_timeouts",
                "triggers": [{"name": _DRAINING, "scaled": {"scaling_threshold": 0.5, "saturation_threshold": 1}}],
                "typed_config": {
                    "@type": f"type.googleapis.com/{scale}",
                    # A connection that is newer than this may not have said a word, and would be closed without one;
                    # a gateway's first call on it may be under way.
                    "timer_scale_factors": [{"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": "0.2s"}],
                },
            }
        ],
    }


def _listener(listen: Address, tls: dict[str, Any] | None, connection_age: float) -> dict[str, Any]:
    return {
        "name": "grpc",
        "address": {"socket_address": {"address": listen.host, "port_value": listen.port}},
        # A taken port has to be an error, not a share of somebody else's calls.
        "enable_reuse_port": False,
        # What may wait in memory for a client that reads slowly, per connection and per stream.
        "per_connection_buffer_limit_bytes": _MIB,
        "filter_chains": [
            {
                **({} if tls is None else {"transport_socket": tls, "transport_socket_connect_timeout": "10s"}),
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _http_manager(connection_age),
                    },
                ],
            }
        ],
    }


def _http_manager(connection_age: float) -> dict[str, Any]:
    age = {"common_http_protocol_options": {"max_connection_duration": f"{connection_age}s"}} if connection_age else {}
    return {
        **age,
        "@type": _HTTP_MANAGER,
        "stat_prefix": STAT_PREFIX,
        "codec_type": "HTTP2",
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        # A call waits for Python's event loop before anything of ours sees it, and under load most of its time: so the
        # clock starts here (`headers.waited`). What a client sends of that name is overwritten.
        "early_header_mutation_extensions": [
            {
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {
                    "@type": _HEADER_MUTATION,
                    "mutations": [
                        {
                            "append": {
                                "header": {"key": ARRIVAL.decode(), "value": "%START_TIME(%s.%6f)%"},
                                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                            }
                        }
                    ],
                },
            }
        ],
        # Streams may be silent for as long as they like; deadlines are the caller's, and kept by the chassis.
        "stream_idle_timeout": "0s",
        # Far above what the chassis takes (16 KiB): it answers RESOURCE_EXHAUSTED, where Envoy would end the
        # connection.
        "max_request_headers_kb": 1024,
        # Between the two GOAWAYs of a drain: calls that were under way to us when the first one left are served.
        "drain_timeout": "1s",
        # One bad request must not end the calls beside it.
        "http2_protocol_options": {
            "max_concurrent_streams": 10_000,
            "initial_stream_window_size": _MIB,
            "initial_connection_window_size": 64 * _MIB,
            "override_stream_error_on_invalid_http_message": True,
            # The codec, nghttp2, ends a connection after 1,000 cancelled calls and 33 more per second: the same defence
            # once more.
            "stream_reset_burst": 1_000_000_000,
            "stream_reset_rate": 1_000_000_000,
            # The default of 10,000 takes a client that reads a stream of small messages slowly for an attack, and
            # closes its connection. What waits is bounded in bytes, above.
            "max_outbound_frames": 1_000_000,
            "max_header_field_size_kb": 256,
        },
        "local_reply_config": {"mappers": [_unknown_method()]},
        "route_config": {"virtual_hosts": [{"name": "grpc", "domains": ["*"]}]},
        "http_filters": [_odd_paths(), *_pyvoy_filters()],
    }


def _unknown_method() -> dict[str, Any]:
    # As the chassis says it of any other path that is no method's.
    return {
        "filter": {"response_flag_filter": {"flags": ["FI"]}},
        "body_format_override": {"text_format_source": {"inline_string": "Method not found!"}},
    }


def _odd_paths() -> dict[str, Any]:
    """
    Answers requests whose path has an escape or is not ASCII: no method has such a path, and pyvoy, which decodes them,
    would never answer one that is not UTF-8.
    """
    return {
        "name": "odd-paths",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            # To gRPC it goes as UNIMPLEMENTED.
            "abort": {"http_status": 404, "percentage": {"numerator": 100}},
            "headers": [
                {"name": ":path", "string_match": {"safe_regex": {"regex": "[!-$&-~]*"}}, "invert_match": True},
            ],
        },
    }


def _pyvoy_filters() -> list[dict[str, Any]]:
    # How Envoy loads the module is pyvoy's business: take that part from the configuration that it makes.
    made: dict[str, Any] = PyvoyServer(APP, lifespan=True, loop="uvloop", worker_threads=1).get_envoy_config()
    manager = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][-1]["typed_config"]
    filters: list[dict[str, Any]] = manager["http_filters"]
    return filters
