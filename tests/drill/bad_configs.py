"""Generated configs that cannot run: one line that names the key, before anything is made."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import hypothesis
from hypothesis import strategies as st

from tests.drill import commands, runs
from tests.drill.table import Case

_WORDS = st.sampled_from(["abc", "", "None", "[1, 2]", "{}", "1 2", "0x", "--", "ja", "\u00b2"])
_NO_NUMBERS = st.sampled_from(["nan", "inf", "-inf", "1e400", "-1e400"])
_NEGATIVE = st.integers(-(10**20), -1).map(str)
_FRACTIONS = st.floats(0.001, 0.999).map(str)
_SIZES = ("batch_size", "select.ratio", "evaluate.subset", "evaluate.batch_size")
_SIZES += ("learner.width", "learner.depth", "learner.heads", "learner.patch", "scorer.width")
_SIZES += ("scorer.depth", "scorer.heads", "reference.batch_size", "checkpoint.max_to_keep")
_SIZES += ("grad_accum_steps", "fsdp")
_COUNTS = ("log.snapshots", "seed", "split.seed", "reference.seed", "learner.mlp_dim")
_COUNTS += ("select.score_chunk", "data.small", "augmentation.padding", "augmentation.num_ops")
_COUNTS += ("learner.registers", "learner.pre_logits", "learner.num_classes")
_POSITIVE = ("optim.learning_rate", "scorer_optim.learning_rate", "select.temperature")
_POSITIVE += ("reference.optim.learning_rate", "optim.weight_decay", "optim.clip", "data.limits")
_POSITIVE += ("learner.epsilon", "learner.keep", "split.parts.pool", "split.parts.gate")
_UNITS = ("optim.b2", "task.label_smoothing", "optim.momentum", "optim.cooldown")
_UNITS += ("augmentation.magnitude", "reference.optim.b2")
_DURATIONS = ("total", "evaluate.every", "log.every", "checkpoint.every", "select.until")
_DURATIONS += ("optim.warmup", "reference.total", "ema", "scorer_optim.warmup")
_CHOICES = ("dtype", "select.schedule", "select.policy", "reference.kind", "optim.optimizer")
_CHOICES += ("learner.pool", "learner.dtype", "learner.activation", "augmentation.crop")
_FLAGS = ("augment", "log.chosen", "log.tensorboard", "baseline", "select.standardize")
_BAD_DURATIONS = st.sampled_from(
    ["5 parsecs", "2 steps 3 epochs", "-3 steps", "nan steps", "1e400 steps", "steps", "%", "3 5"]
)
_TYPOS = st.sampled_from(
    (
        *("bach_size", "totl", "optim.learning_rates", "select.polcy", "evaluate.evry"),
        *("learner.widht", "reference.knd", "data.pth", "scorer.dept"),
        *("optim", "select", "data", "learner"),
    )
)


def _one_of(keys: tuple[str, ...], values) -> st.SearchStrategy:
    return st.tuples(st.sampled_from(keys), values)


BAD = st.one_of(
    _one_of(_SIZES, st.one_of(_WORDS, _NO_NUMBERS, _NEGATIVE, _FRACTIONS, st.just("0"))),
    _one_of(_COUNTS, st.one_of(_WORDS, _NO_NUMBERS, _NEGATIVE, _FRACTIONS)),
    _one_of(_POSITIVE, st.one_of(_WORDS, _NO_NUMBERS, _NEGATIVE)),
    _one_of(_UNITS, st.one_of(_WORDS, _NO_NUMBERS, _NEGATIVE, st.just("1.5"))),
    _one_of(_DURATIONS, st.one_of(_BAD_DURATIONS, st.just("abc"), _NO_NUMBERS)),
    _one_of(_CHOICES, st.one_of(_WORDS, _NO_NUMBERS, st.just("learnabilty"))),
    _one_of(_FLAGS, st.one_of(st.sampled_from(["abc", "2", "-1", "nan", "[]"]))),
    _one_of(("x",), st.just("1")),
    st.tuples(_TYPOS, st.just("3")),
)


def generated(count: int, seed: int) -> list[tuple[str, str]]:
    """(key, value) pairs, the same for the same seed; up to `count` different ones."""
    pairs: dict[tuple[str, str], None] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=3 * count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(BAD)
    def collect(pair):
        pairs[pair] = None

    collect()
    return list(pairs)[:count]


def configs(count: int, seed: int, data: Path) -> Iterator[Case]:
    """Each with one bad key, in a config that is right otherwise."""
    for key, value in generated(count, seed):
        yield Case(f"--config.{key}={value}", partial(_refused, key, value, data))


def _refused(key: str, value: str, data: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        arguments = runs.arguments("trained reference", data, workdir)
        done = commands.run("main", *arguments, f"--config.{key}={value}", limit=60)
        if problem := done.fault():
            return problem
        if done.code == 0:
            return "accepted"
        if workdir.exists() and list(workdir.iterdir()):
            return "refused after files were written"
        last = key.rpartition(".")[2]
        return "" if last in done.error_line else f"another key is blamed: {done.error_line[:200]}"
