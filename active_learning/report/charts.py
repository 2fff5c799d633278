"""Figures as inline SVG (colours are CSS variables, so a page can be light or dark) or as a PNG.

Matplotlib's Agg backend only.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from active_learning.report.analysis import Analysis, Arm
from active_learning.report.runs import ACCOUNTS, Run, number

ARMS = 7  # colours before they repeat, with another line style
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
# Okabe and Ito's palette, safe for colour-blind readers; the accounts pair a full and a light tone a model. (light,
# dark)
COLOURS = {
    "ink": ("#1f2328", "#e8e6e1"), "soft": ("#646b73", "#a2a7ad"), "grid": ("#e3e1db", "#34383d"),
    "paper": ("#fdfcf9", "#16181b"),
    "base": ("#5c6166", "#b4b9be"), "bad": ("#c8321e", "#ff7a66"),
    "arm0": ("#0067a8", "#5db4ef"), "arm1": ("#d1590a", "#ff9a52"), "arm2": ("#008864", "#38c79b"),
    "arm3": ("#b3568c", "#e794c2"),
    "arm4": ("#a87800", "#e8b93c"), "arm5": ("#5a4fb0", "#a79df2"), "arm6": ("#6e4a2a", "#c9a27c"),
    "learner_train": ("#39424d", "#aeb6c0"), "online_score": ("#8cc3e8", "#2f6e9c"),
    "online_train": ("#0067a8", "#5db4ef"),
    "reference_score": ("#f3bd8c", "#98592a"), "reference_train": ("#d1590a", "#ff9a52"),
}  # fmt: skip
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
# Matplotlib writes real colours only: each name gets a stand-in that `to_svg` turns into var(--name).
STAND_INS = {name: f"#0a0b{n:02x}" for n, name in enumerate(COLOURS)}
LEVELS = {
    "replayed policy": 1,
    "foundation dataset": 3,
    "pretrained": 4,
    "none": 5,
}  # how many accounts are paid
CLOCKS = {"updates": "updates of the learner", "flops": "total FLOPs", "seconds": "wall-clock"}
ACCOUNT_WORDS = {
    "learner_train": "learner train", "online_score": "online score", "online_train": "online train",
    "reference_score": "reference score", "reference_train": "reference train",
}  # fmt: skip


def css_variables(dark: bool) -> str:
    """The palette as CSS declarations."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLOURS.items())


