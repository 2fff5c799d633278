"""Several processes: who starts them, what they compare, and that two are as good as one."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import jax
import numpy as np
import pytest

from active_learning import distributed
from active_learning.config import ConfigError
from active_learning.data.sources.source import DataError
from active_learning.distributed import launchers, processes
from active_learning.distributed.exchange import _difference
from active_learning.metrics import StorageError
from active_learning.storage import runs
from active_learning.train import loop
from active_learning.train.build import abstract_state, build
from tests import two_processes, world
from tests.data.photos import write_folder
from tests.train.test_loop import ids, lines, models

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


def started(*arguments) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "tests.two_processes", port]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([*command, rank, *map(str, arguments)], **pipes) for rank in ("0", "1")
    ]


# Seconds after which a pair of processes hangs; a busy machine needs minutes to compile.
HANGS = 900


def wait_for(path, pair) -> None:
    """Waits for the file's first line, however slow the machine is, while both processes live."""
    deadline = time.monotonic() + HANGS
    while not (path.exists() and path.stat().st_size):
        ended = [process for process in pair if process.poll() is not None]
        assert not ended, ended[0].communicate()
        assert time.monotonic() < deadline, f"{path} is not there after {HANGS} s"
        time.sleep(0.1)


def test_two_processes_equal_one_stop_together_and_one_goes_on(tmp_path):
    photos, arrays = write_folder(tmp_path / "photos", each=30), world.write_arrays(tmp_path)
    alone, both = tmp_path / "alone", tmp_path / "both"
    pair = started("train", photos, arrays, alone, both)
    try:
        wait_for(both / "metrics.jsonl", pair)
        pair[1].send_signal(signal.SIGTERM)  # to one of them
        out = [process.communicate(timeout=HANGS) for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [process.returncode for process in pair] == [0, 0], [err[-3000:] for _, err in out]
    steps = [int(printed.splitlines()[-1]) for printed, _ in out]
    assert steps[0] == steps[1] == json.loads((both / "summary.json").read_text())["step"] >= 1

    assert json.loads((alone / "summary.json").read_text())["step"] == two_processes.STOP
    assert set(models(alone, ("online",))["online"]) == {
        "head",
        "layer_0",
    }  # read without the devices it was saved on
    config, straight = two_processes.alone(photos), tmp_path / "straight"
    loop.run(config, straight)
    assert loop.run(config, alone)["complete"]
    for ours, theirs in zip(ids(alone), ids(straight), strict=True):
        assert sorted(ours) == sorted(theirs)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    jax.tree.map(
        close, models(alone, ("learner", "online")), models(straight, ("learner", "online"))
    )
    assert [line["step"] for line in lines(alone)] == [line["step"] for line in lines(straight)]


@pytest.mark.parametrize("store", ["gs"], indirect=True)
def test_two_processes_without_a_common_folder_train_in_a_bucket_what_one_trains(
    tmp_path, store, monkeypatch
):
    address, arrays = f"{store[0]}/run", world.write_arrays(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pair = started("bucket", arrays, address)
    out = [process.communicate(timeout=HANGS) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], [err[-3000:] for _, err in out]
    config, straight = two_processes.in_bucket(arrays), tmp_path / "straight"
    for printed, _ in out:
        steps = [int(line) for line in printed.splitlines() if line.isdecimal()]
        assert steps == [two_processes.STOP, 2 * two_processes.STOP, 4], out
    assert not list((tmp_path / "cache" / "active_learning" / "runs").iterdir())
    params = jax.tree.leaves(abstract_state(build(config)).learner.params)
    assert any("fsdp" in leaf.sharding.spec for leaf in params)  # Each process has a part of it.
    found = two_processes.in_bucket(arrays, f"{address}-reference")
    assert loop.run(found, address)["complete"]  # One process goes on.
    loop.run(config, straight)
    whole = runs.readable(address)
    for ours, theirs in zip(ids(whole), ids(straight), strict=True):
        assert sorted(ours) == sorted(theirs)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    both = ("learner", "online")
    jax.tree.map(close, models(whole, both), models(straight, both))
    assert [line["step"] for line in lines(whole)] == [line["step"] for line in lines(straight)]

    one, whole = tmp_path / "kernel", runs.readable(f"{address}-kernel")
    assert not (whole / "features").exists()  # Of the first process alone, and not uploaded.
    loop.run(two_processes.by_kernel(arrays), one)
    for ours, theirs in zip(ids(whole), ids(one), strict=True):
        assert sorted(ours) == sorted(theirs)
    said = [json.loads((run / "summary.json").read_text()) for run in (whole, one)]
    assert said[0]["flops"] == said[1]["flops"]
    assert said[0]["reference"]["accuracy"] == said[1]["reference"]["accuracy"]


def test_too_few_examples_are_named(tmp_path, monkeypatch):
    config = world.config(world.write_arrays(tmp_path))
    monkeypatch.setattr(jax, "process_count", lambda: 1000)
    with pytest.raises(DataError, match="400 examples for 1000 processes"):
        build(config)


def ended(*arguments, seconds: float = HANGS) -> tuple[list[subprocess.Popen], list]:
    """Both processes, and what they wrote."""
    pair = started(*arguments)
    try:
        return pair, [process.communicate(timeout=seconds) for process in pair]
    finally:
        for process in pair:
            process.kill()
            process.communicate()


def outputs(*arguments, seconds: float = HANGS) -> list[str]:
    """The last line of either process; both must end with exit code 2."""
    pair, out = ended(*arguments, seconds=seconds)
    assert [process.returncode for process in pair] == [2, 2], out
    return [text.splitlines()[-1] for text, _ in out]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data", "other", r"another data: other there, usual on process 0"),
        ("run folder", "elsewhere", r"another run folder: another .*elsewhere there, \.shared-"),
    ],
)
def test_a_process_that_differs_is_named_by_all(tmp_path, key, value, message):
    (tmp_path / "elsewhere").mkdir()
    value = str(tmp_path / value) if key == "run folder" else value
    for line in outputs("differ", key, value, tmp_path / "run"):
        assert re.match(rf"ConfigError after \d\.\d s: process 1 on .* has {message}", line), line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere"]


