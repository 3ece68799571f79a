"""
`python -m embedded run`: the suite on loopback, until Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from embedded.access import LOGIN, developer_token
from embedded.parts import EmbeddedError
from embedded.stack import Stack, StackSettings
from gateway.browsers import host
from gateway.render import origin

ROOT = Path(__file__).resolve().parents[1]
_STATE = ROOT / ".modelyard" / "run"


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the suite.

    Args:
        argv: the arguments; None means those of the process.

    Returns:
        The exit code: 0 after Ctrl-C or SIGTERM, 1 when it cannot start or go on.
    """
    arguments = _parse(argv)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _interrupt(stop))
    settings = StackSettings(
        state=arguments.state,
        gateway_port=arguments.port,
        workers=arguments.workers,
        access=arguments.access,
        drain_seconds=5,
        host=os.environ.get("MODELYARD_HOST", "envoy"),
        origins=arguments.cors_origin,
        hosts=arguments.host,
        tls=arguments.tls == "on",
        environment={name: os.environ[name] for name in LOGIN if name in os.environ},
    )
    stack = Stack(settings, progress=lambda name, seconds: print(f"  ✓ {name:<12} {seconds:6.2f} s", flush=True))
    began = time.monotonic()
    print("Starting Modelyard; Ctrl-C stops it and keeps the data", flush=True)
    try:
        stack.start()
        print(welcome(stack, arguments.state, time.monotonic() - began), flush=True)
        _started.set()
        stack.serve(stop)
    except KeyboardInterrupt:
        pass
    except EmbeddedError as error:
        print(f"Modelyard cannot {'go on' if _started.is_set() else 'start'}: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        print("Stopping …", flush=True)
        stack.stop()
    print("Stopped; the data is kept", flush=True)
    return 0


_LINE = "\n  "
_started = threading.Event()


def _interrupt(stop: threading.Event) -> None:
    """
    While starting, leave it at once; while serving, end the serving.
    """
    if _started.is_set():
        stop.set()
    else:
        raise KeyboardInterrupt


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m embedded", description=__doc__)
    run = parser.add_subparsers(required=True, metavar="run").add_parser("run", help="start the suite and keep serving")
    run.add_argument("--port", type=_port, default=8080, help="of the gateway; default 8080, 0 means any free one")
    run.add_argument(
        "--workers", type=int, default=1, choices=range(1, 33), metavar="N", help="processes of each service"
    )
    run.add_argument(
        "--access", default="off", choices=["off", "read-public", "on"], help="whether calls need a token; default off"
    )
    run.add_argument(
        "--tls",
        default="off",
        choices=["off", "on"],
        help="TLS at the gateway and between the services, with certificates made for development; default off",
    )
    state = os.environ.get("MODELYARD_STATE", str(_STATE))
    run.add_argument("--state", type=Path, default=Path(state), help="the folder for data, logs and secrets")
    run.add_argument(
        "--cors-origin",
        type=origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="scripts of this site may call, such as http://localhost:5173; may be given again; default none",
    )
    run.add_argument(
        "--host",
        type=host,
        action="append",
        default=[],
        metavar="NAME",
        help="what clients call the gateway besides localhost, such as the name of a proxy; may be given again",
    )
    return parser.parse_args(argv)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to 65535")
    return int(text)


def welcome(stack: Stack, state: Path, seconds: float) -> str:
    """
    What there is and what to try first.
    """
    address = stack.gateway
    metrics = "\n".join(f"  {name:<9} {' '.join(service.metrics)}" for name, service in stack.services.items())
    ca = None if stack.authority is None else stack.authority.certificate
    scheme = "http" if ca is None else "https"
    client, grpcurl, curl = ("", "-plaintext ", "")
    if ca is not None:
        client, grpcurl, curl = (f"{option} {ca} " for option in ("--ca-file", "-cacert", "--cacert"))
    listed, described, bearer, access = f"{address} list", "", "", "off: nobody needs a token"
    if (mode := stack.settings.access) != "off":
        token = developer_token(state)
        client += f"--token-file {token} "
        bearer = f'-H "authorization: Bearer $(cat {token})" '
        # Reflection is closed, so the tool is told what there is.
        described = f"-protoset {state}/contracts.binpb "
        access = f"{mode}; a token for you is in {token}"
        listed = f'-d \'{{"parent": "namespaces/default"}}\' {address} modelyard.registry.v1.ModelService/ListModels'
    top = f"{'' if state == _STATE else f'MODELYARD_STATE={state} '}.venv/bin/modelyard top"
    return f"""
Modelyard is ready after {seconds:.1f} s

  gRPC, gRPC-Web and JSON   {address}
  the page, with a console  {scheme}://{address}/
  Hugging Face Hub          HF_ENDPOINT={scheme}://{address}
  access                    {access}
  state                     {state}{"" if ca is None else f"{_LINE}certificate authority     {ca}"}

Metrics
{metrics}
  {"gateway":<9} {stack.gateway_metrics}

Try
  .venv/bin/modelyard --target {address} {client}models list
  {top}
  grpcurl {grpcurl}{described}{bearer}{listed}
  curl {curl}{bearer}{scheme}://{address}/v1/namespaces/default/models
"""


if __name__ == "__main__":
    sys.exit(main())
