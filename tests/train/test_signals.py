"""Stop signals: the first one asks, the second one leaves."""

import os
import signal
import subprocess
import sys

import jax
import pytest

from active_learning import distributed
from active_learning.train.signals import PreemptionGuard


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_a_stop_and_the_former_handlers_come_back(number):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with PreemptionGuard() as guard:
        assert not guard.requested
        os.kill(os.getpid(), number)
        assert guard.requested
    assert {n: signal.getsignal(n) for n in before} == before


def test_a_second_signal_leaves_at_once():
    code = (
        "import os, signal\n"
        "from active_learning.train.signals import PreemptionGuard\n"
        "with PreemptionGuard() as guard:\n"
        "    os.kill(os.getpid(), signal.SIGINT); print(guard.requested, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('never', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stdout == "True\n"
    assert done.stderr.splitlines()[-1] == "left at once; the same command continues"


def test_all_of_several_processes_are_asked_at_every_update(monkeypatch):
    looks = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        distributed, "preemption_reached", lambda look: looks.append(look) or look == 3
    )
    guard = PreemptionGuard()
    assert [guard.requested for _ in range(5)] == [False, False, True, True, True]
    assert looks == [1, 2, 3]


def test_what_fails_in_one_of_several_processes_stops_all_at_their_common_update(monkeypatch):
    sent = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed, "preemption_reached", lambda look: look == 3)
    monkeypatch.setattr(os, "kill", lambda *words: sent.append(words))
    guard = PreemptionGuard(lambda: True)
    assert [guard.requested for _ in range(4)] == [False, False, True, True]
    assert sent == [(os.getpid(), signal.SIGTERM)]
