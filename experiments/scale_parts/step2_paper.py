"""On paper: what a billion examples ask of storage, hosts and network, from measured pieces.

ViT-B/16 at 224 px on 256 TPU v5e, scored by ViT-Ti at a small view of 96 px, ratio 5, one pass over
a billion candidates. What an example costs to read and to decode is measured (bench_data.json), and
so are bytes of the index (scale_2_index.json); FLOPs are counted as everywhere. The machine's
figures below are its maker's, and how much of its arithmetic is reached is assumed. Writes
scale_2_paper.json.
"""

import json
from pathlib import Path

from active_learning.models import VARIANTS, ViT

RESULTS = Path(__file__).resolve().parents[1] / "results"
EXAMPLES, RATIO, BATCH, CHIPS = 10**9, 5, 4096, 256
PEAK, REACHED = 197e12, 0.5  # FLOP/s of a chip in bfloat16, and the fraction that is reached
CHIPS_A_HOST, CORES, NETWORK = 4, 112, 12.5e9  # of a host of four chips; bytes a second
BUCKET = 25e9  # bytes a second of one bucket, before its quota is raised
LATENCY, CONNECTIONS = 0.05, 64  # seconds a request; requests of a process at a time
SMALL_VIEW = 96


def _model(name: str) -> ViT:
    return ViT(patch=16, **VARIANTS[name])


def compute() -> dict[str, float]:
    """Seconds of an update on all chips, and examples a second."""
    learner, scorer = _model("B").cost((224, 224, 3)), _model("Ti").cost((SMALL_VIEW,) * 2 + (3,))
    flops = BATCH * (learner.train + scorer.train + 2 * RATIO * scorer.forward)
    uniform = BATCH * learner.train
    seconds = flops / (CHIPS * PEAK * REACHED)
    return {
        "seconds_an_update": seconds,
        "flops_of_uniform": flops / uniform,
        "selected_a_second": BATCH / seconds,
        "candidates_a_second": RATIO * BATCH / seconds,
        "hours_a_pass": EXAMPLES / (RATIO * BATCH / seconds) / 3600,
    }


def ways(rates: dict[str, float], data: dict) -> list[dict]:
    """What each way of reading asks of a host and of the bucket, as a fraction of what there is."""
    photo, view = (data["candidates"]["bytes"][name] for name in ("photo", "small view"))
    selected, candidates = rates["selected_a_second"], rates["candidates_a_second"]
    of_small = data["candidates"]["cost_of_ratio_1"]["prepared"]["cpu"] - 1  # of RATIO candidates
    photo_seconds = data["decode"]["threads"] / data["decode"]["images_per_s"]
    cores = selected * photo_seconds * (1 + of_small)
    hosts, block = CHIPS / CHIPS_A_HOST, 4 << 20
    one_by_one = selected * photo + candidates * view
    whole = candidates * (photo + view)
    out = []
    for name, moved, requests in (
        ("tars with small views, a request for each", one_by_one, selected + candidates),
        ("prepared shards in chunks, copied whole", whole, whole / block),
        ("the same, copies on the hosts' disks already", 0.0, 0.0),
    ):
        fractions = {
            "network of a host": moved / hosts / NETWORK,
            "one bucket": moved / BUCKET,
            "connections of a host": requests / hosts * LATENCY / CONNECTIONS,
            "cores of a host": cores / hosts / CORES,
        }
        first = max(fractions, key=lambda part: fractions[part])
        out.append(
            {
                "way": name,
                "bytes_a_second": moved,
                "requests_a_second": requests,
                "fractions": fractions,
                "first_to_saturate": first if fractions[first] > 1 else "none",
                "speed": min(1.0, 1 / fractions[first]),
            }
        )
    return out


def table(result: dict) -> str:
    """Markdown: the rates, what is stored, and each way of reading."""
    rates, stored = result["compute"], result["stored_bytes"]
    head = (
        f"An update of {BATCH:,} selected of {RATIO * BATCH:,} candidates takes "
        f"{1e3 * rates['seconds_an_update']:.0f} ms of arithmetic ({rates['flops_of_uniform']:.2f} "
        f"times a uniform one): {rates['selected_a_second'] / 1e3:,.0f} thousand selected and "
        f"{rates['candidates_a_second'] / 1e3:,.0f} thousand candidates a second, one pass in "
        f"{rates['hours_a_pass']:.1f} hours. Stored: {stored['photos'] / 1e12:.0f} TB of photos, "
        f"{stored['small views'] / 1e12:.1f} TB of small views, {stored['index'] / 1e9:.0f} GB of "
        "index on each host's disk."
    )
    parts = list(result["ways"][0]["fractions"])
    lines = [
        f"| way of reading | GB/s in all | requests/s in all | {' | '.join(parts)} "
        "| first to saturate | speed |",
        "|" + " --- |" * (len(parts) + 5),
    ]
    for way in result["ways"]:
        cells = [way["way"], f"{way['bytes_a_second'] / 1e9:,.0f}"]
        cells += [f"{way['requests_a_second']:,.0f}"]
        cells += [f"{100 * way['fractions'][part]:,.0f} %" for part in parts]
        cells += [way["first_to_saturate"], f"{100 * way['speed']:.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([head, "", *lines])


def main(scale: str, out: Path) -> dict:
    """Computes; the same at both scales, but for the index, which the step has just measured."""
    data = json.loads((RESULTS / "bench_data.json").read_text())
    index = json.loads((out / "scale_2_index.json").read_text())["real"]
    photo, view = (data["candidates"]["bytes"][name] for name in ("photo", "small view"))
    rates = compute()
    result = {
        "scale": scale,
        "stored_bytes": {
            "photos": EXAMPLES * photo,
            "small views": EXAMPLES * view,
            "index": EXAMPLES * index["index_bytes_an_example"],
        },
        "compute": rates,
        "ways": ways(rates, data),
    }
    (out / "scale_2_paper.json").write_text(json.dumps(result, indent=1) + "\n")
    return result
