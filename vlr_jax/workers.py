"""Several things at a time, taken in their order."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator


def in_order(function: Callable, items: Iterable, workers: int | None = None) -> Iterator:
    """`function(item)` of all items, in their order, several at a time; at most two a worker wait to be taken.

    Threads: libav, Pillow and reading release Python's lock while they work.

    Args:
        function: of one item; what it raises is raised when its turn comes.
        items: taken only as far as needed.
        workers: None: as many as this process may use cores.
    """
    workers = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
