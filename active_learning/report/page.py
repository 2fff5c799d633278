"""One self-contained HTML page: nothing in it is fetched from anywhere."""

from html import escape

import numpy as np

from active_learning.report import charts, pictures, tables
from active_learning.report.analysis import SAVED, Analysis, Arm
from active_learning.report.headline import choose, headline, percent
from active_learning.report.runs import ACCOUNTS
from active_learning.report.style import style_sheet


def render(analysis: Analysis, title: str) -> str:
    """The page in reading order: headline, accuracy on three clocks, table, accounts, wrong labels, lead, images."""
    sections = [
        _opening(analysis, title),
        _main_figure(analysis),
        f"<h2>The numbers</h2>{tables.html_table(analysis)}{_note(tables.legend(analysis))}{_caveats(analysis)}",
        _accounts(analysis),
        f'<div class="pair">{_wrong_labels(analysis)}{_lead(analysis)}</div>',
        _images(analysis),
        _footer(analysis),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style_sheet()}</style></head>\n"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _note(text: str) -> str:
    """A paragraph of small print; `text` is plain and is escaped here."""
    return f'<p class="note">{escape(text)}</p>'


def _opening(analysis: Analysis, title: str) -> str:
    runs = sum(len(group.runs) for arm in analysis.arms for group in arm.groups)
    kicker = (
        f"{_count(runs, 'run')} · {_count(len(analysis.arms), 'arm')} · {analysis.final_metric}"
    )
    return (
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(headline(analysis))}</p>'
        f'{_big_numbers(choose(analysis))}<p class="kicker">{escape(kicker)}</p></header>'
    )


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _big_numbers(arm: Arm | None) -> str:
    if arm is None or arm.deciding is None or arm.counts is False:
        return ""
    cells = []
    for key, word in zip(SAVED, ("updates", "total FLOPs", "wall-clock"), strict=True):
        value = arm.saved[key]
        if value is not None:
            lost = value < 0
            words = f"{'more' if lost else 'fewer' if key == 'updates_saved' else 'less'} {word}"
            cells.append(
                f"<div{' class=lost' if lost else ''}><b>{percent(abs(value))}</b><span>{words}</span></div>"
            )
    return f'<div class="numbers">{"".join(cells)}</div>'


