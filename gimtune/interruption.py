"""Signals by which a machine, a scheduler or a person asks a program to end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

#: A first one of any of these is a first Ctrl-C: of a terminal; of Kubernetes, systemd and `kill`; of a terminal that
#: is closed; and of Slurm's ``--signal``.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
Shielded = TypeVar("Shielded")
#: Ray sees to SIGINT itself.
_SPARED = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
_STREAMS = (1, 2)


class Interrupted(KeyboardInterrupt):
    """The program was asked to end.

    Attributes:
        number: of the signal.
        code: the exit code that says by which signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.code = number, 128 + number


@contextmanager
def last_word(text: str) -> Iterator[None]:
    """Another process prints ``text`` where this one ends within the context by what no Python code sees.

    Such are SIGKILL, from a person or a kernel without memory, and libraries that end the process that called them.
    """
    # it ends with this process, and not before: not by what is sent to all of a group
    command = ["sh", "-c", 'trap "" TERM HUP INT USR1; echo >&2; read -r _ || printf "%s\\n" "$0"', text]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen(command, **pipes) as witness:
        assert witness.stderr is not None
        # on a busy machine it takes a while until signals pass it over
        witness.stderr.read(1)
        try:
            yield
        finally:
            witness.communicate(b"\n")


class Interruption:
    """The first of `SIGNALS` within its context, and what it does there: raise `Interrupted`, or nothing but be noted.

    A signal that is ignored from outside, as `nohup` has it, stays ignored. Outside of the main thread, where Python
    knows no signals, it does nothing.

    Attributes:
        number: of the first signal, or ``None`` so far.
        noted: whether somebody looks at ``number`` and ends the work himself. A second Ctrl-C raises all the same.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.noted = False
        self._before: dict[signal.Signals, Any] = {}
        self._terminals = [stream for stream in _STREAMS if os.isatty(stream)]

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
            self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Once more, after a library has set handlers of its own."""
        for number in self._before:
            signal.signal(number, self._caught)

    @contextmanager
    def shielded(self, begun: AbstractContextManager[Shielded]) -> Iterator[Shielded]:
        """A context whose entry starts processes that signals to the whole group, and of a closed terminal, are to
        spare: the program ends them in order. Signals meanwhile come when it is entered, whatever handlers it has set.
        """
        with ExitStack() as stack:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SPARED)  # which processes inherit
            try:
                entered = stack.enter_context(begun)
            except SystemExit as error:
                # a library's thread took the signal, and Ray, as it starts, has a handler of its own
                if error.code not in _SPARED:
                    raise
                self.number = self.number or int(error.code)
                raise Interrupted(self.number) from error
            finally:
                self.install()
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SPARED)
            yield entered

    @property
    def code(self) -> int:
        """Exit code of a program that ends by the first signal, or by one that did not reach it."""
        return 128 + (self.number or signal.SIGINT)

    def quiet(self) -> None:
        """Write nowhere if the terminal is gone: each further line would raise an error."""
        for stream in self._terminals:
            if not os.isatty(stream):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.quiet()
        first, self.number = self.number is None, self.number or number
        if (first and not self.noted) or (not first and number == signal.SIGINT):
            raise Interrupted(self.number)
