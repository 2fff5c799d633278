"""The report as one self-contained HTML page: nothing in it is fetched from anywhere."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from active_learning.cost.accounts import ACCOUNT_LABELS, AMORTIZATION_LEVELS
from active_learning.report import charts, pictures, tables
from active_learning.report.amortization import amortized_costs
from active_learning.report.analysis import SAVED, Analysis, Arm
from active_learning.report.headline import choose, headline, percent
from active_learning.report.runs import Run
from active_learning.report.text import clean

TEMPLATES = "active_learning.report.templates"
Line = tuple[Arm, np.ndarray, np.ndarray]


def render(analysis: Analysis, title: str) -> str:
    """Render the page: headline, three clocks, table, compute, wrong labels, lead, images."""
    runs = [run for arm in analysis.arms for group in arm.groups for run in group.runs]
    kicker = (_count(len(runs), "run"), _count(len(analysis.arms), "arm"), analysis.final_metric)
    levels = [*reversed(AMORTIZATION_LEVELS)]
    return (
        environment()
        .get_template("report.html")
        .render(
            title=clean(title),
            style=Markup(style_sheet()),
            headline=headline(analysis),
            numbers=_big_numbers(choose(analysis)),
            kicker=" · ".join(kicker),
            arms=_legend(analysis, list(analysis.arms)),
            panels=[_progress(analysis, clock, text) for clock, text in charts.CLOCKS.items()],
            panels_note=_progress_note(analysis),
            columns=tables.COLUMNS,
            rows=[_row(arm, n) for arm in analysis.arms for n in range(len(arm.groups))],
            columns_note=tables.legend(analysis),
            notes=analysis.notes,
            accounts=ACCOUNT_LABELS.items(),
            accounts_svg=_accounts(analysis),
            levels=levels,
            amortization=[
                (arm, ["–" if costs[n] is None else f"{costs[n]:.2f}×" for n in levels])
                for arm, costs in amortized_costs(analysis).items()
            ],
            corrupted=_corrupted(analysis),
            lead=_lead(analysis),
            decisions=[_decisions(run) for run in runs if run.decisions],
            pictures=_pictures(analysis),
            footer=_footer(analysis),
        )
    )


def environment() -> jinja2.Environment:
    """Returns the templates of this folder; every value is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("active_learning.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )


def style_sheet() -> str:
    """Return the CSS of the whole page. Colors are those of the charts, for light and dark."""
    light, dark = charts.css_variables(False), charts.css_variables(True)
    night = f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    rules = files(TEMPLATES).joinpath("report.css").read_text(encoding="utf-8")
    return f":root {{ color-scheme: light dark; {light} }}\n{night}\n{rules}"


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _svg(name: str, label: str, size: tuple[float, float], draw: Callable) -> Markup:
    """A figure as markup; matplotlib escapes the text inside."""
    return Markup(charts.to_svg(name, label, size, draw))


def _big_numbers(arm: Arm | None) -> list[dict]:
    if arm is None or arm.target_budget is None or arm.valid is False:
        return []
    numbers = []
    for key, word in zip(SAVED, ("updates", "total FLOPs", "wall-clock"), strict=True):
        value = arm.saved[key]
        if value is not None:
            sign = "more" if value < 0 else "fewer" if key == "updates_saved" else "less"
            text = f"{sign} {word}"
            numbers.append({"lost": value < 0, "value": percent(abs(value)), "text": text})
    return numbers


def _legend(analysis: Analysis, arms: list[Arm]) -> list[dict]:
    styles = charts.arm_colors(analysis)
    entries = []
    for arm in arms:
        color, line = styles[arm.name]
        remark = " (baseline)" if arm.baseline else " (invalid)" if arm.valid is False else ""
        dash = "solid" if line == "-" else "dashed"
        entries.append({"color": color, "line": dash, "text": arm.name + remark})
    return entries


def _progress(analysis: Analysis, clock: str, text: str) -> Markup:
    return _svg(
        f"progress-{clock}",
        f"{analysis.metric} against {text}",
        (3.75, 3.3),
        lambda axes, theme: charts.draw_progress(axes, theme, analysis, clock),
    )


def _progress_note(analysis: Analysis) -> str:
    seeds = any(arm.longest.curve.sd is not None for arm in analysis.arms)
    sentences = [
        f"Curves: {analysis.metric} of each arm’s longest budget.",
        "Bands are ± one standard deviation over seeds." if seeds else "One seed: no band.",
        f"Circles: where each fully decayed budget ends ({analysis.final_metric}).",
        "Filled: the shortest that reaches the target.",
    ]
    if analysis.baseline:
        sentences.append(
            "The dotted line is the target, the baseline’s final value; a bar on it marks where a "
            "curve stays above it."
        )
    sentences.append("Reference training that is charged comes first on the compute and time axes.")
    return " ".join(sentences)


def _row(arm: Arm, n: int) -> dict:
    """A row of the table: invalid ones are struck, an arm's target budget is bold."""
    group = arm.groups[n]
    classes = {
        "first": n == 0,
        "void": arm.valid is False,
        "decides": group is arm.target_budget,
    }
    name, *cells = tables.row(arm, group)
    split = (cell.partition(" (") for cell in cells)
    return {
        "classes": " ".join(name for name, on in classes.items() if on),
        "name": name,
        # A remark in brackets goes below the number, small.
        "cells": [(value, remark.removesuffix(")")) for value, _, remark in split],
    }


def _decisions(run: Run) -> dict[str, Any]:
    """What a run decided about selection, and what it knew of the labels."""
    return {
        "title": f"{run.name}, {run.total_steps:,} updates, seed {run.seed}",
        "labels": run.label_check,
        "rows": [(f"{one.step:,}", one.decision, one.reason) for one in run.decisions],
    }


def _accounts(analysis: Analysis) -> Markup:
    return _svg(
        "accounts",
        "FLOPs of the five accounts, one bar per arm",
        (8.4, 0.9 + 0.46 * len(analysis.arms)),
        lambda axes, theme: charts.draw_accounts(axes, theme, analysis),
    )


def _lines(analysis: Analysis, *keys: str) -> list[Line]:
    """(arm, updates, percent) of the arms that logged the keys: the first less the others."""
    lines = [(arm, charts.series(arm, charts.logged(*keys))) for arm in analysis.arms]
    return [(arm, line[0], 100 * line[1]) for arm, line in lines if line is not None]


def _corrupted(analysis: Analysis) -> dict[str, Any] | None:
    lines = _lines(analysis, "select/corrupted_fraction")
    if not lines:
        return None
    candidates = _lines(analysis, "candidates/corrupted_fraction")
    level = float(candidates[0][2].mean()) if candidates else None

    def draw(axes, theme):
        charts.draw_series(axes, theme, analysis, lines, " %")
        if level is not None:
            axes.axhline(level, color=theme["ink"], linewidth=1.1, linestyle=(0, (1, 2.2)))
        axes.set_ylim(bottom=0)

    dotted = "" if level is None else f"Dotted: among the candidates, {percent(level / 100)}. "
    label = "fraction of wrong labels among the selected over updates"
    return {
        "note": f"{dotted}Longest budgets, seed means; lower is better.",
        "legend": _legend(analysis, [line[0] for line in lines]),
        "svg": _svg("corrupted", label, (5.2, 3.3), draw),
    }


def _lead(analysis: Analysis) -> list[dict[str, Any]]:
    """The reference's lead over the online model on the gate: in accuracy, then in loss."""
    accuracy = _lines(analysis, "gate/reference_accuracy", "gate/online_accuracy")
    if not accuracy:
        return []
    loss = _lines(analysis, "gate/online_loss", "gate/reference_loss")
    in_accuracy = _lead_figure(
        analysis,
        accuracy,
        "lead",
        "accuracy of the reference less that of the online model",
        "Points of gate accuracy by which the reference is ahead of the online model. Selection "
        "pays while it is; below zero the score is noise.",
    )
    if not loss:
        return [in_accuracy]
    in_loss = _lead_figure(
        analysis,
        [(arm, steps, values / 100) for arm, steps, values in loss],
        "lead-loss",
        "loss of the online model less that of the reference",
        "The same in loss (nats per gate example): the mean learnability score that is left.",
    )
    return [in_accuracy, in_loss | {"legend": []}]


def _lead_figure(
    analysis: Analysis, lines: list[Line], name: str, label: str, note: str
) -> dict[str, Any]:
    def draw(axes, theme):
        charts.draw_series(axes, theme, analysis, lines, "")
        axes.axhline(0.0, color=theme["ink"], linewidth=1.1)

    legend = _legend(analysis, [line[0] for line in lines])
    return {"note": note, "legend": legend, "svg": _svg(name, label, (5.2, 3.3), draw)}


def _pictures(analysis: Analysis) -> list[dict[str, Any]]:
    """One entry per arm that has snapshots, the arm of the headline first."""
    first = choose(analysis)
    entries = []
    for n, arm in enumerate(sorted(analysis.arms, key=lambda arm: arm is not first)):
        found = pictures.run_with_snapshots(arm)
        if found is None:
            continue
        run, snapshots = found
        color = charts.arm_colors(analysis)[arm.name][0]
        scores = [(snapshot.step, snapshot.scores) for snapshot in snapshots]
        svg = _svg(
            f"scores-{n}",
            f"histogram of the scores of {arm.name}",
            (4.6, 2.7),
            lambda axes, theme, c=color, s=scores: charts.draw_histograms(axes, theme, c, s),
        )
        title = f"{arm.name}, {run.total_steps:,} updates, seed {run.seed}"
        entries.append({"title": title, "strips": pictures.strips(run, snapshots), "svg": svg})
    return entries


def _footer(analysis: Analysis) -> str:
    devices = sorted(
        {run.device for arm in analysis.arms for group in arm.groups for run in group.runs}
    )
    budgets = "; ".join(
        f"{arm.name}: {', '.join(f'{g.budget:,} × {len(g.runs)}' for g in arm.groups)}"
        for arm in analysis.arms
    )
    return f"Device: {', '.join(devices)}. Budgets × seeds: {budgets}."