@pytest.mark.parametrize("ranks", ["0", "1"])
def test_an_error_of_one_process_ends_all(ranks):
    lines = outputs("fail", ranks)
    assert all(re.match(r"DataError after \d\.\d s: ", line) for line in lines)
    assert lines[int(ranks)].endswith(f": train.npz is not there for {ranks}")
    other = lines[1 - int(ranks)]
    assert re.search(rf"process {ranks} on .*: train.npz is not there for {ranks}$", other)


def test_a_process_that_does_not_report_is_named():
    pair, out = ended("absent")
    assert "process 1 has not reported its settings within 1 s" in out[0][0], out
    assert pair[0].returncode == 2


LAUNCHERS = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_MCA_orte_hnp_uri",
    "JOB_COMPLETION_INDEX",
    "KUBERNETES_SERVICE_HOST",
    "TPU_WORKER_HOSTNAMES",
    "TPU_PROCESS_ADDRESSES",
    "TPU_SKIP_MDS_QUERY",
    "GCE_METADATA_IP",
    *distributed.ENVIRONMENT,
)
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
BY_HAND = {"cluster_detection_method": "deactivate"}


@pytest.fixture
def joined(monkeypatch):
    """The environment without any launcher; a list of the calls that would join others."""
    calls = []
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *values, **options: calls.append((values, options))
    )
    return calls


@pytest.mark.parametrize(
    ("environment", "method"),
    [
        ({}, None),
        (SLURM, "slurm"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (dict.fromkeys(SLURM, ""), None),
        (SLURM | {"SLURM_STEP_NODELIST": ""}, None),
        (MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}, "ompi"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "gketpu"),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, "gketpu"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, None),
    ],
)
def test_a_launcher_is_recognized_by_its_variables(joined, monkeypatch, environment, method):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    distributed.start(mode="off")
    assert joined == []
    distributed.start()
    assert joined == ([] if method is None else [((), {"cluster_detection_method": method})])


