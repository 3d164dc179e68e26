"""How a worker process of a pool behaves."""

import multiprocessing
import multiprocessing.connection
import os
import threading


def end_with_parent() -> None:
    """A process of a pool outlives a killed parent, idle or not, unless it watches."""
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
