"""Several sources as one, each with its fraction of the stream of candidates."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, Integer

from active_learning.data.errors import DataError
from active_learning.data.sources.problems import Problems
from active_learning.data.sources.source import Opened, Source, SourceSection, size_of

INDEX_BITS = 48  # of an id; what is above is the number of the source


@dataclass(frozen=True)
class Mixture(SourceSection):
    """Several sources by name, with their proportions of the candidates.

    `weights`: e.g. {"photos": 3, "drawings": 1}; none: by size.

    All must have images of one size. Classes are matched by name. An id is source_index << 48 | the
    source's own id, source_index being the place of its name among the sorted ones. The test set is
    all test sets together.
    """

    sources: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    label: str = "label"  # '': there is none (captions only)

    @property
    def small(self) -> int:
        """Px of the small view of all sources, 0 where they have none of one size."""
        return _common_small(self.sources.values())

    def open(self) -> Opened:
        """Opens every source. Raises DataError naming key or source."""
        names = sorted(self.sources)
        if len(names) < 2:
            raise DataError(
                f"config.data.sources: {len(names)} sources ({', '.join(names)}), expected two or "
                f"more"
            )
        if self.weights and (
            sorted(self.weights) != names or not all(_positive(w) for w in self.weights.values())
        ):
            raise DataError(
                f"config.data.weights={dict(self.weights)}: expected a number > 0 for each of "
                f"{', '.join(names)}"
            )
        opened = {name: self.sources[name].open() for name in names}
        if shuffled := [name for name, one in opened.items() if one.train.shuffle]:
            raise DataError(
                f"config.data.sources.{shuffled[0]}.shuffle: sources of a mixture are shuffled "
                f"as a whole"
            )
        columns = {name: self.sources[name].label if self.label else "" for name in names}
        tests = {name: one.test_label if self.label else "" for name, one in opened.items()}
        weights = tuple(float(self.weights[name]) for name in names) if self.weights else ()
        train = mixed({name: one.train for name, one in opened.items()}, columns, weights)
        return Opened(
            train, mixed({name: one.test for name, one in opened.items()}, tests, ()), "label"
        )


def _common_small(sources: Iterable[Any]) -> int:
    """The small view that all sources have, 0 where they differ."""
    sizes = {source.small for source in sources}
    return sizes.pop() if len(sizes) == 1 else 0


def _positive(weight: Any) -> bool:
    return (
        isinstance(weight, int | float)
        and not isinstance(weight, bool)
        and 0 < weight < float("inf")
    )


@dataclass(frozen=True, eq=False)
class Mixed(Source):
    """A Source made of `sources`, their examples one after the other."""

    names: tuple[str, ...]
    sources: tuple[Source, ...]
    ids: Int64[np.ndarray, "n"]
    label_columns: Mapping[str, Int32[np.ndarray, "n"]]
    true_labels: Int32[np.ndarray, "n"] | None
    class_names: tuple[str, ...]
    num_classes: int
    weights: tuple[float, ...] = ()  # by source; (): by size

    reads_small = True

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels, the same in all sources."""
        return self.sources[0].image_shape

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return tuple(self.label_columns)

    @property
    def small(self) -> int:
        return _common_small(self.sources)

    @property
    def prepared(self) -> bool:
        """Whether every source has its small views stored."""
        return all(source.prepared for source in self.sources)

    @property
    def picture_ids(self) -> Int64[np.ndarray, "n"]:
        return np.concatenate(
            [one.picture_ids | np.int64(n << INDEX_BITS) for n, one in enumerate(self.sources)]
        )

    def problems_of(self) -> tuple[Problems, ...]:
        return tuple(problems for source in self.sources for problems in source.problems_of())

    def name(self, index: int) -> str:
        n = int(self.source_of(np.array([index]))[0])
        return f"{self.names[n]}: {self.sources[n].name(index - int(self._starts[n]))}"

    def small_view(self) -> "Mixed":
        """The same examples, whose images are the small views."""
        return dataclasses.replace(
            self, sources=tuple(source.small_view() for source in self.sources)
        )

    @property
    def fetches(self) -> bool:
        """Whether images of some source come from another machine."""
        return any(source.fetches for source in self.sources)

    def expect(self, indices: Integer[np.ndarray, "k"], small: bool = False) -> None:
        number = self.source_of(indices)
        for n, source in enumerate(self.sources):
            source.expect(indices[number == n] - int(self._starts[n]), small)

    @property
    def stats_sample(self) -> int:
        return sum(source.stats_sample for source in self.sources)

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(len(source) for source in self.sources)])

    def source_of(self, indices: Integer[np.ndarray, "k"]) -> Integer[np.ndarray, "k"]:
        """The number of the source of each example."""
        return np.searchsorted(self._starts, indices, "right") - 1

    def gather(self, indices: Integer[np.ndarray, "k"]) -> dict[str, np.ndarray]:
        """Image uint8, and `bad`: rows that cannot be read."""
        return self._each(lambda source, rows: source.gather(rows), indices)

    def gather_small(self, indices: Integer[np.ndarray, "k"]) -> dict[str, np.ndarray]:
        """image_small uint8, and `bad`."""
        return self._each(lambda source, rows: source.gather_small(rows), indices)

    def _each(
        self, gather: Callable[[Source, np.ndarray], dict[str, np.ndarray]], indices: np.ndarray
    ) -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {"bad": np.zeros(len(indices), bool)}
        number = self.source_of(indices)
        for n in np.unique(number):
            at = np.flatnonzero(number == n)
            for name, values in gather(self.sources[n], indices[at] - self._starts[n]).items():
                out.setdefault(name, np.zeros((len(indices), *values.shape[1:]), values.dtype))[
                    at
                ] = values
        return out

    def labels(self, column: str) -> Int32[np.ndarray, "n"]:
        if column not in self.label_columns:
            raise DataError(
                f"mixture: no label column {column!r}; there are: "
                f"{', '.join(self.columns) or 'none'}"
            )
        return self.label_columns[column]

    def texts(self, column: str) -> Sequence[Any]:
        """All captions of one column. Raises DataError where a source has none."""
        return [text for source in self.sources for text in source.texts(column)]

    def clean_labels(self) -> Int32[np.ndarray, "n"] | None:
        return self.true_labels

    def describe(self) -> dict:
        """Provenance of every source, the hash over theirs."""
        about = {
            name: source.describe() for name, source in zip(self.names, self.sources, strict=True)
        }
        hashes = json.dumps([about[name]["hash"] for name in self.names])
        digest = hashlib.sha256(hashes.encode()).hexdigest()[:16]
        return {
            "kind": "mixture",
            "sources": about,
            "weights": list(self.weights),
            **size_of(self),
            "hash": digest,
        }


