"""The whole of curation on folders with planted faults, through the command as well."""

import dataclasses
import io
import json
import re
import tarfile

import numpy as np
import pytest

from active_learning import curate as command
from active_learning.curation import crossfit, kernel, pairs, pipeline, trained
from active_learning.curation.features import PatchFeatures
from active_learning.curation.records import Record
from active_learning.data import images
from active_learning.data.decisions import read_decisions, read_rows
from active_learning.data.sources.contents import content_keys
from active_learning.data.sources.from_path import listings_of, section_of
from active_learning.storage.pieces import Pieces
from active_learning.train import choices
from experiments.curate_checks import found_faults, plant

NAMES = ("bars", "checks", "dots")
QUICK = pipeline.Options(
    cross_fit=crossfit.CrossFit(
        folds=3,
        repeats=1,
        width=16,
        kernel=kernel.KernelSettings(landmarks=200),
        training=trained.Training(epochs=4, batch_size=32, checkpoints=2),
    ),
    features=PatchFeatures(size=16, filters=16, patch=4, components=32),
)


def pattern(label, rng):
    """A texture of one of three kinds, at a random place and of random colors."""
    y, x = np.mgrid[:32, :32] + rng.integers(0, 32, 2)[:, None, None]
    period = rng.integers(5, 9)
    wave = [
        np.sin(2 * np.pi * x / period),
        np.sign(np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period)),
        ((x % period - period / 2) ** 2 + (y % period - period / 2) ** 2 < 4) * 2.0 - 1,
    ][label]
    low, high = rng.integers(0, 110, 3), rng.integers(140, 256, 3)
    smooth = images.cover(rng.integers(0, 90, (4, 4, 3)).astype(np.uint8), 32)
    out = np.where(wave[..., None] > 0, high, low) * 0.65 + smooth
    return np.clip(out, 0, 255).astype(np.uint8)


