"""One self-contained HTML page: nothing in it is fetched from anywhere."""

from html import escape

from active_learning.report import charts, pictures, tables
from active_learning.report.analysis import SAVED, Analysis, Arm
from active_learning.report.headline import choose, headline, percent
from active_learning.report.runs import ACCOUNTS
from active_learning.report.style import style_sheet


def render(analysis: Analysis, title: str) -> str:
    """The page, in reading order: headline, accuracy on three clocks, table, accounts, wrong labels, the reference's lead, images."""
    sections = [
        _opening(analysis, title),
        _main_figure(analysis),
        f"<h2>The numbers</h2>{tables.html_table(analysis)}<p class='note'>{escape(tables.legend(analysis))}</p>{_notes(analysis)}",
        _accounts(analysis),
        f'<div class="pair">{_wrong_labels(analysis)}{_lead(analysis)}</div>',
        _images(analysis),
        _footer(analysis),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style_sheet()}</style></head>\n<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _opening(analysis: Analysis, title: str) -> str:
    runs = sum(len(group.runs) for arm in analysis.arms for group in arm.groups)
    kicker = f"{_count(runs, 'run')} · {_count(len(analysis.arms), 'arm')} · {analysis.final_metric}"
    return f'<header><h1>{escape(title)}</h1><p class="lead">{escape(headline(analysis))}</p>{_big_numbers(choose(analysis))}<p class="kicker">{escape(kicker)}</p></header>'


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
            words = f"{'more' if lost else 'fewer'} updates" if key == "updates_saved" else f"{word} {'more' if lost else 'saved'}"
            cells.append(f'<div{" class=lost" if lost else ""}><b>{percent(abs(value))}</b><span>{words}</span></div>')
    return f'<div class="numbers">{"".join(cells)}</div>'


def _legend(analysis: Analysis, arms: list[Arm]) -> str:
    styles, items = charts.arm_colours(analysis), []
    for arm in arms:
        colour, line = styles[arm.name]
        dash = "solid" if line == "-" else "dashed"
        words = " (baseline)" if arm.baseline else " (does not count)" if arm.counts is False else ""
        items.append(f'<li><i style="border-top-color: var(--{colour}); border-top-style: {dash}"></i>{escape(arm.name + words)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _main_figure(analysis: Analysis) -> str:
    panels = []
    for clock, words in charts.CLOCKS.items():
        svg = charts.to_svg(f"progress-{clock}", f"{analysis.metric} against {words}", (4.6, 3.9), lambda axes, theme, clock=clock: charts.draw_progress(axes, theme, analysis, clock))
        panels.append(f"<div>{svg}</div>")
    band = "Bands are ± one standard deviation over seeds. " if any(arm.longest.curve.sd is not None for arm in analysis.arms) else "One seed: no band. "
    level = "The dotted line is the baseline’s final value; a bar on it marks where a curve stays above it. " if analysis.baseline else ""
    return (
        f"<h2>Accuracy on three clocks</h2>{_legend(analysis, list(analysis.arms))}<div class='panels'>{''.join(panels)}</div>"
        f"<p class='note'>Curves: {escape(analysis.metric)} of each arm’s longest budget. {band}Circles: where each fully decayed budget ends "
        f"({escape(analysis.final_metric)}); a filled circle is the shortest that reaches the baseline. {level}Reference training that is charged "
        "comes first on the compute and time axes.</p>"
    )


def _notes(analysis: Analysis) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in analysis.notes)}</ul>' if analysis.notes else ""


