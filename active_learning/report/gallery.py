"""Results of several experiments as one self-contained HTML page: tables, figures, links."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from active_learning.report.page import environment, style_sheet
from active_learning.report.text import clean

_IMAGES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Section:
    """One experiment."""

    # Of the page's address: letters, digits and underscores.
    anchor: str
    title: str
    # What was asked, and what its answer does not say.
    about: str
    # How to make the results again.
    command: str
    # Paragraphs and tables in Markdown; '': not measured yet.
    results: str = ""
    # Text of each figure, and its file: .svg or .png.
    figures: tuple[tuple[str, Path], ...] = ()
    # Text of each link, and its address as seen from the page.
    links: tuple[tuple[str, str], ...] = ()


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Returns the page. Figures are part of it, all text is escaped.

    Args:
      title: Its title.
      lead: A sentence below the title.
      sections: The experiments; one without results is shown as missing.
    """
    return (
        environment()
        .get_template("gallery.html")
        .render(
            title=clean(title),
            lead=clean(lead, 1000),
            style=Markup(style_sheet()),
            missing=[section.title for section in sections if not section.results],
            sections=[
                {
                    "anchor": section.anchor,
                    "title": section.title,
                    "about": section.about,
                    "command": section.command,
                    "blocks": blocks(section.results),
                    "figures": [
                        {"text": text, "data": _data(file)}
                        for text, file in section.figures
                        if file.exists()
                    ],
                    "absent": [text for text, file in section.figures if not file.exists()],
                    "links": section.links,
                }
                for section in sections
            ],
        )
    )


def blocks(markdown: str) -> list[dict]:
    """Splits Markdown of paragraphs and tables.

    Returns:
      A dict of each: `text`, or `head` (cells) and `rows` (cells of each).
    """
    found: list[dict] = []
    for block in filter(None, (part.strip() for part in markdown.split("\n\n"))):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
            if len(rows) > 2:  # A head and a rule alone say nothing.
                found.append({"head": rows[0], "rows": rows[2:]})
        else:
            found.append({"text": block.replace("**", "")})
    return found


def _data(file: Path) -> str:
    """A picture as an address that holds it."""
    content = base64.b64encode(file.read_bytes()).decode()
    return f"data:{_IMAGES[file.suffix]};base64,{content}"
