"""The whole report on synthetic run folders with numbers that can be followed by hand."""

import json
import re
from html.parser import HTMLParser

import pytest

from active_learning.report import measures, tables
from active_learning.report.__main__ import main
from active_learning.report.amortization import amortized_costs
from active_learning.report.analysis import analyze
from active_learning.report.headline import headline
from active_learning.report.runs import load_runs
from tests.report.folders import REFERENCE, write_run, write_uniform

VOID = ("meta", "img", "br", "link", "input")


@pytest.fixture
def uniform(tmp_path):
    return write_uniform(tmp_path)


def four_budgets(root, reference=REFERENCE, name="learn", seeds=(1, 2)):
    for seed in seeds:
        for steps, end in ((20, 0.3), (40, 0.45), (60, 0.52), (80, 0.6)):
            write_run(
                root,
                name,
                steps,
                seed,
                [0.1, 0.51, 0.2, end],
                reference=reference,
                snapshot=steps == 80,
            )


def arm(root, name):
    return next(arm for arm in analyze(load_runs([root])).arms if arm.name == name)


def build(root, *arguments):
    assert main([str(root), "--out", str(root / "out"), *arguments]) == 0
    return (root / "out" / "index.html").read_text()


def test_decisions_about_selection_are_on_the_page(uniform):
    folder = write_run(uniform, "learn", 60, 1, [0.3, 0.6], reference=REFERENCE)
    summary = json.loads((folder / "summary.json").read_text())
    assert "decided about selection" not in build(uniform)
    summary["labels"] = {"text": "1.0% to 2.0% are <b>corrupted</b>"}
    summary["selection"] = [{"step": 1200, "decision": "end", "reason": "the learner <i>wins</i>"}]
    (folder / "summary.json").write_text(json.dumps(summary))
    page = build(uniform)
    assert "Labels: 1.0% to 2.0% are &lt;b&gt;corrupted&lt;/b&gt;." in page
    assert '<th scope="row">1,200</th><td>end</td>' in page
    assert "the learner &lt;i&gt;wins&lt;/i&gt;" in page
    summary["selection"] = [{"step": 1.5, "decision": "end", "reason": "x"}]
    (folder / "summary.json").write_text(json.dumps(summary))
    assert main([str(uniform)]) == 2


def test_savings_of_an_arm_that_reaches(uniform):
    four_budgets(uniform)
    result = arm(uniform, "learn")
    assert result.valid is True
    # The longest budget touches 0.5 at update 40, drops, and stays from update 80 only.
    assert result.beta_curve == 0.8
    assert (result.beta_budget.beta, result.beta_budget.budget, result.beta_budget.mark) == (
        0.6,
        60,
        "",
    )
    # 60 updates: 60 + 10 (reference) FLOPs of 100; 6 s of 10 s. The curve at update 80: 90 of 100.
    expected = {"updates_saved": 0.4, "total_flops_saved": 0.3, "wall_clock_saved": 0.4}
    curve = {
        "updates_saved_curve": 0.2,
        "total_flops_saved_curve": 0.1,
        "wall_clock_saved_curve": 0.2,
    }
    assert result.saved == pytest.approx(expected | curve)
    text = headline(analyze(load_runs([uniform])))
    assert "40.0 % fewer updates, 30.0 % less total compute and 40.0 % less wall-clock time" in text
    assert "Only 2 seeds" in text


def test_an_arm_that_reaches_and_drops_has_saved_nothing(uniform):
    write_run(uniform, "drops", 100, 1, [0.6, 0.7, 0.6, 0.49], reference=REFERENCE)
    result = arm(uniform, "drops")
    assert result.beta_curve is None and result.beta_budget.beta is None
    assert set(result.saved.values()) == {None}
    assert headline(analyze(load_runs([uniform]))).startswith(
        "Nothing was saved: drops did not reach uniform’s 50.0 %"
    )


def test_the_distance_to_the_level_is_that_of_the_printed_means(uniform):
    for seed in (1, 2):  # uniform's own: 0.48 and 0.52
        write_run(uniform, "learn", 100, seed, [0.3, 0.49])
    assert "It ended 1.0 ± 2.0 points below it after 100 updates" in headline(
        analyze(load_runs([uniform]))
    )
    # With a third seed of uniform the level is 0.53; the pairs of common seeds are still at 0.49
    # and 0.5.
    write_run(uniform, "uniform", 100, 3, [0.3, 0.3, 0.3, 0.59], baseline=True)
    assert arm(uniform, "learn").longest.gap.mean == pytest.approx(-0.01)
    assert "It ended 4.0 points below it after 100 updates" in headline(
        analyze(load_runs([uniform]))
    )


def test_cheaper_in_updates_but_dearer_in_compute_is_said(uniform):
    for seed in (1, 2):
        write_run(uniform, "dear", 50, seed, [0.4, 0.6], cost=3.0)
    text = headline(analyze(load_runs([uniform])))
    assert "50.0 % fewer updates, 50.0 % more total compute" in text
    assert "Only 1 decayed budget was tried" in text
    assert "1 budget only" in build(uniform)


