"""Figures as inline SVG (colours are CSS variables, so a page can be light or dark) or as a PNG.

Matplotlib's Agg backend only.
"""

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path

# A notebook's kernel exports a backend that may not be installed here; importing would fail on it.
os.environ["MPLBACKEND"] = "agg"
import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from active_learning.cost.accounts import ACCOUNTS
from active_learning.report.amortization import whole_cost
from active_learning.report.analysis import Analysis, Arm
from active_learning.report.files import number
from active_learning.report.text import clean

# Colors of arms; more arms repeat them with another line style.
ARMS = 7
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
# (light, dark). Okabe and Ito's palette, safe for color-blind readers; the accounts pair a full
# and a light tone per model.
COLORS = {
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
LIGHT = {name: light for name, (light, _) in COLORS.items()}
# Matplotlib writes real colors only: `to_svg` turns these stand-ins into var(--name).
STAND_INS = {name: f"#0a0b{n:02x}" for n, name in enumerate(COLORS)}
CLOCKS = {"updates": "updates of the learner", "flops": "total FLOPs", "seconds": "wall-clock"}


def css_variables(dark: bool) -> str:
    """Return the palette as CSS declarations."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLORS.items())


def arm_colors(analysis: Analysis) -> dict[str, tuple[str, object]]:
    """Map arms to (color name, line style), the same in every figure."""
    styles: dict[str, tuple[str, object]] = {
        arm.name: (f"arm{n % ARMS}", LINES[n // ARMS % len(LINES)])
        for n, arm in enumerate(analysis.others)
    }
    if analysis.baseline:
        styles[analysis.baseline.name] = ("base", "-")
    return styles


def save_svg(figure: Figure, file: Path) -> None:
    """Write an SVG file; the same figure gives the same bytes."""
    with matplotlib.rc_context({"svg.hashsalt": file.stem}):
        figure.savefig(file, metadata={"Date": None})


def to_svg(
    name: str, label: str, size: tuple[float, float], draw: Callable[[Axes, dict[str, str]], None]
) -> str:
    """Draw on one axes and return inline SVG.

    Args:
      name: Prefix of ids, unique within a page.
      label: Description for screen readers.
      size: Width and height in inches.
      draw: Called with the axes and the theme (color name -> color).
    """
    with (
        quiet(),
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9.5}),
    ):
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
    # Inline SVG needs no namespaces, and no address stays in the page.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for key, stand_in in STAND_INS.items():
        svg = svg.replace(stand_in, f"var(--{key})")
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(clean(label))}"', 1)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence matplotlib where a name has no glyph or leaves no room: the table has it too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        yield


def tidy(axes: Axes, theme: dict[str, str]) -> None:
    """Apply the common style: light grid, no box, soft labels."""
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
    """Return a divisor and a label for a clock's axis."""
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
    """Draw a metric against one clock.

    Curve and band of each arm's longest budget, the end of every budget, and where the target is
    reached.
    """
    styles = arm_colors(analysis)
    # 0 where unknown.
    ends = [number(group.clock(clock)) or 0.0 for arm in analysis.arms for group in arm.groups]
    scale, label = unit(clock, max(ends))
    for arm in analysis.arms:
        color, line = styles[arm.name]
        _arm_curve(axes, arm, theme[color], line, clock, scale)
        _arm_ends(axes, theme, arm, theme[color], clock, scale)
        if arm.reached_step is not None and analysis.target_curve is not None and not arm.baseline:
            curve = arm.longest.curve
            x = curve.at(clock)[list(curve.step).index(arm.reached_step)] / scale
            bar = {
                "marker": "|",
                "markersize": 13,
                "markeredgewidth": 2.2,
                "color": theme[color],
                "zorder": 6,
            }
            axes.plot([x], [100 * analysis.target_curve], **bar)
    if analysis.target is not None and analysis.target_curve is not None:
        axes.axhline(
            100 * analysis.target,
            color=theme["ink"],
            linewidth=1.1,
            linestyle=(0, (1, 2.2)),
            zorder=1.5,
        )
        if abs(analysis.target - analysis.target_curve) > 0.002:
            axes.axhline(
                100 * analysis.target_curve,
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


def _arm_curve(axes: Axes, arm: Arm, color: str, line, clock: str, scale: float) -> None:
    curve = arm.longest.curve
    x, mean = curve.at(clock) / scale, 100 * curve.mean
    axes.plot(
        x, mean, color=color, linestyle=line, linewidth=1.9, zorder=3 if arm.baseline else 3.5
    )
    if curve.sd is not None:
        low, high = mean - 100 * curve.sd, mean + 100 * curve.sd
        axes.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0, zorder=2)


def _arm_ends(axes: Axes, theme: dict, arm: Arm, color: str, clock: str, scale: float) -> None:
    for group in arm.groups:
        decides = group is arm.target_budget
        error = None if group.sd is None else 100 * group.sd
        axes.errorbar(
            [group.clock(clock) / scale], [100 * group.final], yerr=error,
            fmt="o", markersize=8 if decides else 5.5, markeredgewidth=1.6,
            markerfacecolor=color if decides else theme["paper"], markeredgecolor=color,
            ecolor=color, elinewidth=1.1, zorder=5, clip_on=False,
        )  # fmt: skip


def _bottom(analysis: Analysis) -> float | None:
    """Lower end of the axis, below everything but the first tenth of the curves."""
    lows = []
    for arm in analysis.arms:
        curve = arm.longest.curve
        later = curve.mean[curve.step >= 0.1 * curve.step[-1]]
        lows += [100 * float(later.min())] + [100 * group.final for group in arm.groups]
    return max(0.0, min(lows) - 1.0)


# More arms than this cannot be told apart in one figure.
CROWDED = 7


def _readable(analysis: Analysis) -> Analysis:
    """Of many arms keep those with enough budgets, if there are any; the page has every arm."""
    shown = tuple(
        arm for arm in analysis.arms if arm.baseline or (arm.beta_budget and arm.beta_budget.enough)
    )
    return (
        replace(analysis, arms=shown)
        if len(analysis.arms) > CROWDED and len(shown) > 1
        else analysis
    )


def main_png(analysis: Analysis, title: str) -> bytes:
    """Draw the main figure, three panels and a legend, as PNG."""
    analysis = _readable(analysis)
    with quiet(), matplotlib.rc_context({"font.size": 10}):
        figure = Figure(layout="constrained", facecolor=LIGHT["paper"])
        figure.set_figwidth(13.0)
        panels = figure.subplots(1, 3, sharey=True)
        for axes, clock in zip(panels, CLOCKS, strict=True):
            tidy(axes, LIGHT)
            draw_progress(axes, LIGHT, analysis, clock)
        panels[0].set_ylabel(_plain(analysis.metric))
        rows = _legend_below(figure, panels[0], analysis)
        figure.set_figheight(4.5 + 0.22 * rows)
        figure.suptitle(
            _plain(title), x=0.008, ha="left", color=LIGHT["ink"], fontsize=13, fontweight="bold"
        )
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=160)
    return out.getvalue()


