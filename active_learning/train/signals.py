"""SIGTERM and Ctrl-C: save at the next update and return; a second signal leaves at once."""

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax

from active_learning import distributed

# What `signal.signal` returns.
_Handler = Callable[[int, FrameType | None], Any] | int | None

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class PreemptionGuard:
    """Turns SIGTERM and SIGINT into a request to stop, inside its `with` block.

    All of several processes stop at the same update, whichever of them received the signal. A
    second signal ends the process at once, with the exit code that shells use for it; what the
    last checkpoint holds is kept. Outside of the block the former handlers are back.

    Args:
      failed: Another reason to stop; one process that has it stops all.
    """

    def __init__(self, failed: Callable[[], bool] = lambda: False):
        self._requested, self._looks, self._received = False, 0, False
        self._failed = failed
        self._former: dict[int, _Handler] = {}

    @property
    def requested(self) -> bool:
        """Whether to stop before the next update; to be read once for every update."""
        if jax.process_count() > 1 and not self._requested:
            self._looks += 1
            if self._failed() and not self._received:
                self._received = True
                os.kill(os.getpid(), signal.SIGTERM)  # JAX tells all.
            self._requested = distributed.preemption_reached(self._looks)
            return self._requested
        return self._requested or self._failed()

    def __enter__(self) -> "PreemptionGuard":
        # In several processes SIGTERM belongs to JAX, which tells all of them; SIGINT is passed on.
        handled = _SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)
        with contextlib.suppress(ValueError):  # outside of the main thread nothing is handled
            for number in handled:
                self._former[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame) -> None:
        if self._received:
            _say("left at once; the same command continues")
            os._exit(128 + number)
        self._received = True
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._requested = True
        _say("stopping after this update; a second signal leaves at once")

    def __exit__(self, *_) -> None:
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}


def _say(text: str) -> None:
    """Writes a line to stderr, past the buffer that the signal may have interrupted."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode() + b"\n")
