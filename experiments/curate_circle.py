"""The full circle by commands: curate, decide, prepare --keep, train; accuracy before and after.

    python -m experiments.curate_circle [--examples=5000] [--updates=500] [--seeds=3]

5,000 images of CIFAR-10N with its worst labels (40 % wrong), as PNGs in a folder for each class,
and 1,000 test images with clean labels. Four training sets, each for the same number of updates:

as given   all of them
dropped    without those of which the page says that their label is more likely wrong than right
relabeled  these with the label it suggests
reviewed   a person looked at the 1,000 most suspect and gave each its right label (played here by
           the clean labels), through the CSV that the page downloads

Every finished step is kept in runs/curate_circle, every result in experiments/results/curate.json:
the same command continues.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from active_learning.data.decisions import DECISION_COLUMNS, read_rows
from active_learning.data.images import encode_png
from active_learning.data.sources.originals import CIFAR
from experiments.curate import RESULTS, data_folder, keep

WORK = Path("runs/curate_circle")
REVIEWED = 1000  # examples that the person looks at
ARMS = ("as given", "dropped", "relabeled", "reviewed")
# Small enough that twelve runs take minutes; the same for all arms.
MODEL = (
    "--config.learner.width=48",
    "--config.learner.depth=2",
    "--config.learner.patch=8",
    "--config.split.parts={}",
    "--config.evaluate.every=50 %",
)


def write_source(folder: Path, examples: int, tests: int = 1000) -> None:
    """train/CLASS by the noisy label and test/CLASS by the clean one, as a whole or not at all."""
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    for part, column, count in (("train", "label_worse", examples), ("test", "label", tests)):
        with np.load(data_folder() / "cifar10n" / f"{part}.npz") as archive:
            images, labels = archive["image"][:count], archive[column][:count]
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = partial / part / CIFAR[label] / f"{row:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(image))
    partial.rename(folder)


def command(module: str, *flags: str) -> str:
    """Runs a command of the package; returns what it printed."""
    call = [sys.executable, "-m", f"active_learning.{module}", *flags]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(call)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def decide(scores: Path, decisions: Path) -> None:
    """What a person does on the page: each of the most suspect is kept or gets its right label."""
    with np.load(data_folder() / "cifar10n" / "train.npz") as archive:
        clean = archive["label"]
    judged = [row for row in read_rows(scores) if row["probability"] is not None]
    judged.sort(key=lambda row: -row["score"])
    with decisions.open("w", newline="") as file:
        writer = csv.DictWriter(file, DECISION_COLUMNS)
        writer.writeheader()
        for row in judged[:REVIEWED]:
            right = CIFAR[clean[int(Path(row["path"]).stem)]]
            given = {name: row[name] for name in ("key", "path", "label")}
            new = "" if right == row["label"] else right
            writer.writerow(given | {"decision": "relabel" if new else "keep", "new_label": new})


def precision(scores: Path) -> dict[str, list[float]]:
    """By the number of most suspect examples: fraction wrong, and with the right suggestion."""
    with np.load(data_folder() / "cifar10n" / "train.npz") as archive:
        clean = archive["label"]
    judged = [row for row in read_rows(scores) if row["probability"] is not None]
    judged.sort(key=lambda row: -row["score"])
    right = [CIFAR[clean[int(Path(row["path"]).stem)]] for row in judged]
    wrong = np.array([r != row["label"] for r, row in zip(right, judged, strict=True)])
    result = np.array([r == row["suggested"] for r, row in zip(right, judged, strict=True)])
    return {
        str(k): [round(float(wrong[:k].mean()), 3), round(float(result[:k].mean()), 3)]
        for k in (50, 250, 500, REVIEWED)
    }


def wrong_labels(folder: Path) -> tuple[int, float]:
    """Examples of a training set, and the fraction of its labels that are wrong."""
    with np.load(data_folder() / "cifar10n" / "train.npz") as archive:
        clean = archive["label"]
    files = [*folder.glob("train/*/*.png")]
    wrong = [CIFAR[clean[int(file.stem)]] != file.parent.name for file in files]
    return len(files), round(float(np.mean(wrong)), 4)


def sets(source: Path) -> dict[str, Path]:
    """The four training sets as folders of links."""
    scores, decisions = WORK / "out" / "scores.parquet", WORK / "decisions.csv"
    decide(scores, decisions)
    suspect = "issue=='label' and probability>0.5"
    flags = {
        "dropped": [f"--keep={scores}:not ({suspect})"],
        "relabeled": [f"--labels={scores}:{suspect}"],
        "reviewed": [f"--keep={decisions}"],
    }
    out = {"as given": source}
    for arm, given in flags.items():
        out[arm] = WORK / arm
        command("prepare", str(source), str(out[arm]), "--as=folder", *given)
    return out


def accuracy(folder: Path, arm: str, seed: int, updates: int) -> float:
    """Test accuracy of one run at its end."""
    run = WORK / "runs" / f"{arm.replace(' ', '_')}-{seed}"
    command(
        "main",
        "--config=configs/folder.py:uniform",
        f"--config.data.path={folder}",
        f"--config.total={updates} steps",
        f"--config.seed={seed}",
        *MODEL,
        f"--workdir={run}",
    )
    summary = json.loads((run / "summary.json").read_text())
    return round(summary["final"]["test_full/accuracy"], 4)


def table() -> str:
    """The table of docs/curate.md, of the runs that are finished."""
    known = json.loads(RESULTS.read_text())["circle"]
    lines = [
        "| training set | examples | wrong labels | accuracy | runs |",
        "| --- | --- | --- | --- | --- |",
    ]
    for arm in ARMS:
        row = known["sets"][arm]
        runs = 100 * np.array(list(known["accuracy"][arm].values()))
        error = f" ± {runs.std(ddof=1) / np.sqrt(len(runs)):.1f}" if len(runs) > 1 else ""
        share = f"{row['examples']:,} | {row['wrong']:.1%}"
        lines.append(f"| {arm} | {share} | {runs.mean():.1f}{error} | {len(runs)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.curate_circle")
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(argv)
    WORK.mkdir(parents=True, exist_ok=True)
    source = WORK / "photographs"
    write_source(source, args.examples)
    known = json.loads(RESULTS.read_text()).get("circle", {})
    if not (WORK / "out" / "summary.json").exists():
        began = time.monotonic()
        command("curate", str(source), str(WORK / "out"))
        known["curate_seconds"] = round(time.monotonic() - began)
        known["page_bytes"] = (WORK / "out" / "index.html").stat().st_size
        keep("circle", known)
    folders = sets(source)
    known["updates"] = args.updates
    known["precision"] = precision(WORK / "out" / "scores.parquet")
    known["sets"] = {
        arm: dict(zip(("examples", "wrong"), wrong_labels(folder), strict=True))
        for arm, folder in folders.items()
    }
    known.setdefault("accuracy", {})
    for seed in range(args.seeds):
        for arm, folder in folders.items():
            done = known["accuracy"].setdefault(arm, {})
            if str(seed) not in done:
                done[str(seed)] = accuracy(folder, arm, seed, args.updates)
                keep("circle", known)
                print(f"{arm}, seed {seed}: {done[str(seed)]:.1%}", flush=True)
    print(table())


if __name__ == "__main__":
    main()
