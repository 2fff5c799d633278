"""MkDocs hooks: everything on the site that is derived from the repository rather than written.

The README becomes the start page, each room of the package gets a page of its docstrings, and links
that leave docs/ (to figures, configs, scripts) are served from a copy or point at the repository.
"""

import re
import tomllib
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "active_learning"
PICTURES = {".png", ".svg"}
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
GUIDES = (  # in reading order; pages that are not listed follow in alphabetical order
    "choosing.md", "data.md", "running.md", "reports.md", "curate.md", "weights.md",
    "own_loop.md", "image_text.md", "results.md", "performance.md", "reliability.md",
)  # fmt: skip


def on_config(config):
    """Take the address of the repository from pyproject.toml, the one place that has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    config.repo_url = project["urls"]["Repository"]
    config.repo_name, config.edit_uri = "Repository", ""
    return config


def on_files(files: Files, config) -> Files:
    """Add the pages made from README.md, CONTRIBUTING.md, CHANGELOG.md and the docstrings."""
    pages = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
    pages["changelog.md"] = "CHANGELOG.md"
    for page, source in pages.items():
        text = _rebased((ROOT / source).read_text())
        files.append(File.generated(config, page, content=text))
    rooms = dict(_rooms())
    for room, modules in rooms.items():
        text = f"# {room}\n\n" + "\n".join(f"::: {module}\n" for module in modules)
        files.append(File.generated(config, f"api/{room}.md", content=text))
    for picture in _pictures(files):
        name = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    written = [file.src_uri for file in files.documentation_pages() if "/" not in file.src_uri]
    guides = [page for page in GUIDES if page in written]
    guides += sorted(set(written) - set(guides) - set(pages))
    config.nav = [
        {"Home": "index.md"},
        {"Guides": guides},
        {"API": [f"api/{room}.md" for room in rooms]},
        {"Project": ["contributing.md", "changelog.md"]},
    ]
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Point links that leave docs/ at the copied picture or at the repository."""

    def target(match: re.Match) -> str:
        path, anchor = match[1], match[2] or ""
        if not path.startswith("../"):
            return match[0]
        path = path.removeprefix("../")
        if not (ROOT / path).exists():
            return match[0]  # left as it is, so that the strict build names it
        if Path(path).suffix in PICTURES:
            return f"]({path})"
        return f"]({config.repo_url}/blob/main/{path}{anchor})"

    return LINK.sub(target, markdown)


def _rebased(text: str) -> str:
    """Links of a page in the root of the repository as seen from docs/."""

    def target(match: re.Match) -> str:
        path, anchor = match[1], match[2] or ""
        if path in ("CONTRIBUTING.md", "CHANGELOG.md", "README.md"):
            path = {"README.md": "index.md"}.get(path, path.lower())
        else:
            path = path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}"
        return f"]({path}{anchor})"

    return LINK.sub(target, text)


def _rooms():
    """Room names and the public modules in them; "commands" is the top of the package."""
    top = ["active_learning", *(f"active_learning.{name}" for name in _modules(PACKAGE))]
    yield "commands", top
    for folder in sorted(path.parent for path in PACKAGE.rglob("__init__.py")):
        if folder != PACKAGE and (names := _modules(folder)):
            room = ".".join(folder.relative_to(PACKAGE).parts)
            yield room, [f"active_learning.{room}.{name}" for name in names]


def _modules(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def _pictures(files: Files) -> set[Path]:
    """Pictures outside docs/ that a page shows."""
    pictures = set()
    for file in files.documentation_pages():
        if file.generated_by is None:
            for path, _ in LINK.findall(file.content_string):
                if path.startswith("../") and Path(path).suffix in PICTURES:
                    pictures.add((ROOT / path.removeprefix("../")).resolve())
    return {path for path in pictures if path.exists()}
