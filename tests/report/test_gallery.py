"""A page of several experiments: what is there, what is missing, and that text stays text."""

import base64
import re

from active_learning.report.gallery import Section, blocks, render

TABLE = "| arm | gain |\n| --- | --- |\n| <b>a</b> | 3 |\n| b | 4 |"
HOSTILE = "<script>alert(1)</script>"


def test_markdown_becomes_paragraphs_and_tables():
    found = blocks(f"**One** of two.\n\n{TABLE}\n\n| empty |\n| --- |")
    assert found == [
        {"text": "One of two."},
        {"head": ["arm", "gain"], "rows": [["<b>a</b>", "3"], ["b", "4"]]},
    ]
    assert blocks("") == []


def test_a_page_holds_its_figures_and_says_what_is_missing(tmp_path):
    svg = f'<svg xmlns="http://www.w3.org/2000/svg">{HOSTILE}</svg>'
    (tmp_path / "figure.svg").write_text(svg)
    there = Section(
        "first",
        f"First {HOSTILE}",
        HOSTILE,
        f"python {HOSTILE}",
        f"{HOSTILE}\n\n{TABLE}",
        (("curve", tmp_path / "figure.svg"), ("bars", tmp_path / "none.png")),
        ((HOSTILE, "results/a b.json"),),
    )
    page = render(HOSTILE, "Two.", [there, Section("second", "Second", "About.", "make second")])
    assert "<script" not in page and "<b>a" not in page and "&lt;script&gt;" in page
    assert page.count("<table>") == 1 and ">&lt;b&gt;a&lt;/b&gt;</th><td>3</td>" in page
    (data,) = re.findall(r'<img alt="curve" src="data:image/svg\+xml;base64,([^"]+)">', page)
    assert base64.b64decode(data).decode() == svg
    assert "No figure yet: bars." in page
    assert '<a href="results/a b.json">' in page
    assert "Missing: Second." in page and page.count("Not measured yet:") == 1
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sorted(a.partition(",")[0] for a in addresses) == [
        "#first",
        "#second",
        "data:image/svg+xml;base64",
        "results/a b.json",
    ]