def test_an_arm_that_needs_as_long_saved_no_updates(uniform):
    write_run(uniform, "slow", 100, 1, [0.4, 0.6])
    text = headline(analyze(load_runs([uniform])))
    assert text.startswith("No updates were saved. slow ended at 60.0 % after 100 updates, against")
    assert "whether fewer suffice was not tried" in text
    write_run(uniform, "slow", 60, 1, [0.2, 0.3])
    assert "with 60 it did not reach that" in headline(analyze(load_runs([uniform])))


def test_each_seed_has_one_reference_however_many_budgets(uniform):
    for steps, seed, own in ((50, 1, 0.4), (80, 1, 0.4), (80, 2, 0.2)):
        write_run(
            uniform, "learn", steps, seed, [0.3, 0.6], reference=REFERENCE | {"accuracy": own}
        )
    assert analyze(load_runs([uniform])).others[0].reference_accuracy == pytest.approx(0.3)


def test_a_row_whose_reference_is_as_good_as_the_level_does_not_count(uniform):
    four_budgets(uniform, REFERENCE | {"accuracy": 0.5})
    assert arm(uniform, "learn").valid is False
    page = build(uniform)
    assert "This comparison is invalid" in page and "learn (invalid)" in page
    assert 'class="numbers"' not in page  # no big figures for it
    # An arm that counts leads, even when it saved nothing.
    write_run(uniform, "honest", 100, 1, [0.3, 0.4], reference=REFERENCE)
    assert headline(analyze(load_runs([uniform]))).startswith(
        "Nothing was saved: No valid arm reached"
    )
    assert json.loads((uniform / "out" / "report.json").read_text())["arms"][1]["valid"] is False


@pytest.mark.parametrize(("own", "said"), [(0.48, True), (0.46, False), (0.5, False)])
def test_a_reference_within_the_spread_of_the_level_is_noted(uniform, own, said):
    four_budgets(uniform, REFERENCE | {"accuracy": own})  # the level: 0.5, spread 0.028
    assert ("learn: " + measures.INCONCLUSIVE in analyze(load_runs([uniform])).notes) is said
    page = build(uniform)
    assert page.count(measures.INCONCLUSIVE) == (
        2 if said else 0
    )  # in the headline and among the notes
    assert (
        json.loads((uniform / "out" / "report.json").read_text())["arms"][1]["inconclusive"] is said
    )


def test_notes_on_a_reference_that_is_not_charged(uniform):
    stored = {"accuracy": None, "flops": 0.0, "seconds": 0.0, "steps": 0, "charged": False}
    write_run(uniform, "stored", 50, 1, [0.3, 0.6], reference=stored)
    write_run(uniform, "loaded", 50, 1, [0.3, 0.6], reference=REFERENCE | {"charged": False})
    write_run(uniform, "untrained", 50, 1, [0.3, 0.6], reference=stored | {"accuracy": 0.1})
    result = analyze(load_runs([uniform]))
    assert [note for note in result.notes if "reference" in note] == [
        "loaded: its reference was loaded and its training is not charged (10 FLOPs, 5 s).",
        "stored: its reference’s own accuracy is not known, so it is not checked "
        "whether the comparison is valid.",
    ]
    assert "| stored (validity unknown) |" in tables.markdown(result, "Title")
    assert "| untrained | 50 |" in tables.markdown(result, "Title")


def test_final_values_are_the_whole_set_only_when_all_runs_have_it(uniform):
    folder = write_run(uniform, "learn", 100, 1, [0.3, 0.6])
    assert analyze(load_runs([uniform])).final_metric == "test_full/accuracy"
    summary = json.loads((folder / "summary.json").read_text())
    del summary["final"]["test_full/accuracy"]
    (folder / "summary.json").write_text(json.dumps(summary))
    result = analyze(load_runs([uniform]))
    assert result.final_metric == "test/accuracy"
    assert any("not measured in every run" in note for note in result.notes)


def test_seeds_that_differ_in_more_than_the_seed_are_noted(uniform):
    for seed in (1, 2):
        folder = write_run(uniform, "mixed", 50, seed, [0.3, 0.4])
        config = json.loads((folder / "config.json").read_text())
        config["config"]["optim"] = {"lr": 0.1 * seed}
        (folder / "config.json").write_text(json.dumps(config))
    assert (
        "mixed, 50 updates: its seeds also differ in optim.lr."
        in analyze(load_runs([uniform])).notes
    )


