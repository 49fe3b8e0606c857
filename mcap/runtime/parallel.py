"""Photos on several threads, their results in the order of the photos."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

MOST = 8
"""More threads than this only hold more pictures in memory: decoding goes one at a time."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def cores() -> int:
    """Return the number of processor cores that this process may use, at most `MOST`."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, MOST)


def threads_for(*parts: Any) -> int:
    """Return `cores` where ``info.thread_safe`` is true of every one of ``parts``, otherwise 1.

    ``parts`` are detectors, identity networks and maskers of `mcap.contracts`.
    """
    return cores() if all(part.info.thread_safe for part in parts) else 1


def ordered_map(
    function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Iterator[_Result]:
    """Yield ``function(item)`` for each item, in the items' order.

    OpenCV, Pillow and numpy let other threads run while they work. At most twice as many items as
    threads are begun before the first result is taken, so that results do not pile up. What
    ``function`` raises is raised at its place, and nothing further is begun.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    import cv2

    pending: deque[Future[_Result]] = deque()
    opencv_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # its own would wait for cores that other items have
    try:
        with ThreadPoolExecutor(threads) as pool:
            try:
                for item in items:
                    pending.append(pool.submit(function, item))
                    if len(pending) >= 2 * threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
    finally:
        cv2.setNumThreads(opencv_threads)
