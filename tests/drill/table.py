"""Cases, and the one table that a drill prints."""

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """One fault: its name, and a function that returns what went wrong ("": nothing)."""

    name: str
    check: Callable[[], str]


@dataclass
class Result:
    """What a part of the drill found."""

    part: str
    promise: str
    count: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def drill(part: str, promise: str, cases: Iterable[Case], jobs: int, close: Callable) -> Result:
    """Checks all cases, `jobs` at a time; `close` is called in every thread at the end."""
    result, began = Result(part, promise), time.monotonic()

    def one(case: Case) -> str:
        try:
            problem = case.check()
        except Exception as error:  # a fault of the drill or of a file that it reads
            problem = f"{type(error).__name__}: {str(error)[:300]}"
        line = f"{part}: {case.name}: {problem}" if problem else ""
        if line:
            print(line, flush=True)
        return line

    with ThreadPoolExecutor(jobs) as pool:
        for problem in pool.map(one, cases):
            result.count += 1
            result.faults += [problem] if problem else []
        for _ in pool.map(lambda _: (close(), time.sleep(0.2)), range(jobs)):
            pass
    result.seconds = time.monotonic() - began
    return result


def as_json(results: list[Result]) -> dict:
    """What `experiments.readme` makes the table of docs/reliability.md of."""
    parts = [
        {
            "part": r.part,
            "promise": r.promise,
            "cases": r.count,
            "right": r.count - len(r.faults),
            "seconds": round(r.seconds),
            "faults": r.faults,
        }
        for r in results
    ]
    return {"cores": len(os.sched_getaffinity(0)), "parts": parts}


def table(results: list[Result]) -> str:
    """Markdown: right ones of all, and the time, by part."""
    lines = ["| drill | right | seconds | what is right |", "| --- | --- | --- | --- |"]
    for r in results:
        right = f"{r.count - len(r.faults)}/{r.count}"
        lines.append(f"| {r.part} | {right} | {r.seconds:.0f} | {r.promise} |")
    return "\n".join(lines)
