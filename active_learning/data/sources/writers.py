"""Writers of tar and ArrayRecord shards; the same examples give the same bytes."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

from active_learning.data import images, text
from active_learning.data.errors import DataError
from active_learning.data.sources import array_record

Fields = dict[str, Any]  # `id` and the columns


class RecordShard:
    """NAME.array_record, and NAME.array_record.small for the small views."""

    suffix = array_record.SUFFIX

    def __init__(self, path: Path, small: bool):
        from array_record.python.array_record_module import ArrayRecordWriter

        self.files = [path, Path(f"{path}.small")] if small else [path]
        self._writers = [
            ArrayRecordWriter(f"{file}.part", array_record.OPTIONS) for file in self.files
        ]

    def add(self, fields: Fields, image: bytes, small: bytes | None) -> None:
        """Appends an example, and its small view if it has one."""
        self._writers[0].write(array_record.pack(fields, image))
        if small is not None:
            self._writers[1].write(small)

    def close(self) -> None:
        """Closes the files that were begun."""
        for writer in self._writers:
            if writer.is_open():
                writer.close()


class TarShard:
    """NAME.tar in the WebDataset layout: ID.jpg (or another suffix), ID.json, ID.small.jpg."""

    suffix = ".tar"

    def __init__(self, path: Path, small: bool):
        self.files = [path]
        self._tar = tarfile.open(f"{path}.part", "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, fields: Fields, image: bytes, small: bytes | None) -> None:
        """Appends an example, and its small view if it has one."""
        key = f"{fields['id']:012d}"
        self._member(key + images.suffix(image), image)
        header = json.dumps(text.clean_value(fields), ensure_ascii=False)
        self._member(f"{key}.json", header.encode())
        if small is not None:
            self._member(f"{key}.small.jpg", small)

    def _member(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)  # no time, no owner: the bytes depend on the examples alone
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))

    def close(self) -> None:
        """Closes the tar."""
        self._tar.close()


class ParquetShard:
    """NAME.parquet: `image` (bytes and a name), `id`, and the columns; no small views."""

    suffix = ".parquet"

    def __init__(self, path: Path, small: bool):
        if small:
            raise DataError("--small: Parquet has no place for small views; use --format=tar")
        self.files = [path]
        self._rows: list[dict[str, Any]] = []
        self._open = True

    def add(self, fields: Fields, image: bytes, small: bytes | None) -> None:
        """Appends an example."""
        assert small is None  # refused above
        name = f"{fields['id']:012d}{images.suffix(image)}"
        self._rows.append({"image": {"bytes": image, "path": name}} | text.clean_value(fields))

    def close(self) -> None:
        """Writes the file."""
        if not self._open:
            return
        import pyarrow as pa
        import pyarrow.parquet as parquet

        self._open = False
        names = dict.fromkeys(name for row in self._rows for name in row)
        columns = {name: _column([row.get(name) for row in self._rows]) for name in names}
        parquet.write_table(pa.table(columns), f"{self.files[0]}.part")


def _column(values: list[Any]) -> Any:
    """An Arrow column; values of several types become text."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])


def publish(shard: RecordShard | TarShard | ParquetShard) -> None:
    """Closes a shard and renames its files, the first one last: where it is, everything is."""
    shard.close()
    for file in reversed(shard.files):
        with open(f"{file}.part", "rb") as written:
            os.fsync(written.fileno())
        os.replace(f"{file}.part", file)
