"""
Calls that have ended, of which somebody still speaks.
"""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import asyncio

import grpc

from services.chassis.access.callers import Proxies
from services.chassis.serving.calls import Method
from services.chassis.interceptors.call_context import CurrentCall


async def main():
    kept = []

    async def serve(request, context):
        kept.append(context)
        return b""

    server = grpc.aio.server()
    served = grpc.unary_unary_rpc_method_handler(serve)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.B", {"C": served})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.unary_unary("/a.B/C")(b"", metadata=[("x-modelyard-subject", "ada")])
    await server.stop(0)
    call = CurrentCall(Method.of("a.B", "C", served), kept[0], Proxies())
    print(repr(call.caller), call.client)


asyncio.run(main())
"""


def test_who_called_is_asked_after_the_end() -> None:
    """
    grpcio ends the process that asks a call for its peer once it has ended: nobody asks it then, be it a line of the
    log that is written late.
    """
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "'' unknown:\n"), done.stderr


_CANCELLED = """
import asyncio

import grpc

from services.chassis.access.callers import Proxies
from services.chassis.serving.calls import Method
from services.chassis.interceptors.call_context import CurrentCall


async def main():
    kept, began = [], asyncio.Event()

    async def serve(request, context):
        kept.append(CurrentCall(Method.of("a.B", "C", served), context, Proxies()))
        began.set()
        await asyncio.sleep(60)

    server = grpc.aio.server()
    served = grpc.unary_unary_rpc_method_handler(serve)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.B", {"C": served})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/a.B/C")(b"", metadata=[("x-modelyard-subject", "ada")])
        await began.wait()
        call.cancel()
        while any("HandleExceptions" in task.get_name() for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        print(kept[0].context.done(), repr(kept[0].caller), kept[0].client)
    await server.stop(0)


asyncio.run(main())
"""


def test_who_called_is_known_after_a_cancellation() -> None:
    """
    Work that outlives a cancelled call, such as a load that other callers wait for, may ask who called: grpcio has
    released the call then, but does not report it as done.
    """
    done = subprocess.run([sys.executable, "-c", _CANCELLED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "False 'ada' 127.0.0.1\n"), done.stderr
