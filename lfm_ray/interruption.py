"""Ctrl-C and SIGTERM: the first asks what is running to stop in good order, the second stops it at once."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_last = int(signal.SIGINT)  # that came; Ray makes a plain KeyboardInterrupt of what is raised while it waits
_terminable = False


def _note(number: int) -> None:
    global _last
    _last = number


class Interrupted(KeyboardInterrupt):
    """A command was stopped by a signal. `str` says how to go on; status: of the process, 128 + the signal."""

    def __init__(self, text: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(text)
        self.status = 128 + number

    @classmethod
    def saying(cls, text: str) -> Interrupted:
        """The interruption that is being handled, with words of how to go on."""
        return cls(text, _last)


def status_of(error: KeyboardInterrupt) -> int:
    """The status of a process that ends by it; a plain KeyboardInterrupt is that of the last signal that came."""
    return error.status if isinstance(error, Interrupted) else 128 + _last


class Stop:
    """Whether, and by which signal, it was asked to stop."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within it the first signal is noted, and said; the next one raises `Interrupted`.

    In another thread than the main one, which gets no signals, nothing is ever asked.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        _note(number)
        if stop:
            raise Interrupted(number=number)
        stop.number = number
        with suppress(OSError):
            print("\nstopping, what runs is saved; once more to stop at once", file=sys.stderr, flush=True)

    with handled(handle):
        yield stop


@contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM raises `Interrupted`, as Ctrl-C raises KeyboardInterrupt, so that everything is tidied up.

    Whoever enters it ends the process then (`ends_with_the_process`).
    """
    global _terminable

    def handle(number: int, frame: FrameType | None) -> None:
        _note(number)
        raise Interrupted(number=number)

    with handled(handle, (signal.SIGTERM,)):
        if signal.getsignal(signal.SIGINT) is _end:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _terminable = True
        try:
            yield
        finally:
            _terminable = False


def ends_with_the_process() -> bool:
    """Whether an interruption ends the process, as that of a command does; a notebook's goes on."""
    return _terminable


@contextmanager
def unheeded() -> Iterator[None]:
    """Within it the signals change nothing: for what takes a moment, and is not to be left half done."""
    with kept_handlers():
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        yield


def end_while_starting() -> None:
    """From now on a signal ends the process with one line: nothing is begun while a command's modules are imported.

    A signal that is ignored, as in the background of a shell, stays so.
    """
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, b"error: interrupted before it began\n")
    os._exit(128 + number)


_is_deaf = False


def deaf() -> None:
    """From now on the signals change nothing, and no former handlers are set again: what the process does is done.

    Python would end by a signal, as it gives up its handlers before it ends, and by a KeyboardInterrupt that comes
    when the last function has returned.
    """
    global _is_deaf
    _is_deaf = True
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def none_lost() -> Iterator[None]:
    """At its end a signal that came within it, and that nobody heeded, raises `Interrupted`.

    What a handler raises is swallowed where it comes in a callback of compiled code or a finalizer, and by Ray, which
    has handlers of its own while it starts. So Python is asked to write down the numbers of all signals that come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        former = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(former)
        try:
            came = reading.recv(4096)
        except BlockingIOError:
            return
    for number in came:
        if number in SIGNALS:
            _note(number)
            raise Interrupted(number=number)


@contextmanager
def handled(
    handle: Callable[[int, FrameType | None], None], signals: tuple[signal.Signals, ...] = SIGNALS
) -> Iterator[None]:
    """Sets a handler, and the former ones again at the end."""
    with kept_handlers():
        if threading.current_thread() is threading.main_thread():
            for number in signals:
                signal.signal(number, handle)
        yield


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Sets the handlers of now again at the end, where Ray has put its own: one ends the process without tidying up,
    and one below Python prints a C++ stack."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items() if not _is_deaf else ():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