def planted(folder, count, seed):
    """Writes a set of three patterns with planted faults; returns the faults."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return plant(folder, np.stack([pattern(label, rng) for label in labels]), labels, NAMES)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curate")
    faults = planted(folder / "data", 350, 0)
    summary = pipeline.curate(section_of(str(folder / "data")), folder / "out", QUICK, "world")
    return folder, faults, summary


def test_the_choices_of_a_run_stand_beside(world):
    folder, _, _ = world
    train, _ = listings_of(section_of(str(folder / "data")))
    count = len(train.files)
    counter = choices.ChoiceCounter(count)
    counter.add(1, np.arange(count), np.linspace(0, 1, count), np.arange(10))
    counter.write(folder, train.ids)
    options = dataclasses.replace(QUICK, run=folder)
    pipeline.curate(section_of(str(folder / "data")), folder / "out2", options, "world")
    details = [row["detail"] for row in read_rows(folder / "out2" / "scores.csv")]
    assert sum("chosen 1 of 1 times" in one for one in details) >= 10
    notes = json.loads((folder / "out2" / "summary.json").read_text())["notes"]
    assert any("were chosen" in one for one in notes)
    assert "were never chosen" in (folder / "out2" / "index.html").read_text()


def test_planted_faults_are_found(world):
    folder, faults, summary = world
    records = [Record(**row) for row in read_rows(folder / "out" / "scores.parquet")]
    result = found_faults(records, faults)
    for kind in ("duplicate", "leak", "unreadable", "near_duplicate"):
        assert result[kind]["found"] == result[kind]["planted"] > 0, kind
        assert result[kind]["reported"] == result[kind]["planted"], kind
    assert result["label"]["auc"] > 0.95
    assert summary.corrupted.low <= 0.03 <= summary.corrupted.high
    assert summary.num_examples == 311 and summary.counts["unreadable"] == 1


def test_tables_agree_and_every_example_is_there(world):
    folder, _, summary = world
    rows = read_rows(folder / "out" / "scores.parquet")
    text = read_rows(folder / "out" / "scores.csv")
    assert [row["key"] for row in rows] == [row["key"] for row in text]
    assert len({(row["key"], row["issue"]) for row in rows}) == len(rows)
    assert len({row["key"] for row in rows}) == summary.num_examples
    kept = json.loads((folder / "out" / "summary.json").read_text())
    assert kept["num_examples"] == 311 and len(kept["confusion"]) == 3
    assert sum(map(sum, kept["confusion"])) == pytest.approx(kept["counts"]["ok"] + sum(
        kept["counts"].get(issue, 0) for issue in ("label", "ambiguous")
    ))  # fmt: skip
    page = (folder / "out" / "index.html").read_text()
    assert "world" in page and len(page) < 20e6
    everything = read_decisions(f"{folder}/out/scores.parquet:issue=='ok'")
    assert 0 < len(everything.only) < 311


def test_the_same_call_again_trains_nothing_and_says_the_same(world):
    folder, _, summary = world
    before = {p: p.stat().st_mtime_ns for p in (folder / "out" / "work").iterdir()}
    first = (folder / "out" / "scores.csv").read_bytes()
    again = pipeline.curate(section_of(str(folder / "data")), folder / "out", QUICK, "world")
    assert again == summary and (folder / "out" / "scores.csv").read_bytes() == first
    assert {p: p.stat().st_mtime_ns for p in (folder / "out" / "work").iterdir()} == before


def test_the_source_is_left_alone(world):
    folder, _, _ = world
    assert not [p for p in (folder / "data").rglob("*") if p.suffix not in ("", ".png", ".jpg")]


def test_keys_follow_the_content_not_the_name():
    keys = content_keys(["aa", "bb", "aa", ""], ["x/1", "x/2", "x/0", "x/3"])
    assert keys[:3] == ("aa.1", "bb", "aa") and keys[3].startswith("path-")
    renamed = content_keys(["bb", "aa", "aa"], ["q/9", "x/0", "x/1"])
    assert renamed == ("bb", "aa", "aa.1")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nowhere", "out"], "nowhere"),
        (["only"], "give SOURCE and OUT"),
        (["nowhere", "out", "--folds=1"], "--folds: '1': expected a whole number between 2"),
        (["nowhere", "out", "--minutes=-1"], "--minutes: '-1': expected a number between 0"),
        ([".", "out", "--weights=nowhere"], "--weights.path: "),
    ],
)
def test_wrong_input_gets_one_line(arguments, part, capsys):
    try:
        code = command.main(arguments)
    except SystemExit as left:  # The parser of the flags leaves by itself.
        code = left.code
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert part in error and error.startswith("error:") and "\n" not in error


def test_a_column_that_is_not_there_gets_one_line(world, capsys):
    folder, _, _ = world
    assert command.main([str(folder / "data"), str(folder / "o"), "--label=breed"]) == 2
    assert "no column 'breed'; there are: label" in capsys.readouterr().err


def test_a_few_unlabeled_pictures_are_only_compared(tmp_path):
    rng = np.random.default_rng(1)
    for name in ("a/1", "a/2", "b/3"):
        path = tmp_path / "data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.encode_png(pattern(0, rng)))
    (tmp_path / "data/b/4.png").write_bytes((tmp_path / "data/a/1.png").read_bytes())
    summary = pipeline.curate(section_of(str(tmp_path / "data")), tmp_path / "out", QUICK, "few")
    assert summary.corrupted is None and summary.counts == {"duplicate": 1, "ok": 3}
    assert any("too few" in note for note in summary.notes)
    assert any("fewer than 30" in note for note in summary.notes)


WORDS = ("red stripes on a shirt", "a board of black squares", "many round dots")


def test_captions_that_were_exchanged_fit_worst(tmp_path):
    rng = np.random.default_rng(2)
    kinds = np.arange(240) % 3
    text = kinds.copy()
    text[:24] = (text[:24] + 1) % 3
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for row in range(240):
            image = images.encode_png(pattern(kinds[row], rng))
            for suffix, blob in (("png", image), ("txt", WORDS[text[row]].encode())):
                info = tarfile.TarInfo(f"{row:04d}.{suffix}")
                info.size = len(blob)
                tar.addfile(info, io.BytesIO(blob))
    options = dataclasses.replace(QUICK, text="caption")
    summary = pipeline.curate(section_of(str(tmp_path)), tmp_path / "out", options, "pairs")
    rows = [r for r in read_rows(tmp_path / "out" / "scores.parquet") if r["issue"] == "label"]
    worst = {int(re.search(r"(\d{4})(?:\D|$)", row["path"])[1]) for row in rows}
    assert len(worst & set(range(24))) >= 18 and summary.corrupted is None
    assert all("similarity" in row["detail"] for row in rows)


def test_normalized_similarity_by_hand():
    one, two = np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]])
    own, normalized = pairs.similarities(one, two, block=1)
    np.testing.assert_allclose(own, [1, 0])
    t = pairs.TEMPERATURE
    rows = np.log(np.array([np.exp(1 / t), 1.0]))
    columns = np.log((np.exp(1 / t) + 1) / 2)
    np.testing.assert_allclose(normalized, own - t / 2 * (rows + columns))


def test_a_predicted_embedding_knows_nothing_of_its_own_caption(tmp_path):
    rng = np.random.default_rng(3)
    features = rng.normal(size=(40, 5)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    texts = rng.normal(size=(40, 3)).astype(np.float32)
    settings, groups = QUICK.cross_fit, np.arange(40)
    one, fold = pairs.image_embeddings(features, texts, groups, settings, Pieces(tmp_path, "a"))
    other = texts.copy()
    other[fold == 0] += 5
    two, _ = pairs.image_embeddings(features, other, groups, settings, Pieces(tmp_path, "b"))
    np.testing.assert_allclose(one[fold == 0], two[fold == 0], atol=1e-4)
    assert np.abs(one[fold == 1] - two[fold == 1]).max() > 0.01