def arm_colours(analysis: Analysis) -> dict[str, tuple[str, object]]:
    """Arm -> (colour name, line style), the same in every figure."""
    styles = {
        arm.name: (f"arm{n % ARMS}", LINES[n // ARMS % len(LINES)])
        for n, arm in enumerate(analysis.others)
    }
    return styles | ({analysis.baseline.name: ("base", "-")} if analysis.baseline else {})


def save_svg(figure: Figure, file: Path) -> None:
    """Writes an SVG file; the same figure gives the same bytes."""
    with matplotlib.rc_context({"svg.hashsalt": file.stem}):
        figure.savefig(file, metadata={"Date": None})


def to_svg(
    name: str, label: str, size: tuple[float, float], draw: Callable[[Axes, dict[str, str]], None]
) -> str:
    """Draws on one axes and returns inline SVG. `name` prefixes ids (they must differ in a page); `label`: for screen
    readers.
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9.5}):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.add_subplot()
        tidy(axes, STAND_INS)
        draw(axes, STAND_INS)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r' xmlns(:\w+)?="[^"]*"', "", svg
    )  # an inline SVG needs none, and no address stays in the page
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for key, stand_in in STAND_INS.items():
        svg = svg.replace(stand_in, f"var(--{key})")
    title = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def tidy(axes: Axes, theme: dict[str, str]) -> None:
    """The looks that all figures share: light grid, no box, soft labels."""
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme["soft"])
    axes.spines["bottom"].set_linewidth(0.8)
    axes.tick_params(colors=theme["soft"], length=0, pad=5)
    axes.tick_params(axis="x", length=3, width=0.8)
    axes.grid(axis="y", color=theme["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme["soft"])


def unit(clock: str, largest: float) -> tuple[float, str]:
    """A divisor and a label for a clock's axis."""
    if clock == "seconds":
        sizes = ((3600.0, "hours"), (60.0, "minutes"))
        scale, word = next(((s, w) for s, w in sizes if largest >= 2 * s), (1.0, "seconds"))
        return scale, f"wall-clock, {word}"
    if clock == "flops":
        prefixes = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"))
        scale, word = next(((s, w) for s, w in prefixes if largest >= s), (1.0, ""))
        return scale, f"total compute, {word}FLOPs"
    return 1.0, "updates of the learner"


def draw_progress(axes: Axes, theme: dict[str, str], analysis: Analysis, clock: str) -> None:
    """Accuracy against one clock: curve and band of each arm's longest budget, every budget's end, where the level is
    met.
    """
    styles = arm_colours(analysis)
    ends = [
        number(group.clock(clock)) or 0.0 for arm in analysis.arms for group in arm.groups
    ]  # 0: unknown
    scale, label = unit(clock, max(ends))
    for arm in analysis.arms:
        colour, line = styles[arm.name]
        _arm_curve(axes, arm, theme[colour], line, clock, scale)
        _arm_ends(axes, theme, arm, theme[colour], clock, scale)
        if arm.reached_step is not None and not arm.baseline:
            x = (
                arm.longest.curve.at(clock)[list(arm.longest.curve.step).index(arm.reached_step)]
                / scale
            )
            bar = {
                "marker": "|",
                "markersize": 13,
                "markeredgewidth": 2.2,
                "color": theme[colour],
                "zorder": 6,
            }
            axes.plot([x], [100 * analysis.level_curve], **bar)
    if analysis.level is not None:
        axes.axhline(
            100 * analysis.level,
            color=theme["ink"],
            linewidth=1.1,
            linestyle=(0, (1, 2.2)),
            zorder=1.5,
        )
        if abs(analysis.level - analysis.level_curve) > 0.002:
            axes.axhline(
                100 * analysis.level_curve,
                color=theme["soft"],
                linewidth=0.8,
                linestyle=(0, (1, 2.2)),
                zorder=1.5,
            )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=_bottom(analysis))
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g} %"))


def _arm_curve(axes: Axes, arm: Arm, colour: str, line, clock: str, scale: float) -> None:
    curve = arm.longest.curve
    x, mean = curve.at(clock) / scale, 100 * curve.mean
    axes.plot(
        x, mean, color=colour, linestyle=line, linewidth=1.9, zorder=3 if arm.baseline else 3.5
    )
    if curve.sd is not None:
        low, high = mean - 100 * curve.sd, mean + 100 * curve.sd
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)


def _arm_ends(axes: Axes, theme: dict, arm: Arm, colour: str, clock: str, scale: float) -> None:
    for group in arm.groups:
        decides = group is arm.deciding
        error = None if group.sd is None else 100 * group.sd
        axes.errorbar(
            [group.clock(clock) / scale], [100 * group.final], yerr=error, fmt="o", markersize=8 if decides else 5.5,
            markerfacecolor=colour if decides else theme["paper"], markeredgecolor=colour, markeredgewidth=1.6,
            ecolor=colour, elinewidth=1.1, zorder=5, clip_on=False,
        )  # fmt: skip


def _bottom(analysis: Analysis) -> float | None:
    """Leaves out the first steep tenth of the curves: the question is decided at the top."""
    lows = []
    for arm in analysis.arms:
        curve = arm.longest.curve
        later = curve.mean[curve.step >= 0.1 * curve.step[-1]]
        lows += [100 * float(later.min())] + [100 * group.final for group in arm.groups]
    return max(0.0, min(lows) - 1.0)


CROWDED = 7  # arms that one figure still shows apart


def _readable(analysis: Analysis) -> Analysis:
    """Of many arms those with enough budgets for a figure of savings; all where there are none. The page has every arm."""
    shown = tuple(
        arm for arm in analysis.arms if arm.baseline or (arm.beta_budget and arm.beta_budget.enough)
    )
    return (
        replace(analysis, arms=shown)
        if len(analysis.arms) > CROWDED and len(shown) > 1
        else analysis
    )


