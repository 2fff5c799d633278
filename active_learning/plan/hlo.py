"""Collectives of a compiled program, read from its text."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", re.M | re.S)
_LINE = re.compile(rf"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ({'|'.join(KINDS)})(-start)?\((.*)$", re.M)
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_WHILE = re.compile(r" while\(.*?condition=%?([\w.\-]+), body=%?([\w.\-]+)(.*)$", re.M)


@dataclass(frozen=True)
class Collective:
    """One collective operation of a program."""

    kind: str
    # Bytes of its result on a device.
    bytes: int
    # Runs in a step; 0 where the length of a loop is only known when it runs.
    times: int
    # Named scope it belongs to ("learner", "take", ...).
    scope: str
    # Devices that take part.
    group: int

    @property
    def wire(self) -> float:
        """Bytes that a device sends each time, by the usual ring algorithms."""
        if self.kind == "collective-permute":
            return float(self.bytes)
        whole = self.bytes * self.group if self.kind == "reduce-scatter" else self.bytes
        return whole * (2 if self.kind == "all-reduce" else 1) * (self.group - 1) / self.group


def _bytes(result: str, started: bool) -> int:
    """Bytes of a result's arrays.

    An asynchronous start returns operands, then results: of these the results only.
    """
    sizes = []
    for dtype, shape in re.findall(r"\b(pred|bf16|[a-z]\d+)\[([\d,]*)\]", result):
        if started and (dtype, shape) == ("u32", ""):  # its context
            continue
        count = 1
        for n in filter(None, shape.split(",")):
            count *= int(n)
        sizes.append(count * _BITS.get(dtype, int(dtype[1:]) if dtype[1:].isdigit() else 8) // 8)
    if started and len(sizes) > 1:
        sizes = sizes[len(sizes) // 2 :]
    return sum(sizes)


def _group(rest: str) -> int:
    """Devices of a replica group.

    Written as a list of lists, as [groups,size]<=[devices], or as names of a mesh's axes.
    """
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[name]) for name, part in parts)
    match = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    return match[1].count(",") + 1 if match else 2


def _length(rest: str, condition: str, body: str) -> int:
    """Iterations of a loop; 0 where the bound is computed.

    As annotated, or the constant that the counter is compared with over the counter's step.
    """
    if noted := re.search(r'known_trip_count":\{"n":"(\d+)"', rest):
        return int(noted[1])
    compared = re.search(
        r"ROOT [^\n]* compare\(%([\w.\-]+), %([\w.\-]+)\), direction=LT", condition
    )
    if compared is None or not (bound := _constant(compared[2], condition)):
        return 0
    counter = re.search(rf"%{re.escape(compared[1])} = .*index=(\d+)", condition)
    return math.ceil(bound / (_step(counter, body) or 1))


def _constant(name: str, computation: str) -> int:
    match = re.search(rf"%{re.escape(name)} = [su]32\S* constant\((\d+)\)", computation)
    return int(match[1]) if match else 0


def _step(counter: re.Match | None, body: str) -> int:
    """What a loop's body adds to its counter, an element of the carried tuple; 0 if unknown."""
    carried = re.search(r"ROOT [^\n]* tuple\((.*?)\)", body)
    names = re.findall(r"%([\w.\-]+)", carried[1]) if carried else []
    if counter is None or int(counter[1]) >= len(names):
        return 0
    name = re.escape(names[int(counter[1])])
    added = re.search(rf"%{name} = \S+ add\(%[\w.\-]+, %([\w.\-]+)\)", body)
    return _constant(added[1], body) if added else 0


def _times(text: str, bodies: dict[str, str]) -> dict[str, int]:
    """Runs of each computation in a step: the product of the loops around it, 0 if unknown."""
    (entry,) = re.findall(r"^ENTRY %?([\w.\-]+) ", text, re.M)
    times, todo = {}, [(entry, 1)]
    while todo:
        name, count = todo.pop()
        if name not in bodies or (name in times and (times[name] == 0 or times[name] >= count > 0)):
            continue
        times[name] = count
        loops = {}
        for condition, body, rest in _WHILE.findall(bodies[name]):
            loops[body] = count * _length(rest, bodies.get(condition, ""), bodies.get(body, ""))
        called = _CALLED.findall(bodies[name])
        called += [
            one for some in _BRANCHES.findall(bodies[name]) for one in re.findall(r"[\w.\-]+", some)
        ]
        todo += [(inner, loops.get(inner, count)) for inner in called]
    return times


def collectives(text: str) -> Iterator[Collective]:
    """Yield a program's collectives.

    Args:
      text: The program, from `jax.stages.Compiled.as_text()`.
    """
    bodies = dict(_COMPUTATION.findall(text))
    times, chained = _times(text, bodies), set()
    for name, body in bodies.items():
        for result, kind, started, rest in _LINE.findall(body):
            if "chain_id=" in rest:  # one collective, executed in several fusions
                channel = re.search(r"channel_id=\d+", rest)
                if channel and channel[0] in chained:
                    continue
                chained.add(channel[0] if channel else "")
            op_name = re.search(r'op_name="([^"]*)"', rest)
            scopes = [
                part
                for part in (op_name[1] if op_name else "").split("/")
                if "(" not in part and "[" not in part
            ]
            scope = scopes[0] if scopes else ""
            yield Collective(
                kind, _bytes(result, bool(started)), times.get(name, 1), scope, _group(rest)
            )
