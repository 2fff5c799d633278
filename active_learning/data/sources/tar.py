"""Members of a tar with the places of their bytes, from its headers alone; nothing is extracted."""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from active_learning.data import limits
from active_learning.data.errors import DataError
from active_learning.data.sources.storage import Stored

_BLOCK = 512
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}


@dataclass(frozen=True)
class Member:
    """A file in a tar.

    `link`: what a hard or symbolic link points at, as a name within the archive; '' for a file.
    """

    name: str
    offset: int
    size: int
    link: str = ""


def members(file: Stored) -> Iterator[Member]:
    """Yields the files and links of a tar, to the last of several archives in a row.

    ustar, GNU and pax long names are understood.

    Raises:
      DataError: Naming tar and byte, where it is compressed, truncated or damaged.
    """
    tar, end, at, longer, zeros = file.name, file.size, 0, {}, 0
    _refuse_compressed(file)
    while at + _BLOCK <= end:
        head = file.scan(_BLOCK, at)
        if head == bytes(_BLOCK):
            at, zeros = at + _BLOCK, zeros + 1
            continue
        try:
            size = _checked_size(head, tar, at)
        except DataError:
            if zeros:  # after the end of an archive anything may follow
                return
            raise
        kind, body, zeros = head[156:157], at + _BLOCK, 0
        if "size" in longer and kind not in b"Lxg":
            size = longer["size"]
        if body + size > end:
            raise DataError(
                f"{tar}: truncated, the member at byte {at} ends at byte {body + size}, the file "
                f"at {end}"
            )
        at = body + (size + _BLOCK - 1) // _BLOCK * _BLOCK
        if kind in (b"L", b"K", b"x"):
            blob = _header(file, size, body)
            longer |= (
                _pax(blob)
                if kind == b"x"
                else {"path" if kind == b"L" else "linkpath": _text(blob.rstrip(b"\0"))}
            )
        elif kind in (b"0", b"\0", b"1", b"2", b"7"):
            name = longer.get("path") or _name(head)
            link = (
                (longer.get("linkpath") or _text(head[157:257].split(b"\0")[0]))
                if kind in b"12"
                else ""
            )
            yield Member(name, body, size, _target(name, link, kind))
            longer = {}
        elif kind != b"g":
            longer = {}
    if not zeros and (at != end or end == 0):
        raise DataError(f"{tar}: truncated, or no tar (ends at byte {end} within a header)")


def _refuse_compressed(file: Stored) -> None:
    head = file.scan(min(8, file.size), 0)
    for magic, command in _COMPRESSED.items():
        if head.startswith(magic):
            raise DataError(
                f"{file.name}: a compressed tar cannot be read at random; decompress it once: "
                f"{command} {file.name}"
            )


def _header(file: Stored, size: int, offset: int) -> bytes:
    most = limits.current().header_bytes
    if size > most:
        raise DataError(
            f"{file.name}: the header at byte {offset} has {size:,} bytes, more than {most:,}; "
            f"{limits.RAISE}"
        )
    return file.scan(size, offset)


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogateescape")


def _name(head: bytes) -> str:
    name, prefix = (_text(head[a:b].split(b"\0")[0]) for a, b in ((0, 100), (345, 500)))
    return f"{prefix}/{name}" if prefix and head[257:263] == b"ustar\0" else name


def _target(name: str, link: str, kind: bytes) -> str:
    """Returns the name in the archive that a link means; a symbolic one is relative."""
    if kind == b"2" and link:
        return posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    return link


def _checked_size(head: bytes, tar: str, at: int) -> int:
    """The member's size.

    Raises DataError when the header's checksum is wrong or the size negative.
    """
    try:
        checksum = _octal(head[148:156])
        size = _number(head[124:136])
    except ValueError as error:
        raise DataError(f"{tar}: no tar header at byte {at}") from error
    if checksum != sum(head) - sum(head[148:156]) + 8 * 32:
        raise DataError(f"{tar}: no tar header at byte {at} (checksum)")
    return size


def _number(field: bytes) -> int:
    """A size: octal digits, or GNU's binary form, whose sign bit is refused by its length alone."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return _octal(field)


def _octal(field: bytes) -> int:
    text = field.split(b"\0")[0].strip(b" ")
    if text and not all(c in b"01234567" for c in text):
        raise ValueError(text)
    return int(text or b"0", 8)


def _pax(blob: bytes) -> dict:
    """The records of a pax header that matter here: path, linkpath and size."""
    out, at = {}, 0
    while at < len(blob):
        length, _, _ = blob[at : at + 20].partition(b" ")
        if not length.isdigit() or int(length) == 0:
            break
        key, _, value = blob[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        if key in (b"path", b"linkpath"):
            out[key.decode()] = _text(value)
        elif key == b"size" and value.isdigit():
            out["size"] = int(value)
        at += int(length)
    return out


def resolved(seen: dict[str, Member], link: Member) -> Member | None:
    """Follows a link, and links it leads to, within the archive; None where it leads nowhere."""
    for _ in range(16):
        target = seen.get(link.link) or seen.get(posixpath.normpath(link.link))
        if target is None or not target.link:
            return target
        link = target
    return None