def _legend_below(figure: Figure, axes: Axes, analysis: Analysis) -> int:
    """Place the legend under the panels in as many columns (up to 5) as fit; return its rows."""
    styles = arm_colors(analysis)
    names = [arm.name for arm in analysis.arms]  # the baseline is the first
    handles = []
    for name in names:
        color, line = styles[name]
        handles += axes.plot([], [], color=LIGHT[color], linestyle=line, linewidth=2.4)
    words = {"loc": "outside lower left", "frameon": False, "labelcolor": LIGHT["ink"]}
    labels = [_plain(name) for name in names]
    for columns in range(5, 1, -1):
        legend = figure.legend(handles, labels, ncols=columns, **words)
        if legend.get_window_extent().width <= figure.bbox.width:
            return -(-len(names) // columns)
        legend.remove()
    figure.legend(handles, labels, ncols=1, **words)
    return len(names)


def _plain(text: str) -> str:
    """Text that matplotlib reads neither as mathematics nor as a hidden label."""
    return clean(text, 70).replace("$", r"\$").lstrip("_") or " "


def draw_accounts(axes: Axes, theme: dict[str, str], analysis: Analysis) -> None:
    """Draw the five accounts as stacked bars, one per arm, over the baseline's total."""
    arms, whole = list(analysis.arms), whole_cost(analysis)
    for row, arm in enumerate(arms):
        left = 0.0
        for account in ACCOUNTS:
            width = arm.shown.account(account) / whole
            looks = {"color": theme[account], "edgecolor": theme["paper"], "linewidth": 0.8}
            axes.barh(row, width, left=left, height=0.56, **looks)
            left += width
        axes.annotate(
            f"{left:.2f}×", (left, row), xytext=(7, 0), textcoords="offset points",
            va="center", color=theme["ink"], fontweight="bold",
            bbox={"boxstyle": "square,pad=0.15", "facecolor": theme["paper"], "edgecolor": "none"},
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


def series(
    arm: Arm, value: Callable[[dict], float | None], bins: int = 60
) -> tuple[np.ndarray, np.ndarray] | None:
    """Average a logged value over seeds and at most `bins` bins of the longest budget's updates.

    Returns:
      Updates and values, each of shape (bins,), or None if it was never logged.
    """
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
    """Return a function of a log line: its first key less the others, None unless all exist."""

    def value(line: dict) -> float | None:
        values = [number(line.get(key)) for key in keys]
        known = [value for value in values if value is not None]
        return known[0] - sum(known[1:]) if len(known) == len(keys) else None

    return value


def draw_series(
    axes: Axes,
    theme: dict[str, str],
    analysis: Analysis,
    lines: Sequence[tuple[Arm, np.ndarray, np.ndarray]],
    unit_word: str,
) -> None:
    """Draw lines of (arm, updates, values) in the arms' colors; `unit_word` follows each tick."""
    styles = arm_colors(analysis)
    for arm, steps, values in lines:
        color, line = styles[arm.name]
        axes.plot(
            steps,
            values,
            color=theme[color],
            linestyle=line,
            linewidth=1.9,
            marker="o" if len(steps) == 1 else None,
        )
    axes.set_xlabel(CLOCKS["updates"])
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}{unit_word}"))


def draw_histograms(
    axes: Axes, theme: dict[str, str], color: str, scores: Sequence[tuple[int, np.ndarray]]
) -> None:
    """Draw the score distributions of one or two snapshots: early (filled) and late (outline)."""
    everything = np.concatenate([values[np.isfinite(values)] for _, values in scores])
    if everything.size == 0:
        return
    low, high = np.percentile(everything, [0.25, 99.75])
    edges = np.linspace(low, high if high > low else low + 1.0, 41)
    tone = {0: (theme["soft"], 0.35), 1: (theme[color], 1.0)}
    for n, (step, values) in enumerate(scores):
        counts, _ = np.histogram(values[np.isfinite(values)], edges)
        fractions = 100 * counts / max(1, values.size)
        looks = {"fill": n == 0, "color": tone[n][0], "alpha": tone[n][1], "linewidth": 1.8}
        axes.stairs(fractions, edges, label=f"update {step:,}", **looks)
    axes.set_xlabel("score (higher: preferred)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g} %"))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.legend(frameon=False, labelcolor=theme["ink"], loc="upper right")
