"""When to stop: on Ctrl-C and SIGTERM, as a request that ends in a checkpoint, and when the parent process is gone."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from types import FrameType

__all__ = ["StopRequest", "end_with_parent", "stop_on_signals", "wait_for"]


class StopRequest:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self.requested = False


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a `StopRequest`; a second one stops at once, without a checkpoint."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stop
        return

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """End this process when its parent is gone: nobody would read what it says, and a resumed run wants its folder."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def wait_for(process: subprocess.Popen[str], stop: StopRequest) -> str:
    """Wait until `process` ends and return what it wrote to its one pipe; a request to stop is passed on to it once."""
    told = False
    while True:
        try:
            output, errors = process.communicate(timeout=0.1)
        except subprocess.TimeoutExpired:
            if stop.requested and not told:
                process.send_signal(signal.SIGINT)
                told = True
        else:
            return (output or errors or "").strip()
