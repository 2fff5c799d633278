"""Files, log and clock of a run: atomic writes, metrics.jsonl and its copies, rate and ETA."""

import contextlib
import csv
import errno
import io
import json
import logging
import os
import re
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote

from active_learning.config import ConfigError
from active_learning.storage.errors import StorageError

LOG = logging.getLogger("active_learning")

# Mistakes in the path that was asked for. Whatever else the system reports happened outside.
_REFUSED = {
    errno.EACCES,
    errno.EEXIST,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
# Metrics that are shown while a run goes on.
SHOWN = re.compile(
    r"train/loss|gate/(online|reference|learner)_metric|select/corrupted_fraction"
    r"|(?!gate/).*(accuracy|recall)"
)
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


class NonFiniteError(RuntimeError):
    """A loss or a score is no longer a finite number; the message names the update."""


def exit_code(error: BaseException) -> int:
    """Returns the exit code of a command that fails: 3 for what happened outside, else 2."""
    return 3 if isinstance(error, StorageError) else 2


def show_log(quiet: bool = False) -> None:
    """Sends this package's log to stderr, one plain line per record.

    Args:
      quiet: Show warnings only, as the log of other libraries does.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.handlers, LOG.propagate = [handler], False
    LOG.setLevel(logging.WARNING if quiet else logging.INFO)


def write_failure(path: Path, error: OSError) -> ConfigError | StorageError:
    """Returns the error to raise when `path` could not be written, with the cause in one line."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{path}: {reason}; free some space and run the same command again")
    if error.errno in _REFUSED:
        return ConfigError(f"{path}: cannot be written ({reason})")
    return StorageError(f"{path}: {reason}")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replaces a file as a whole: after a crash it holds either the old content or the new.

    The content goes to a hidden temporary file beside it, is flushed to the disk, and is renamed.

    Raises:
      StorageError: The disk is full or failed; the old file is intact.
      ConfigError: The path is no place that can be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise write_failure(path, error) from error


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable, where folders can be opened (not on Windows)."""
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# What a summary must hold to be one.
_SUMMARY = {"complete": bool, "final": dict, "flops": dict, "step": int}


def read_summary(workdir: Path) -> dict | None:
    """Reads summary.json of a run folder.

    Returns:
      The summary, or None when there is none or it is unreadable (half-written by an older version,
      or damaged): the run then continues from its last checkpoint and writes it again.
    """
    path = Path(workdir) / "summary.json"
    if not path.exists():
        return None
    try:
        summary = json.loads(path.read_bytes())
        if all(isinstance(summary[name], kind) for name, kind in _SUMMARY.items()):
            return summary
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    LOG.warning("%s: unreadable; it is made again from the last checkpoint", path)
    return None


def write_summary(workdir: Path, summary: dict) -> None:
    """Writes summary.json as a whole."""
    write_atomic(Path(workdir) / "summary.json", json.dumps(summary, indent=1))


def checked_folder(path: str | Path, flag: str, checkpoints: bool = False) -> Path:
    """Returns the folder that a flag names, once it is known that it can be written; makes nothing.

    Args:
      path: What was given; `~` and `file://` are understood.
      flag: The flag, for the message.
      checkpoints: Whether Orbax writes there. It cannot read its files back below a folder whose
        name contains "[" or a backslash.

    Raises:
      ConfigError: An address such as gs:// or s3://, a file, or a place that cannot be written.
    """
    text = str(path)
    if text.startswith("file://"):
        text = unquote(text.removeprefix("file://"))
    if not text or not text.isprintable():
        raise ConfigError(f"{flag}={text!r}: expected the path of a folder")
    if (scheme := _ADDRESS.match(text)) is not None:
        raise ConfigError(
            f"{flag}={text}: addresses of kind {scheme[1]}:// are not supported here; "
            "give a folder (a mounted bucket is one)"
        )
    try:
        folder = Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{flag}={text}: {error}") from error
    hostile = [c for c in "[\\" if checkpoints and c in str(folder.absolute())]
    if hostile:
        raise ConfigError(
            f"{flag}={text}: checkpoints cannot be stored below a folder with {hostile[0]!r} "
            "in its name; choose another"
        )
    _check_writable(folder, f"{flag}={text}")
    return folder


def _check_writable(folder: Path, named: str) -> None:
    try:
        place = folder.absolute()
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise ConfigError(f"{named}: {place} is a file, expected a folder")
        if place != folder.absolute():
            # Only an attempt tells for root and for file systems such as /proc.
            os.rmdir(tempfile.mkdtemp(prefix=".write-test-", dir=place))
        elif not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(f"{named}: cannot be written (no permission)")
    except OSError as error:
        raise ConfigError(f"{named}: cannot be written ({error.strerror})") from error


def _metric_lines(path: Path) -> dict[tuple, str]:
    """The lines of metrics.jsonl by step and names of values; of equal ones the last.

    A process that is killed may leave half a line. What cannot be read is left out with a warning.
    """
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    lines, unreadable = {}, 0
    for line in text.splitlines():
        try:
            row = json.loads(line)
            lines[_identity(row)] = line
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            unreadable += 1
    if unreadable:
        LOG.warning("%s: %d unreadable lines are left out", path, unreadable)
    return lines


def _identity(row: dict) -> tuple:
    return int(row["step"]), frozenset(row)


class Writer:
    """Appends lines to metrics.jsonl.

    Lines after `resume_step` are removed. A line of that step that is there already is not written
    again: a run that was killed between its last line and its summary repeats the evaluation.

    Args:
      workdir: The run folder.
      resume_step: The update at which the run continues.
    """

    def __init__(self, workdir: Path, resume_step: int = 0):
        self.path = workdir / "metrics.jsonl"
        kept = {
            key: line for key, line in _metric_lines(self.path).items() if key[0] <= resume_step
        }
        self._there = {key for key in kept if key[0] == resume_step}
        write_atomic(self.path, "".join(line + "\n" for line in kept.values()))
        self._file = self.path.open("a")

    def write(self, clocks: dict, values: dict) -> None:
        """Writes one line.

        Args:
          clocks: The ledger's clocks; `step` among them.
          values: Scalars, and lists, which stay in the JSON.

        Raises:
          StorageError: The disk is full.
        """
        row = clocks | values
        if _identity(row) in self._there:
            return
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_failure(self.path, error) from error

    def close(self) -> None:
        """Closes the files and writes metrics.csv, a column per value."""
        with contextlib.suppress(OSError):  # what could not be flushed was reported by `write`
            self._file.close()
        rows = [_flat(json.loads(line)) for line in _metric_lines(self.path).values()]
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, names, restval="")
        table.writeheader()
        table.writerows(rows)
        write_atomic(self.path.with_suffix(".csv"), text.getvalue())


class NoWriter:
    """Stands in for the writer on processes that write nothing."""

    def write(self, clocks: dict, values: dict) -> None:
        """Drops a line."""

    def close(self) -> None:
        """Does nothing."""


def _flat(row: dict) -> dict:
    flops = row["flops"] if isinstance(row.get("flops"), dict) else {}
    scalars = {k: v for k, v in row.items() if not isinstance(v, list | dict)}
    return scalars | {f"flops/{k}": v for k, v in flops.items()}


class Stopwatch:
    """Measures seconds of training, without evaluation, checkpoints and compilation."""

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self._since: float | None = None

    def start(self) -> None:
        """Starts counting."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stops counting; nothing happens where the watch is stopped already."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def elapsed(self) -> float:
        """Returns the seconds so far, while the watch runs as well."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self.seconds + running

    @contextlib.contextmanager
    def running(self):
        """Counts the block while the watch is stopped."""
        self.start()
        yield
        self.stop()

    @contextlib.contextmanager
    def paused(self):
        """Leaves out the block while the watch is running."""
        self.stop()
        yield
        self.start()


def span(text: str | None) -> tuple[int, int]:
    """Parses START:STOP; (0, 0) for nothing. Raises ConfigError naming --profile."""
    if not text:
        return 0, 0
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(
            f"--profile={text}: expected START:STOP, two numbers of updates, START before STOP"
        )
    return int(match[1]), int(match[2])


class Profile:
    """Writes a profiler trace of the updates start .. stop - 1, for XProf or Perfetto."""

    def __init__(self, folder: Path, start: int, stop: int):
        self.folder, self.start, self.stop, self._on = folder, start, stop, False

    def at(self, update: int, state) -> None:
        """Starts or ends the trace; call before every update with the state that it starts from."""
        if self._on and update >= self.stop:
            self.close(state)
        elif not self._on and self.start <= update < self.stop:
            import jax

            jax.block_until_ready(state)
            options = jax.profiler.ProfileOptions()
            # Python calls would dominate the timeline of the devices.
            options.python_tracer_level = 0
            jax.profiler.start_trace(str(self.folder), profiler_options=options)
            self._on = True

    def close(self, state) -> None:
        """Ends the trace that is being written, if any."""
        if self._on:
            import jax

            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._on = False
            LOG.info("trace of updates %d to %d: %s", self.start, self.stop - 1, self.folder)


def progress(name: str, step: int, total: int, rate: float, flops: float, values: dict) -> None:
    """Logs one line: update, updates a second, time left, FLOPs so far and the metrics `SHOWN`."""
    left = round(max(0, total - step) / rate) if rate > 0 else None
    eta = "?" if left is None else f"{left // 3600:02d}:{left // 60 % 60:02d}:{left % 60:02d}"
    shown = "  ".join(
        f"{k} {v:.4g}" for k, v in values.items() if isinstance(v, float) and SHOWN.fullmatch(k)
    )
    LOG.info(
        "%s  %d/%d  %.1f updates/s  ETA %s  %.3g FLOPs  %s",
        name,
        step,
        total,
        rate,
        eta,
        flops,
        shown,
    )
