"""Sizes of a shipped config on small pools: powers of two, never those of the command line."""

import dataclasses

import pytest

from active_learning.config import from_flags
from active_learning.settings import SIZES, Select
from active_learning.train.build import build
from active_learning.train.fitting import fitted
from active_learning.train.loop import _check_reference_runs
from tests import world
from tests.data.photos import blob, write_folder

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # absl


def sizes(config) -> tuple[int, int]:
    return config.batch_size, config.select.ratio


def of(tmp_path, batch: int, ratio: int, fit: tuple[str, ...] = SIZES):
    config = world.config(tmp_path, batch_size=batch, fit=fit)
    return dataclasses.replace(config, select=dataclasses.replace(config.select, ratio=ratio))


@pytest.mark.parametrize(
    ("pool", "right"),
    [
        (256, (64, 4)),  # as it is
        (255, (32, 4)),
        (128, (32, 4)),
        (127, (16, 4)),
        (32, (8, 4)),
        (31, (8, 2)),  # the batch is at its least, so the ratio falls
        (16, (8, 2)),
    ],
)
def test_powers_of_two_that_the_pool_can_serve(tmp_path, pool, right):
    config, lines = fitted(of(tmp_path, 64, 4), pool)
    assert sizes(config) == right and right[0] * right[1] <= pool
    assert len(lines) == (right != (64, 4))
    assert fitted(config, pool) == (config, [])
    if lines:
        assert f"holds only {pool} examples" in lines[0]


def test_where_too_little_is_left_the_run_is_uniform_and_says_why(tmp_path):
    config, lines = fitted(of(tmp_path, 64, 4), 15)
    assert config.select == Select() and config.batch_size == 8 and config.evaluate.gate == ""
    assert lines[1].startswith("uniform sampling instead of learnability: 15 examples leave")


def test_a_size_that_is_not_named_never_changes(tmp_path):
    assert fitted(of(tmp_path, 64, 4, ()), 100)[0] == of(tmp_path, 64, 4, ())
    assert sizes(fitted(of(tmp_path, 64, 4, ("select.ratio",)), 130)[0]) == (64, 2)
    assert sizes(fitted(of(tmp_path, 64, 4, ("batch_size",)), 100)[0]) == (16, 4)


def test_a_batch_has_an_example_for_each_device(tmp_path):
    assert sizes(fitted(of(tmp_path, 64, 4), 64, devices=16)[0]) == (16, 4)


def test_sizes_on_the_command_line_are_kept():
    config, _ = from_flags(["--config=configs/folder.py", "--config.batch_size=64"])
    assert config.fit == ("select.ratio", "reference.batch_size")
    config, _ = from_flags(["--config=configs/folder.py"])
    assert config.fit == SIZES


def test_280_photographs_in_four_folders_fit_the_shipped_config(tmp_path):
    write_folder(tmp_path, each=70)
    (tmp_path / "rose").mkdir()
    for number in range(70):
        (tmp_path / "rose" / f"{number}.png").write_bytes(blob("red", 1000 + number))
    config, _ = from_flags(["--config=configs/folder.py", f"--config.data.path={tmp_path}"])
    experiment = build(config)
    _check_reference_runs(experiment)
    pool = len(experiment.data.train)
    assert sizes(experiment.config) == (32, 4) and 128 <= pool < 256
    assert experiment.config.select.policy.needs
    assert [f"holds only {pool} examples" in line for line in experiment.changes] == [True]
