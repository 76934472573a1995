"""Files that are written while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch


class Writer:
    """Calls functions that write files, one after the other, in the order in which they were given.

    Leaving it as a context waits for them.

    Attributes:
        apart: whether this is done while the caller goes on.

    Args:
        device: of the tensors that they are given; these must not be changed any more.
        apart: on a thread of its own, and on a GPU on a stream of its own. Otherwise at once.
    """

    def __init__(self, device: torch.device, apart: bool) -> None:
        self.apart = apart
        self._pool = ThreadPoolExecutor(1, "writer") if apart else None
        self._stream = torch.cuda.Stream(device) if apart and device.type == "cuda" else None
        self._failed = False
        self._left: list[Future[None]] = []

    def __call__(self, function: Callable[..., object], *given: Any) -> None:
        """Call a function that writes.

        Raises:
            OSError: it could not be written, where that is done at once.
        """
        if self._pool is None:
            function(*given)
            return
        # what the device has not computed yet must not be copied from it
        there = torch.cuda.current_stream().record_event() if self._stream else None
        self._left.append(self._pool.submit(self._write, there, function, given))

    def _write(self, there: Any, function: Callable[..., object], given: tuple[Any, ...]) -> None:
        # a checkpoint that came after what could not be written would speak of files that are not there
        if self._failed:
            return
        try:
            if self._stream:
                with torch.cuda.stream(self._stream):
                    self._stream.wait_event(there)
                    function(*given)
            else:
                function(*given)
        except BaseException:
            self._failed = True
            raise

    @property
    def through(self) -> bool:
        """Whether nothing is left to be written."""
        return all(one.done() for one in self._left)

    def wait(self) -> None:
        """Until everything is written.

        Raises:
            OSError: something could not be.
        """
        left, self._left = self._left, []
        wait(left)
        for one in left:
            one.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown()