def _legend(analysis: Analysis, arms: list[Arm]) -> str:
    styles, items = charts.arm_colours(analysis), []
    for arm in arms:
        colour, line = styles[arm.name]
        dash = "solid" if line == "-" else "dashed"
        words = (
            " (baseline)" if arm.baseline else " (does not count)" if arm.counts is False else ""
        )
        mark = f'<i style="border-top-color: var(--{colour}); border-top-style: {dash}"></i>'
        items.append(f"<li>{mark}{escape(arm.name + words)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _main_figure(analysis: Analysis) -> str:
    panels = []
    for clock, words in charts.CLOCKS.items():
        svg = charts.to_svg(
            f"progress-{clock}",
            f"{analysis.metric} against {words}",
            (3.75, 3.3),
            lambda axes, theme, clock=clock: charts.draw_progress(axes, theme, analysis, clock),
        )
        panels.append(f"<div>{svg}</div>")
    seeds = any(arm.longest.curve.sd is not None for arm in analysis.arms)
    words = [
        f"Curves: {analysis.metric} of each arm’s longest budget.",
        "Bands are ± one standard deviation over seeds." if seeds else "One seed: no band.",
        f"Circles: where each fully decayed budget ends ({analysis.final_metric}).",
        "Filled: the shortest that reaches the level.",
    ]
    if analysis.baseline:
        words.append(
            "The dotted line is the baseline’s final value; a bar on it marks where a curve stays above it."
        )
    words.append("Reference training that is charged comes first on the compute and time axes.")
    legend = _legend(analysis, list(analysis.arms))
    return f'<h2>Accuracy on three clocks</h2>{legend}<div class="panels">{"".join(panels)}</div>{_note(" ".join(words))}'


def _caveats(analysis: Analysis) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in analysis.notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _accounts(analysis: Analysis) -> str:
    svg = charts.to_svg(
        "accounts",
        "FLOPs of the five accounts, one bar an arm",
        (8.4, 0.9 + 0.46 * len(analysis.arms)),
        lambda axes, theme: charts.draw_accounts(axes, theme, analysis),
    )
    words = charts.ACCOUNT_WORDS
    items = "".join(
        f'<li><i class="box" style="background: var(--{a})"></i>{words[a]}</li>' for a in ACCOUNTS
    )
    bars = _note(
        "FLOPs of each arm’s deciding budget (updates beside its name), or of its longest budget when none reaches the "
        "level, over the baseline’s full budget."
    )
    cuts = _note(
        "The same bars, cut where parts are already paid for: choices of an earlier run replayed, reference scores "
        "stored beside the data, a reference that exists, or nothing (a loaded reference is then paid for too). A dash: "
        "such a run does not tell."
    )
    return (
        f'<h2>Where the compute goes</h2>{bars}<ul class="legend">{items}</ul><div class="bars">{svg}</div>'
        f'<div class="cuts">{cuts}{_amortisation(analysis)}</div>'
    )


def _amortisation(analysis: Analysis) -> str:
    levels = charts.amortised(analysis)
    names = list(next(iter(levels.values())))
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for arm, costs in levels.items():
        words = ["–" if costs[name] is None else f"{costs[name]:.2f}×" for name in names]
        cells = "".join(f"<td>{word}</td>" for word in words)
        rows.append(f'<tr><th scope="row">{escape(arm)}</th>{cells}</tr>')
    table = f'<table><thead><tr><th scope="col">amortised</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll small" tabindex="0">{table}</div>'


def _lines(analysis: Analysis, *keys: str) -> list[tuple[Arm, np.ndarray, np.ndarray]]:
    """(arm, updates, percent) of the arms that logged the keys (the first less the others)."""
    found = [(arm, charts.series(arm, charts.logged(*keys))) for arm in analysis.arms]
    return [(arm, line[0], 100 * line[1]) for arm, line in found if line is not None]


def _wrong_labels(analysis: Analysis) -> str:
    head = "<div><h2>Wrong labels among the chosen</h2>"
    lines = _lines(analysis, "select/wrong_share")
    if not lines:
        return (
            head
            + '<p class="none">Not logged in these runs (the true labels are unknown).</p></div>'
        )
    pools = _lines(analysis, "pool/wrong_share")
    pool = float(pools[0][2].mean()) if pools else None

    def draw(axes, theme):
        charts.draw_series(axes, theme, analysis, lines, " %")
        if pool is not None:
            axes.axhline(pool, color=theme["ink"], linewidth=1.1, linestyle=(0, (1, 2.2)))
        axes.set_ylim(bottom=0)

    dotted = f"Dotted: the pool’s share, {percent(pool / 100)}. " if pool is not None else ""
    svg = charts.to_svg(
        "wrong", "share of wrong labels among the chosen over updates", (5.2, 3.3), draw
    )
    note = _note(f"{dotted}Longest budgets, seed means; lower is better.")
    return f"{head}{note}{_legend(analysis, [line[0] for line in lines])}{svg}</div>"


def _lead(analysis: Analysis) -> str:
    head = "<div><h2>The reference’s lead</h2>"
    lines = _lines(analysis, "gate/reference_accuracy", "gate/online_accuracy")
    if not lines:
        return head + '<p class="none">Not logged in these runs (no gate was evaluated).</p></div>'

    def draw(axes, theme):
        charts.draw_series(axes, theme, analysis, lines, "")
        axes.axhline(0.0, color=theme["ink"], linewidth=1.1)

    svg = charts.to_svg(
        "lead", "accuracy of the reference less that of the online model", (5.2, 3.3), draw
    )
    note = _note(
        "Points of gate accuracy by which the reference is ahead of the online model. Selection pays while it is; "
        "below zero the score is noise."
    )
    return f"{head}{note}{_legend(analysis, [line[0] for line in lines])}{svg}{_lead_in_loss(analysis)}</div>"


def _lead_in_loss(analysis: Analysis) -> str:
    """The same on the gate's loss; empty when it was not logged."""
    lines = [
        (arm, at, v / 100)
        for arm, at, v in _lines(analysis, "gate/online_loss", "gate/reference_loss")
    ]
    if not lines:
        return ""

    def draw(axes, theme):
        charts.draw_series(axes, theme, analysis, lines, "")
        axes.axhline(0.0, color=theme["ink"], linewidth=1.1)

    svg = charts.to_svg(
        "lead-loss", "loss of the online model less that of the reference", (5.2, 3.3), draw
    )
    return f"{_note('The same in loss (nats a gate example): what an average learnability score has left to say.')}{svg}"


def _images(analysis: Analysis) -> str:
    head = "<h2>What was preferred</h2>"
    lead = choose(analysis)
    arms = sorted(analysis.arms, key=lambda arm: arm is not lead)
    parts = []
    for n, arm in enumerate(arms):
        found = pictures.probed_run(arm)
        if found is None:
            continue
        run, probes = found
        colour = charts.arm_colours(analysis)[arm.name][0]
        scores = [(probe.step, probe.scores) for probe in probes]
        svg = charts.to_svg(
            f"scores-{n}",
            f"histogram of the scores of {arm.name}",
            (4.6, 2.7),
            lambda axes, theme, c=colour, s=scores: charts.draw_histograms(axes, theme, c, s),
        )
        where = f"{arm.name}, {run.total_steps:,} updates, seed {run.seed}"
        body = f"{pictures.strips(run, probes)}<h4>Scores of the super-batch</h4><div class='histogram'>{svg}</div>"
        folded = f"<details><summary>{escape(where)}</summary>{body}</details>"
        parts.append(folded if parts else f"<h3>{escape(where)}</h3>{body}")
    if not parts:
        return (
            head
            + '<p class="none">No probe was stored inside a selection window of these runs.</p>'
        )
    note = _note(
        "The candidates with the highest and the lowest scores in the first and the last probe while selection was on. "
        "Red frame: the label is wrong. Hover for the score."
    )
    return f"{head}{note}{''.join(parts)}"


def _footer(analysis: Analysis) -> str:
    devices = sorted(
        {run.device for arm in analysis.arms for group in arm.groups for run in group.runs}
    )
    budgets = [
        (arm.name, ", ".join(f"{g.budget:,} × {len(g.runs)}" for g in arm.groups))
        for arm in analysis.arms
    ]
    words = f"Device: {', '.join(devices)}. Budgets × seeds: {'; '.join(f'{name}: {made}' for name, made in budgets)}."
    return f"<footer>{escape(words)} All figures are also in report.json.</footer>"
