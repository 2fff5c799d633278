"""Commands by the workers of a Ray cluster: with Ray itself where it is installed, and its answers
to failures with an object that has its few functions.
"""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest

from active_learning import prepare
from active_learning.arguments import without_flag
from active_learning.config import ConfigError
from active_learning.data.errors import DataError
from active_learning.distributed import ray_tasks
from active_learning.metrics import StorageError
from tests.data.photos import write_folder

FLAGS = ["--shard=9", "--small=8"]


class FakeRay:
    """Runs every task in this process when it is asked for; `dying` says which die how often."""

    def __init__(self, dying=None, nodes=1):
        self.dying, self.calls, self.options = dict(dying or {}), [], {}
        error = type("RayError", (Exception,), {})
        self.exceptions = SimpleNamespace(
            RayError=error, RayTaskError=type("RayTaskError", (error,), {})
        )
        self.cluster = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}}] * nodes
        self.is_open = False

    def init(self, address, **options):
        self.is_open = True
        if address == "nowhere:1":
            raise ConnectionError("no answer\nand more")

    def shutdown(self):
        self.is_open = False

    def nodes(self):
        return self.cluster

    def remote(self, **options):
        self.options = options
        return lambda function: SimpleNamespace(remote=lambda *args: lambda: (function, args))

    def wait(self, references, num_returns):
        return references[-1:], references[:-1]  # not in the order in which they were begun

    def get(self, reference):
        function, args = reference()
        self.calls.append(args[-1])
        if self.dying.get(args[-1], 0):
            self.dying[args[-1]] -= 1
            raise self.exceptions.RayError("The worker died.\nA long story.")
        return function(*args)


@pytest.fixture
def photos(tmp_path):
    return write_folder(tmp_path / "photos", each=9)


def with_fake(monkeypatch, **options):
    fake = FakeRay(**options)
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def sums(photos, out, *flags):
    prepare.run([str(photos), str(out), *FLAGS, *flags])
    return (out / "SHA256SUMS").read_text()


def test_all_tasks_run_and_those_that_die_run_again(photos, tmp_path, monkeypatch, caplog):
    fake = with_fake(monkeypatch, dying={"1/3": 2})
    assert sums(photos, tmp_path / "ray", "--ray=auto/3") == sums(photos, tmp_path / "one")
    assert fake.calls == ["2/3", "1/3", "1/3", "1/3", "0/3", "finish"] and not fake.is_open
    assert caplog.text.count("--task=1/3: its worker died (The worker died.); it is started") == 2
    assert fake.options["num_cpus"] == 2 and fake.options["num_gpus"] == 1


def test_one_worker_needs_no_last_step(photos, tmp_path, monkeypatch):
    fake = with_fake(monkeypatch)
    assert sums(photos, tmp_path / "ray", "--ray", "local") == sums(photos, tmp_path / "one")
    assert fake.calls == [""] and fake.options["num_cpus"] == 8


def test_errors_are_those_of_the_command(photos, tmp_path, monkeypatch):
    fake = with_fake(monkeypatch, nodes=2, dying={"0/2": 99})
    with pytest.raises(StorageError, match=r"^--task=0/2: its worker died .* \(4 times\)$"):
        sums(photos, tmp_path / "dead", "--ray=auto")
    fake.dying = {}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x")
    with pytest.raises(DataError, match="^--task=1/2: .*full: not empty, and no unfinished"):
        sums(photos, tmp_path / "full", "--ray=auto")
    monkeypatch.setattr(ray_tasks, "code_version", iter("abc").__next__)
    with pytest.raises(ConfigError, match=r"another version of active_learning \(b, a at the"):
        sums(photos, tmp_path / "old", "--ray=auto")
    with pytest.raises(StorageError, match=r"--ray=nowhere:1: no Ray cluster there \(no answer\)"):
        sums(photos, tmp_path / "out", "--ray=nowhere:1")
    assert not fake.is_open


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ray=next door"], "expected local, auto, HOST:PORT or ray://HOST:PORT"),
        (["--ray=local/0"], "expected local, auto"),
        (["--ray=local", "--task=0/2"], "--ray=local and --task=0/2: give only one of them"),
        (["--ray=local", "--as=folder"], "--ray=local: only shards are written by several"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_ray_starts(photos, tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        sums(photos, tmp_path / "out", *flags)


def test_without_ray_there_is_one_line(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert prepare.main([str(photos), str(tmp_path / "out"), "--ray=local"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --ray=local: Ray is not installed; pip install")
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_flag_is_left_out_in_both_forms():
    assert without_flag(["a", "--ray", "local", "--rays=1"], "--ray") == ["a", "--rays=1"]
    assert without_flag(["--ray=auto/3", "b"], "--ray") == ["b"]


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is an extra: pip install '.[ray]'"
)
def test_with_ray_itself(photos, tmp_path):
    alone = sums(photos, tmp_path / "one")
    command = [sys.executable, "-m", "active_learning.prepare", str(photos), str(tmp_path / "ray")]
    done = subprocess.run([*command, *FLAGS, "--ray=local/2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train 27 examples" in done.stdout
    assert (tmp_path / "ray" / "SHA256SUMS").read_text() == alone