def mixed(
    sources: Mapping[str, Source], columns: Mapping[str, str], weights: tuple[float, ...]
) -> Mixed:
    """Sources with the label column of each ('' : none) as one.

    Raises DataError where they do not fit together.
    """
    first, *_ = sources
    for name, source in sources.items():
        if source.image_shape != sources[first].image_shape:
            shapes = f"{first} {sources[first].image_shape}, {name} {source.image_shape}"
            raise DataError(
                f"config.data.sources: images of one size are needed (config.data.sources.*.size): "
                f"{shapes}"
            )
        if len(source) and not 0 <= source.ids.min() <= source.ids.max() < 1 << INDEX_BITS:
            raise DataError(
                f"config.data.sources.{name}: ids of a mixture must be in [0, 2^{INDEX_BITS})"
            )
    ids = [source.ids | np.int64(n << INDEX_BITS) for n, source in enumerate(sources.values())]
    labelled = all(columns.values())
    class_names, maps = _classes(sources) if labelled else ((), {})
    clean = [source.clean_labels() for source in sources.values()]
    true = [labels for labels in clean if labels is not None]
    known = labelled and len(true) == len(sources)

    def joined(each: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(
            [maps[name][labels] for name, labels in zip(sources, each, strict=True)]
        ).astype(np.int32)

    labels = (
        {"label": joined([source.labels(columns[name]) for name, source in sources.items()])}
        if labelled
        else {}
    )
    classes = len(class_names) or (max(len(m) for m in maps.values()) if maps else 0)
    return Mixed(
        names=tuple(sources),
        sources=tuple(sources.values()),
        ids=np.concatenate(ids),
        label_columns=labels,
        true_labels=joined(true) if known else None,
        class_names=class_names,
        num_classes=classes,
        weights=weights,
    )


def _classes(sources: Mapping[str, Source]) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Returns all class names, and for each source the numbers of its classes among them."""
    if not all(source.class_names for source in sources.values()):
        counts = {name: source.num_classes for name, source in sources.items()}
        if len(set(counts.values())) > 1 or any(source.class_names for source in sources.values()):
            raise DataError(
                f"config.data.sources: without class names in all, the classes cannot be matched: "
                f"{counts}"
            )
        return (), {name: np.arange(count) for name, count in counts.items()}
    names = list(dict.fromkeys(name for source in sources.values() for name in source.class_names))
    place = {name: number for number, name in enumerate(names)}
    return tuple(names), {
        name: np.array([place[c] for c in source.class_names], np.int64)
        for name, source in sources.items()
    }