def main_png(analysis: Analysis, title: str) -> bytes:
    """The main figure, three panels and a legend, as PNG (for a README)."""
    analysis = _readable(analysis)
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(layout="constrained", facecolor=LIGHT["paper"])
        figure.set_figwidth(13.0)
        panels = figure.subplots(1, 3, sharey=True)
        for axes, clock in zip(panels, CLOCKS, strict=True):
            tidy(axes, LIGHT)
            draw_progress(axes, LIGHT, analysis, clock)
        panels[0].set_ylabel(analysis.metric)
        rows = _legend_below(figure, panels[0], analysis)
        figure.set_figheight(4.5 + 0.22 * rows)
        figure.suptitle(
            _plain(title), x=0.008, ha="left", color=LIGHT["ink"], fontsize=13, fontweight="bold"
        )
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=160)
    return out.getvalue()


def _legend_below(figure: Figure, axes: Axes, analysis: Analysis) -> int:
    """Every arm's name under the panels, the baseline first, in as many columns (up to 5) as the figure is wide enough for; the number of
    rows.
    """
    styles = arm_colours(analysis)
    names = [arm.name for arm in analysis.arms]  # the baseline is the first
    handles = []
    for name in names:
        colour, line = styles[name]
        handles += axes.plot([], [], color=LIGHT[colour], linestyle=line, linewidth=2.4)
    words = {"loc": "outside lower left", "frameon": False, "labelcolor": LIGHT["ink"]}
    for columns in range(5, 0, -1):
        legend = figure.legend(handles, [_plain(name) for name in names], ncols=columns, **words)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return -(-len(names) // columns)
        legend.remove()


def _plain(text: str) -> str:
    """Text that matplotlib must not read as mathematics or as a hidden label."""
    return text.replace("$", r"\$").lstrip("_") or " "


def draw_accounts(axes: Axes, theme: dict[str, str], analysis: Analysis) -> None:
    """Five accounts as stacked bars, one an arm (its deciding budget, else its longest), over the baseline's total."""
    arms, whole = list(analysis.arms), _whole(analysis)
    for row, arm in enumerate(arms):
        left = 0.0
        for account in ACCOUNTS:
            width = arm.shown.account(account) / whole
            axes.barh(
                row,
                width,
                left=left,
                height=0.56,
                color=theme[account],
                edgecolor=theme["paper"],
                linewidth=0.8,
            )
            left += width
        axes.annotate(
            f"{left:.2f}×", (left, row), xytext=(7, 0), textcoords="offset points", va="center", color=theme["ink"],
            fontweight="bold", bbox={"boxstyle": "square,pad=0.15", "facecolor": theme["paper"], "edgecolor": "none"},
        )  # fmt: skip
    if analysis.baseline:
        axes.axvline(1.0, color=theme["ink"], linewidth=1.1, linestyle=(0, (1, 2.2)))
    axes.set_yticks(
        range(len(arms)), [_plain(f"{arm.name} · {arm.shown.budget:,}") for arm in arms]
    )
    axes.tick_params(axis="y", labelcolor=theme["ink"])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel(
        "total FLOPs, baseline’s full budget = 1"
        if analysis.baseline
        else "total FLOPs, largest arm = 1"
    )


def _whole(analysis: Analysis) -> float:
    totals = [arm.shown.mean("total_flops") for arm in analysis.arms]
    return (
        analysis.baseline.longest.mean("total_flops") if analysis.baseline else max(totals)
    ) or 1.0


def amortised(analysis: Analysis) -> dict[str, dict[str, float | None]]:
    """Arm -> cost over the baseline's at the four levels of amortisation: running sums of the accounts; None: a level of which a run of
    this kind says nothing.

    "none" adds the training of a reference that was loaded and not charged to the run.
    """
    whole = _whole(analysis)
    costs: dict[str, dict[str, float | None]] = {}
    for arm in analysis.arms:
        runs = arm.shown.runs
        unknown = set[str]().union(*map(_not_told, runs))
        loaded = [
            run.reference.flops if run.reference and not run.reference.charged else 0.0
            for run in runs
        ]
        sums = {name: sum(arm.shown.account(a) for a in ACCOUNTS[:n]) for name, n in LEVELS.items()}
        sums["none"] += float(np.mean(loaded))
        costs[arm.name] = {
            name: None if name in unknown else value / whole for name, value in sums.items()
        }
    return costs


def _not_told(run: Run) -> set[str]:
    """The levels that a run's accounts cannot tell the cost of: it did not do itself what would be paid for there."""
    needs, kind = run.setting("select.policy.needs", ()), run.setting("reference.kind", "trained")
    names = (
        {"replayed policy"} if "learner" in needs else set()
    )  # its scoring is inside learner train
    if run.setting("select.replay"):
        names |= set(LEVELS) - {"replayed policy"}
    if "reference" not in needs and run.setting("select.policy.keep", 1.0) == 1:
        return names
    if kind == "stored":
        names |= {"pretrained", "none"}
    elif kind in ("cotrained", "online"):  # no reference is there before the run
        names |= {"foundation dataset", "pretrained"}
    elif kind == "loaded" and run.setting("reference.path", "").endswith(
        ".npz"
    ):  # published weights
        names |= {"none"}
    return names


def series(
    arm: Arm, value: Callable[[dict], float | None], bins: int = 60
) -> tuple[np.ndarray, np.ndarray] | None:
    """Seed means of a logged value over updates in the longest budget, in at most `bins` bins; None: never logged."""
    points = [(line["step"], value(line)) for run in arm.longest.runs for line in run.lines]
    points = [(step, y) for step, y in points if y is not None]
    if not points:
        return None
    steps, values = np.array(points, float).T
    distinct = np.unique(steps)
    cell = np.arange(distinct.size) * bins // max(bins, distinct.size)
    which = cell[np.searchsorted(distinct, steps)]
    cells = np.unique(which)
    return np.array([steps[which == c].mean() for c in cells]), np.array(
        [values[which == c].mean() for c in cells]
    )


def logged(*keys: str) -> Callable[[dict], float | None]:
    """Reads the first key of a line less the others; None unless all are there."""

    def value(line: dict) -> float | None:
        values = [number(line.get(key)) for key in keys]
        return None if None in values else values[0] - sum(values[1:])

    return value


def draw_series(
    axes: Axes,
    theme: dict[str, str],
    analysis: Analysis,
    lines: Sequence[tuple[Arm, np.ndarray, np.ndarray]],
    unit_word: str,
) -> None:
    """Lines of (arm, updates, percent) in the arms' colours; `unit_word` follows each tick."""
    styles = arm_colours(analysis)
    for arm, steps, values in lines:
        colour, line = styles[arm.name]
        axes.plot(
            steps,
            values,
            color=theme[colour],
            linestyle=line,
            linewidth=1.9,
            marker="o" if len(steps) == 1 else None,
        )
    axes.set_xlabel(CLOCKS["updates"])
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}{unit_word}"))


def draw_histograms(
    axes: Axes, theme: dict[str, str], colour: str, scores: Sequence[tuple[int, np.ndarray]]
) -> None:
    """Score distributions of one or two probes, early first (grey fill), late second (coloured outline)."""
    everything = np.concatenate([values[np.isfinite(values)] for _, values in scores])
    if everything.size == 0:
        return
    low, high = np.percentile(everything, [0.25, 99.75])
    edges = np.linspace(low, high if high > low else low + 1.0, 41)
    tone = {0: (theme["soft"], 0.35), 1: (theme[colour], 1.0)}
    for n, (step, values) in enumerate(scores):
        counts, _ = np.histogram(values[np.isfinite(values)], edges)
        shares = 100 * counts / max(1, values.size)
        looks = {"fill": n == 0, "color": tone[n][0], "alpha": tone[n][1], "linewidth": 1.8}
        axes.stairs(shares, edges, label=f"update {step:,}", **looks)
    axes.set_xlabel("score (higher: preferred)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g} %"))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.legend(frameon=False, labelcolor=theme["ink"], loc="upper right")
