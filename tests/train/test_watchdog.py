"""The watchdog bites where no update comes, and at no other time."""

import subprocess
import sys
import threading
import time

from active_learning.settings import Evaluate, Log, Select
from active_learning.train import loop, watchdog
from active_learning.train.watchdog import Watchdog
from tests import world

SECOND = 1 / 60  # In minutes.

STUCK = """
import sys, time
from pathlib import Path
from active_learning.train.watchdog import Watchdog

def waits_for_ever():
    time.sleep(600)

with Watchdog(0.3 / 60, Path(sys.argv[1])) as dog:
    dog.beat(41)
    waits_for_ever()
"""


def test_a_stuck_process_writes_its_stacks_and_ends_with_code_3(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STUCK, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 3
    written = (tmp_path / "hosts" / "0.log").read_text()
    assert "no update for 0.005 minutes, the last one was 41" in written
    assert "in waits_for_ever" in written
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no update for 0.005 minutes") and "hosts/0.log" in line


def test_updates_and_pauses_keep_it_quiet(tmp_path, monkeypatch):
    bites = []
    monkeypatch.setattr(Watchdog, "_end", lambda dog: bites.append(dog))
    with Watchdog(0.7 * SECOND, tmp_path) as dog:
        for step in range(10):
            dog.beat(step)
            time.sleep(0.1)
        with dog.paused():
            time.sleep(1)
    time.sleep(0.6)  # It is off.
    assert not bites
    with Watchdog(0.0, tmp_path):
        time.sleep(0.1)
    assert not bites


def test_a_run_is_watched_but_not_while_it_compiles(tmp_path, monkeypatch):
    data, stuck, released = world.write_arrays(tmp_path), [], threading.Event()
    monkeypatch.setattr(watchdog, "_leave", lambda: (stuck.append(True), released.set()))
    plain = {
        "select": Select(),
        "evaluate": Evaluate(every="100 %", subset=60),
        "total": "4 steps",
        "log": Log(every="50 %", snapshots=0, watchdog_minutes=3 * SECOND),
    }
    compiles, updates = loop.UpdateRunner.compile, loop.UpdateRunner.__call__

    def slow_compile(self, state, active):
        time.sleep(4)
        assert not stuck
        compiles(self, state, active)

    def third_hangs(self, state, active, more):
        if int(state.step) == 2:
            assert not stuck
            assert released.wait(120)
        return updates(self, state, active, more)

    monkeypatch.setattr(loop.UpdateRunner, "compile", slow_compile)
    monkeypatch.setattr(loop.UpdateRunner, "__call__", third_hangs)
    loop.run(world.config(data, **plain), tmp_path / "run")
    assert stuck == [True]
    written = (tmp_path / "run" / "hosts" / "0.log").read_text()
    assert "the last one was 2" in written and "in third_hangs" in written
