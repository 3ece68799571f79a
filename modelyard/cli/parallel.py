"""
Concurrent transfers with one progress bar, until the first failure.
"""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import grpc

from modelyard.cli.errors import FileError
from modelyard.cli.progress import ProgressBar, amount
from modelyard.client import Client
from modelyard.error_details import explain
from modelyard.transfer import IntegrityError, ProgressCallback

T = TypeVar("T")
R = TypeVar("R")

# Errors that the same command would meet again.
_FOR_GOOD = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DATA_LOSS,
}
# Errors of a full disk: retryable once there is space.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

#: Concurrent transfers.
WORKERS = 4


class StoppedError(Exception):
    """
    Ends a transfer because another one failed, or after Ctrl-C.
    """


class Total:
    """
    The total progress of several transfers.

    Args:
        total: bytes of all transfers.
        bar: called with the sum, by one thread at a time.
    """

    def __init__(self, total: int, bar: ProgressBar) -> None:
        self._lock = threading.Lock()
        self._total = total
        self._bar = bar
        self._stopped = False
        self.done = 0
        self._draw()

    def part(self) -> ProgressCallback:
        """
        The progress callback of one transfer. It raises StoppedError after `stop`.
        """
        last: int | None = None

        def tell(done: int, _total: int) -> None:
            nonlocal last
            with self._lock:
                if self._stopped:
                    raise StoppedError
                if last is None:
                    self._bar.found(done)
                self.done += done - (last or 0)
                last = done
                self._draw()

        return tell

    def _draw(self) -> None:
        # No bar for 0 bytes.
        if self._total:
            self._bar(self.done, self._total)

    def stop(self) -> None:
        """
        End each transfer at its next chunk.
        """
        with self._lock:
            self._stopped = True


def in_parallel(
    yard: Client, do: Callable[[T, ProgressCallback], R], items: Iterable[T], total: Total, name: Callable[[T], str]
) -> list[R]:
    """
    Process items in WORKERS threads.

    Args:
        yard: the client; closed after a failure or Ctrl-C, which cancels its calls.
        do: processes an item; its second argument is a progress callback.
        total: the total progress.
        name: the name of an item in errors.

    Returns:
        The results of *do*, in the order of the items.

    Raises:
        FileError: the first failure of a file, its bytes or a call.
        Exception: any other exception of *do*.
    """

    def named(item: T, told: ProgressCallback) -> R:
        try:
            return do(item, told)
        except (grpc.RpcError, IntegrityError, OSError) as error:
            raise FileError(name(item), error) from error

    with ThreadPoolExecutor(WORKERS, "modelyard") as pool:
        try:
            futures = [pool.submit(named, item, total.part()) for item in items]
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                if future.exception() is not None:
                    future.result()
        except BaseException:
            total.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            yard.close()
            raise
    return [future.result() for future in futures]


@contextmanager
def resumable(title: str, size: int) -> Iterator[Total]:
    """
    Draw a progress bar for transfers of *size* bytes in total. When they are interrupted or fail with a retryable
    error, print how to resume.
    """
    total: Total | None = None
    try:
        with ProgressBar(title) as bar:
            total = Total(size, bar)
            yield total
    except (KeyboardInterrupt, FileError) as error:
        if _is_retryable(error):
            done = total.done if total else 0
            print(
                f"{amount(done, 'B')} of {amount(size, 'B')} done: run the same command again to resume",
                file=sys.stderr,
            )
        raise


def _is_retryable(error: KeyboardInterrupt | FileError) -> bool:
    """
    Whether the same command may get further when it is run again.
    """
    if isinstance(error, KeyboardInterrupt):
        return True
    if isinstance(error.cause, grpc.RpcError):
        return explain(error.cause).code not in _FOR_GOOD
    return isinstance(error.cause, OSError) and error.cause.errno in _FULL