def test_wrong_share_counts_the_window_only(tmp_path):
    folder = write_run(tmp_path, "a", 100, 1, [0.1, 0.2], baseline=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines[0] |= {"select/corrupted_fraction": 0.2, "select/open": 1}
    lines[1] |= {"select/corrupted_fraction": 0.4, "select/open": 0}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert arm(tmp_path, "a").longest.corrupted_fraction == pytest.approx(0.2)


def test_one_seed_without_snapshot_reference_or_gate(tmp_path):
    write_run(tmp_path, "uniform", 100, 1, [0.2, 0.5], baseline=True)
    write_run(tmp_path, "learn", 100, 1, [0.3, 0.6])
    page = build(tmp_path)
    for words in (
        "One seed only",
        "No score snapshot was stored",
        "no gate was evaluated",
        "the true labels are unknown",
    ):
        assert words in page


@pytest.mark.parametrize("baseline", [True, False])
def test_a_single_run_still_makes_a_page(tmp_path, baseline):
    write_run(tmp_path, "only", 100, 1, [0.5], baseline=baseline)
    words = "Only the baseline is here" if baseline else "nothing can be called saved"
    assert words in build(tmp_path)


def test_without_amortisation_a_loaded_reference_is_paid_for(uniform):
    write_run(
        uniform, "learn", 50, 1, [0.3, 0.6], reference=REFERENCE | {"flops": 0.0, "charged": False}
    )
    folder = write_run(
        uniform, "loaded", 50, 1, [0.3, 0.6], reference=REFERENCE | {"flops": 0.0, "charged": False}
    )
    summary = json.loads((folder / "summary.json").read_text())
    summary["reference"]["flops"] = 30.0
    (folder / "summary.json").write_text(json.dumps(summary))
    costs = amortized_costs(analyze(load_runs([uniform])))
    assert costs["loaded"] == pytest.approx(costs["learn"] | {"none": 0.8})  # 50 + 30 over 100
    assert (
        arm(uniform, "loaded").saved["total_flops_saved"] == 0.5
    )  # what the run itself was charged


class Balanced(HTMLParser):
    """Fails on a tag that closes another than the last opened; collects what would be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched = [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [
            v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "data") and v
        ]
        assert tag not in ("script", "link", "iframe")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_self_contained_and_well_formed(uniform):
    four_budgets(uniform)
    page = build(uniform)
    assert (
        "http:" not in page
        and "https:" not in page
        and "@import" not in page
        and "//fonts" not in page
    )
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in parser.fetched)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "#0a0b" not in page  # every stand-in color became a variable
    ids = re.findall(r'\bid="([^"]+)"', page)
    used = {value[1:] for value in parser.fetched if value.startswith("#")}
    assert len(ids) == len(set(ids)) and used <= set(ids)


def test_strings_are_escaped(uniform):
    write_run(uniform, "<b>&$x_", 50, 1, [0.3, 0.6], reference=REFERENCE, snapshot=True)
    page = build(uniform, "--title", "<script>alert(1)</script>")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "<b>&$" not in page and "&lt;b&gt;&amp;$x_" in page
    assert "labeled &lt;dog&gt;, is cat" in page and "<dog>" not in page


def test_wrong_labels_are_framed_and_unknown_ones_are_not(uniform):
    four_budgets(uniform, seeds=(1,))
    page = build(uniform)
    assert (
        page.count('class="thumb wrong"') == 2
    )  # one in each of the two strips of the only snapshot
    assert page.count('class="thumb"') == 4
    assert "1 of 2 labels wrong" in page


def test_logged_series_are_drawn(tmp_path):
    extra = {
        "select/corrupted_fraction": 0.3,
        "candidates/corrupted_fraction": 0.4,
        "gate/reference_accuracy": 0.5,
        "gate/online_accuracy": 0.2,
        "gate/reference_loss": 1.0,
        "gate/online_loss": 1.5,
    }
    write_run(tmp_path, "uniform", 100, 1, [0.2, 0.5], baseline=True)
    write_run(tmp_path, "learn", 100, 1, [0.3, 0.6], **extra)
    page = build(tmp_path)
    assert (
        "Dotted: among the candidates, 40.0 %" in page
        and 'id="lead-' in page
        and 'id="lead-loss-' in page
        and 'id="corrupted-' in page
    )


def test_json_and_markdown_hold_the_numbers(uniform):
    four_budgets(uniform)
    build(uniform, "--title", "Title")
    report = json.loads((uniform / "out" / "report.json").read_text())
    learn = report["arms"][1]
    assert (report["baseline"], report["target"], report["baseline_updates"]) == (
        "uniform",
        0.5,
        100,
    )
    assert (learn["beta_budget"], learn["beta_curve"], learn["budgets_tried"]) == (0.6, 0.8, 4)
    assert learn["budgets"][-1]["curve"]["total_flops"] == [30.0, 50.0, 70.0, 90.0]
    assert learn["budgets"][2]["difference"]["standard_error"] == pytest.approx(
        0.02
    )  # gaps 0.04 and 0
    # 60 updates and the reference's 10, over 100; a replayed policy pays the learner only
    assert report["amortization"]["learn"]["none"] == pytest.approx(0.7)
    assert report["amortization"]["learn"]["replayed policy"] == pytest.approx(0.6)
    table = (uniform / "out" / "table.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| learn | 60 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3:11] == [
        "52.00 ± 0.00 %",
        "+2.00 ± 2.00 p",
        "40.0 %",
        "",
        "0.600",
        "40.0 %",
        "30.0 %",
        "40.0 %",
    ]
    assert (uniform / "out" / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_default_folder_is_next_to_the_first_run(uniform):
    assert main([str(uniform / "uniform-100-1".replace("-", "_"))]) == 0
    assert (uniform / "report" / "index.html").is_file()