@pytest.mark.parametrize(
    ("environment", "mode", "expected"),
    [
        (SLURM, "n1:99", ("n1:99", 2, 1)),
        (MPI, "n1:99", ("n1:99", 4, 3)),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "run-0.run:99",
                "JAX_NUM_PROCESSES": "4",
                "JOB_COMPLETION_INDEX": "2",
            },
            "auto",
            ("run-0.run:99", 4, 2),
        ),
        (
            dict(zip(distributed.ENVIRONMENT, ("a:1", "3", "0"), strict=True)) | SLURM,
            "auto",
            ("a:1", 3, 0),
        ),
    ],
)
def test_an_address_takes_count_and_number_from_the_environment(
    joined, monkeypatch, environment, mode, expected
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    distributed.start(mode=mode)
    assert joined == [(expected, BY_HAND)]


class Metadata(BaseHTTPRequestHandler):
    hosts = b"10.0.0.1,10.0.0.2"

    def do_GET(self):
        known = self.path.endswith("/attributes/worker-network-endpoints")
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(self.hosts)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("hosts", "method"), [(b"10.0.0.1,10.0.0.2", "gcetpu"), (b"a", None)])
def test_a_tpu_pod_without_variables_asks_the_metadata_server(joined, monkeypatch, hosts, method):
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: name == "libtpu")
    monkeypatch.setattr(launchers.glob, "glob", lambda _: ["/dev/vfio/0"])
    monkeypatch.setattr(Metadata, "hosts", hosts)
    with HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        distributed.start()
        server.shutdown()
    assert [options for _, options in joined] == (
        [] if method is None else [{"cluster_detection_method": method}]
    )
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:1")  # nobody answers there
    assert not launchers._in_tpu_pod()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("here:1234", None, None), "missing: --num_processes, --process_id"),
        ((None, 2, 0), "missing: --coordinator=HOST:PORT"),
        (("here:1234", 2, 2), r"--process_id=2: expected 0 \.\. 1"),
        ((None, None, None, "yes"), "--distributed=yes: expected off, auto or HOST:PORT"),
        (("a:1", 2, 0, "b:1"), "--distributed=b:1: --coordinator=a:1 is another address"),
        (("a:1", 2, 0, "off"), "--distributed=off and --coordinator"),
    ],
)
def test_what_is_missing_is_named(joined, given, message):
    with pytest.raises(ConfigError, match=message):
        distributed.start(*given)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("JAX_NUM_PROCESSES", "two", "JAX_NUM_PROCESSES='two': expected a number"),
        ("OMPI_COMM_WORLD_SIZE", "2", "Open MPI 5 does not tell the address"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(joined, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        distributed.start()


def test_others_that_cannot_be_reached_are_one_line(joined, monkeypatch):
    def unreachable(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED: no answer\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", unreachable)
    with pytest.raises(StorageError) as caught:
        distributed.start("a:1", 2, 1)
    assert str(caught.value) == (
        "cannot join the other processes at a:1: DEADLINE_EXCEEDED: no answer"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "a", "a"], None),
        (["a", "b"], "process 1 on h1 has another config: b there, a on process 0"),
        (["a", "b", "b"], "process 0 on h0 has another config: a there, b on process 1"),
        (["a", "b", "a", "c", "a"], r"process 1 on h1 has another config \(1 more differ\): b"),
    ],
)
def test_the_minority_is_what_differs(values, message):
    reports = [{"values": {"config": v}, "host": f"h{n}"} for n, v in enumerate(values)]
    line = _difference(reports)
    assert line is None if message is None else re.match(message, line)


def test_a_single_process_agrees_with_itself(tmp_path):
    distributed.start()
    assert distributed.is_primary() and distributed.run_on_primary(lambda: [1, 2]) == [1, 2]
    distributed.check_same({"config": "a"}, tmp_path)
    with pytest.raises(DataError), distributed.agreement("data"):
        raise DataError("gone")
    assert not list(tmp_path.iterdir())


def test_the_code_version_is_that_of_the_source_files():
    assert re.fullmatch(r"[0-9a-f]{12}", distributed.code_version())


def test_a_home_that_cannot_be_written_means_no_cache(monkeypatch):
    warned = []
    monkeypatch.setattr(processes.LOG, "warning", lambda *args: warned.append(args[0] % args[1:]))
    monkeypatch.setenv("HOME", "/proc/nobody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        distributed.enable_compilation_cache()
        assert jax.config.jax_compilation_cache_dir is None
        with pytest.raises(ConfigError, match="--cache=gs://b/c: addresses of kind gs://"):
            distributed.enable_compilation_cache("gs://b/c")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert len(warned) == 1 and "programs are compiled anew in every run" in warned[0]
