"""How a worker process of a pool behaves."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading


def leave_ctrl_c_and_end_with_parent() -> None:
    """A process that works beside its parent, who hears Ctrl-C and ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """A process of a pool outlives a killed parent, idle or not, unless it watches."""
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
