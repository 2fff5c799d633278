"""Files that evaluations read: class names, prompt templates, captions of COCO and Flickr30k."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from active_learning.data.sources.source import DataError


def read_names(file: Path) -> tuple[str, ...]:
    """Class names in the order of the class numbers: one a line, or a JSON list.

    Raises:
      DataError: Naming the file, for one that cannot be read, is empty or has an empty name.
    """
    return tuple(_texts(file))


def read_templates(file: Path) -> tuple[str, ...]:
    """Prompt templates with `{}` or `{c}` where the name goes: one a line, or a JSON list.

    Raises:
      DataError: Naming file and number of a template that has no single place for the name.
    """
    templates = tuple(text.replace("{c}", "{}") for text in _texts(file))
    for number, text in enumerate(templates, 1):
        if text.count("{}") != 1 or "{" in text.replace("{}", ""):
            raise DataError(
                f"{file}: template {number} is {text!r}; expected one {{}} for the class name"
            )
    return templates


def _texts(file: Path) -> list[str]:
    content = _content(file)
    if content.lstrip().startswith("["):
        texts = _json(file, content)
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"{file}: expected a JSON list of strings")
    else:
        texts = content.splitlines()
        while texts and not texts[-1].strip():  # blank lines at the end are no names
            texts.pop()
    if not texts:
        raise DataError(f"{file}: empty; expected one text a line, or a JSON list")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise DataError(f"{file}: text {number} is empty")
    return [text.strip() for text in texts]


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"{file}: {why}") from error


def _json(file: Path, content: str):
    try:
        return json.loads(content)
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error})") from error


@dataclass(frozen=True)
class CaptionedImages:
    """Paths of images relative to their folder, and the captions of each."""

    paths: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]


def read_captions(file: Path, split: str = "test", most: int = 5) -> CaptionedImages:
    """Captions of images from a file in one of three layouts.

    COCO's annotations (JSON with "images" and "annotations"); the JSON of Karpathy's splits
    ("images" with "sentences" and a "split"); Flickr's token file (`NAME.jpg#0 TAB caption` a
    line) or a table of `image,caption` with a header.

    Args:
      file: The file.
      split: Images to take where the file has splits ("restval" belongs to "train").
      most: Captions an image at most; the first ones are taken, as is usual for COCO.

    Raises:
      DataError: Naming the file and what is missing in it.
    """
    content = _content(file)
    try:
        if content.lstrip().startswith("{"):
            pairs = _json_pairs(file, _json(file, content), split)
        else:
            pairs = _line_pairs(file, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file}: not a caption file that is known ({type(error).__name__}: {error}); expected "
            "COCO annotations, Karpathy's JSON, or lines of NAME#NUMBER TAB CAPTION"
        ) from error
    by_image: dict[str, list[str]] = {}
    for path, caption in pairs:
        if caption.strip():
            by_image.setdefault(path, []).append(caption.strip())
    if not by_image:
        raise DataError(f"{file}: no captions in it" + (f" for split {split!r}" if split else ""))
    return CaptionedImages(
        tuple(by_image), tuple(tuple(texts[:most]) for texts in by_image.values())
    )


def _json_pairs(file: Path, content: dict, split: str) -> list[tuple[str, str]]:
    if "annotations" in content:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        try:
            return [(names[one["image_id"]], one["caption"]) for one in content["annotations"]]
        except KeyError as error:
            raise DataError(f"{file}: an annotation has no image or caption ({error})") from error
    wanted = ("train", "restval") if split == "train" else (split,)
    return [
        ("/".join(filter(None, (image.get("filepath"), image["filename"]))), sentence["raw"])
        for image in content["images"]
        if image["split"] in wanted
        for sentence in image["sentences"]
    ]


def _line_pairs(file: Path, content: str) -> Sequence[tuple[str, str]]:
    lines = content.splitlines()
    if not lines:
        return []
    if "\t" not in lines[0]:
        rows = list(csv.reader(lines, skipinitialspace=True))[1:]
        cut = [(number, row) for number, row in enumerate(rows, 2) if len(row) != 2]
        if cut:
            raise DataError(f"{file}: line {cut[0][0]} has {len(cut[0][1])} cells, expected 2")
        return [(name, caption) for name, caption in rows]
    out = []
    for number, line in enumerate(lines, 1):
        name, tab, caption = line.partition("\t")
        if line.strip() and not tab:
            raise DataError(f"{file}: line {number} has no tab between image and caption")
        if tab:
            out.append((name.partition("#")[0], caption))
    return out
