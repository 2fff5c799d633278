"""How every command ends: its exit code, and one line for what cannot be done."""

import errno
import os
import subprocess
import sys

import pytest

from active_learning import cli
from active_learning.config import ConfigError
from active_learning.data.errors import DataError
from active_learning.metrics import NonFiniteError, StorageError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("config.total: no"), 2),
        (DataError("train.csv: empty"), 2),
        (NonFiniteError("update 3"), 2),
        (StorageError("run: no space left"), 3),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.npz"), 3),
        (OSError(errno.EIO, os.strerror(errno.EIO), "train.tar"), 3),
        (OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)), 3),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "out"), 2),
    ],
)
def test_exit_codes(error, code, capsys):
    def command():
        raise error

    assert cli.guarded(command) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1


def test_done_interrupted_and_a_fault_of_the_program(capsys):
    def interrupted():
        raise KeyboardInterrupt

    def broken():
        raise KeyError("a bug")

    assert cli.guarded(lambda: None) == 0
    assert cli.guarded(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(KeyError):
        cli.guarded(broken)


def test_a_closed_output_pipe_is_no_error():
    """As in `... | head -1`."""
    text = "import sys; from active_learning import cli\n"
    text += "sys.exit(cli.guarded(lambda: [print('x' * 1000) for _ in range(1000)]))"
    command = [sys.executable, "-W", "ignore", "-c", text]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "x" * 1000 + "\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0