def _accounts(analysis: Analysis) -> str:
    svg = charts.to_svg("accounts", "FLOPs of the five accounts, one bar an arm", (8.4, 0.9 + 0.46 * len(analysis.arms)), lambda axes, theme: charts.draw_accounts(axes, theme, analysis))
    items = "".join(f'<li><i class="box" style="background: var(--{a})"></i>{charts.ACCOUNT_WORDS[a]}</li>' for a in ACCOUNTS)
    levels = charts.amortised(analysis)
    names = list(next(iter(levels.values())))
    head = "".join(f"<th scope='col'>{name}</th>" for name in names)
    body = "".join(f"<tr><th scope='row'>{escape(arm)}</th>" + "".join(f"<td>{row[name]:.2f}×</td>" for name in names) + "</tr>" for arm, row in levels.items())
    return (
        f"<h2>Where the compute goes</h2><p class='note'>FLOPs of each arm’s deciding budget (updates beside its name), or of its longest budget when none reaches the "
        f"level, over the baseline’s full budget.</p><ul class='legend'>{items}</ul><div class='bars'>{svg}</div>"
        f"<p class='note' style='margin-top:22px'>The same bars, cut where parts are already paid for: choices of an earlier run replayed, reference scores stored beside "
        f"the data, a reference that exists, or nothing.</p><div class='scroll small' style='display:inline-block; max-width:100%'><table><thead><tr><th scope='col'>amortised</th>{head}"
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _wrong_labels(analysis: Analysis) -> str:
    head = "<div><h2>Wrong labels among the chosen</h2>"
    found = [(arm, charts.series(arm, charts.logged("select/wrong_share"))) for arm in analysis.arms]
    lines = [(arm, steps, 100 * values) for arm, (steps, values) in ((arm, line) for arm, line in found if line is not None)]
    if not lines:
        return head + '<p class="none">Not logged in these runs (the true labels are unknown).</p></div>'
    pools = [pool for pool in (charts.series(arm, charts.logged("pool/wrong_share")) for arm in analysis.arms) if pool is not None]
    pool = float(pools[0][1].mean()) if pools else None

    def draw(axes, theme):
        charts.draw_series(axes, theme, analysis, lines, " %")
        if pool is not None:
            axes.axhline(100 * pool, color=theme["ink"], linewidth=1.1, linestyle=(0, (1, 2.2)))
        axes.set_ylim(bottom=0)

    words = f"Dotted: the pool’s share, {percent(pool)}. " if pool is not None else ""
    svg = charts.to_svg("wrong", "share of wrong labels among the chosen over updates", (5.2, 3.3), draw)
    return f"{head}<p class='note'>{words}Longest budgets, seed means; lower is better.</p>{_legend(analysis, [line[0] for line in lines])}{svg}</div>"


def _lead(analysis: Analysis) -> str:
    head = "<div><h2>The reference’s lead</h2>"
    read = charts.logged("gate/reference_accuracy", "gate/online_accuracy")
    found = [(arm, charts.series(arm, read)) for arm in analysis.arms]
    lines = [(arm, line[0], 100 * line[1]) for arm, line in found if line is not None]
    if not lines:
        return head + '<p class="none">Not logged in these runs (no gate was evaluated).</p></div>'

    def draw(axes, theme):
        charts.draw_series(axes, theme, analysis, lines, "")
        axes.axhline(0.0, color=theme["ink"], linewidth=1.1)

    svg = charts.to_svg("lead", "accuracy of the reference less that of the online model over updates", (5.2, 3.3), draw)
    return (
        f"{head}<p class='note'>Points of gate accuracy by which the reference is ahead of the online model. Selection pays while it is; below zero the score is "
        f"noise.</p>{_legend(analysis, [line[0] for line in lines])}{svg}</div>"
    )


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
        svg = charts.to_svg(f"scores-{n}", f"histogram of the scores of {arm.name}", (4.6, 2.7), lambda axes, theme, c=colour, s=scores: charts.draw_histograms(axes, theme, c, s))
        where = f"{arm.name}, {run.total_steps:,} updates, seed {run.seed}"
        body = f"{pictures.strips(run, probes)}<h4>Scores of the super-batch</h4><div class='histogram'>{svg}</div>"
        parts.append(f"<h3>{escape(where)}</h3>{body}" if not parts else f"<details><summary>{escape(where)}</summary>{body}</details>")
    if not parts:
        return head + '<p class="none">No probe was stored inside a selection window of these runs.</p>'
    note = "The candidates with the highest and the lowest scores in the first and the last probe while selection was on. Red frame: the label is wrong. Hover for the score."
    return f"{head}<p class='note'>{note}</p>{''.join(parts)}"


def _footer(analysis: Analysis) -> str:
    devices = sorted({run.device for arm in analysis.arms for group in arm.groups for run in group.runs})
    seeds = "; ".join(f"{arm.name}: {', '.join(f'{g.budget:,} × {len(g.runs)}' for g in arm.groups)}" for arm in analysis.arms)
    return f"<footer>{escape('Device: ' + ', '.join(devices))}. Budgets × seeds: {escape(seeds)}. All figures are also in report.json.</footer>"
