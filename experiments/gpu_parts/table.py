"""What the arms of the regime reached, and when: read from their results."""

from collections.abc import Iterator

TARGET = 0.867  # What an average of the weights reaches with a ResNet-34 (arXiv 2411.18704).


def reached(arms: list[dict]) -> Iterator[dict]:
    """When each run first reached a level, with either of its weights: updates, FLOPs, seconds.

    Levels: uniform's last accuracy at its full budget, raw and averaged, and TARGET.
    """
    full = next((arm for arm in arms if arm["arm"] == "uniform" and arm["budget"] == 1), None)
    if full is None:
        return
    levels = {
        "uniform": full["final"]["accuracy"],
        "uniform, EMA": full["final"]["ema_accuracy"],
        "target": TARGET,
    }
    for arm in arms:
        for level, value in levels.items():
            best = lambda point: max(point["accuracy"], point["ema_accuracy"])
            point = next((point for point in arm["curve"] if best(point) >= value), None)
            yield {
                "arm": arm["arm"],
                "budget": arm["budget"],
                "level": level,
                "accuracy": value,
                "updates": point and point["update"],
                "flops": point and point["flops"],
                "seconds": point and point["seconds"] + arm["reference_seconds"],
            }


def lines(result: dict) -> Iterator[str]:
    """The results as a short table."""
    yield (
        f"regime: {result['training_examples']:,} training and {result['test_examples']:,} test "
        f"images, {result['corrupted_fraction']:.0%} of the labels wrong, compiled in "
        f"{sum(result['compile_seconds'].values()):.0f} s"
    )
    full = next((arm for arm in result["arms"] if arm["budget"] == 1), None)
    for arm in result["arms"]:
        final = arm["final"]
        over = (
            arm["total_flops"] / full["total_flops"],
            arm["total_seconds"] / full["total_seconds"],
        )
        times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in arm["ms_per_update"].items())
        yield (
            f"  {arm['arm']:22s} {arm['updates']:6,} updates: {final['accuracy']:.1%}, EMA "
            f"{final['ema_accuracy']:.1%}; {over[0]:.0%} of the FLOPs, "
            f"{arm['total_seconds']:.1f} s ({over[1]:.0%}); {times}"
        )
    for row in result.get("reached", []):
        if row["updates"] is not None and row["arm"] != "uniform":
            yield (
                f"  {row['arm']} ({row['budget']:.0%}) reaches {row['level']} "
                f"({row['accuracy']:.1%}) after {row['updates']:,} updates, {row['seconds']:.1f} s"
            )
    for row in result["skipped"]:
        yield f"  {row['arm']} ({row['budget']:.0%}) skipped: {row['why']}"
