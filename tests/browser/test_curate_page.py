"""The curate page in a browser: decide by key, move the cut, filter, download and load the CSV."""

import csv
import time

import numpy as np
import pytest

from active_learning.curation.page import thumbnail, write_page
from active_learning.curation.records import (
    ClassSummary,
    Cut,
    Estimate,
    Record,
    Summary,
)
from active_learning.data.decisions import DECISION_COLUMNS

CLASSES = ("cat", "dog", "<i>ship</i>")
ODD = 'train/"odd", näme\n=1.png'


def record(n, label, suggested, score, **words):
    words = {"issue": "label", "rank": n + 1, "probability": score} | words
    path = ODD if n == 1 else f"train/{n}.png"
    return Record(path, f"k{n}", label, suggested, score, **words)


RECORDS = [
    record(0, "cat", "dog", 0.95),
    record(1, "cat", "<i>ship</i>", 0.9),
    record(2, "dog", "cat", 0.8),
    record(3, "<i>ship</i>", "dog", 0.6),
    record(4, "dog", "cat", 0.3),
    record(5, "cat", "", 1.0, issue="duplicate", rank=1, group="g", probability=None),
    record(6, "cat", "", 1.0, issue="duplicate", rank=1, group="g", probability=None),
    record(7, "dog", "", 1.0, issue="leak", rank=1, group="h", probability=None),
    record(8, "", "", 1.0, issue="unreadable", rank=1, probability=None, detail="no image"),
    record(9, "dog", "cat", 0.1, issue="ok"),
]
SUMMARY = Summary(
    name="pets & ships",
    num_examples=100,
    corrupted=Estimate(0.2, 0.15, 0.26),
    classes=tuple(ClassSummary(name, 30, Estimate(0.2, 0.1, 0.3)) for name in CLASSES),
    confusion=((25, 3, 2), (2, 28, 0), (0, 1, 29)),
    cuts=(
        Cut(0.9, 2, Estimate(0.93, 0.8, 1.0), Estimate(0.1, 0.05, 0.2)),
        Cut(0.6, 12, Estimate(0.81, 0.7, 0.9)),
        Cut(0.2, 40, Estimate(0.44, 0.3, 0.6)),
    ),
    counts={"label": 40, "duplicate": 2, "leak": 1, "unreadable": 1},
)


@pytest.fixture
def page(tmp_path, open_page):
    pictures = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3), np.uint8)
    images = {f"k{n}": thumbnail(picture) for n, picture in enumerate(pictures)}
    return open_page(write_page(tmp_path, RECORDS, images, SUMMARY))


def find(page, selector):
    return page.find_elements("css selector", selector)


def keys(page):
    return [card.get_attribute("data-key") for card in find(page, ".card")]


def press(page, *pressed):
    for key in pressed:
        page.switch_to.active_element.send_keys(key)


def downloaded(page):
    file = page.downloads / "decisions.csv"
    file.unlink(missing_ok=True)
    find(page, "#download")[0].click()
    for _ in range(100):
        if file.exists() and file.stat().st_size:
            with file.open(newline="", encoding="utf-8") as text:
                return list(csv.reader(text))
        time.sleep(0.05)
    raise AssertionError("no download")


def choose(page, name, value):
    find(page, f"#{name} option[value='{value}']")[0].click()


def test_decisions_by_key_are_downloaded_undone_remembered_and_loaded(page):
    assert keys(page) == ["k0", "k1", "k2", "k4", "k3"]  # By class, the most suspect first.
    assert not find(page, "#download")[0].is_enabled()
    find(page, ".card")[0].click()
    press(page, "r", "d", "k")  # Each moves on to the next.
    press(page, "\ue014", "r")  # Right: k4 stays undecided.
    expected = [
        list(DECISION_COLUMNS),
        ["k0", "train/0.png", "cat", "relabel", "dog"],
        ["k1", ODD, "cat", "drop", ""],
        ["k2", "train/2.png", "dog", "keep", ""],
        ["k3", "train/3.png", "<i>ship</i>", "relabel", "dog"],
    ]
    assert downloaded(page) == expected
    assert find(page, "#progress")[0].text == "4 decided"

    page.refresh()  # Decisions are kept in the browser.
    assert downloaded(page) == expected
    find(page, ".card[data-key='k3']")[0].click()
    press(page, "u")
    assert downloaded(page) == expected[:-1]
    find(page, "#undo")[0].click()
    assert downloaded(page) == expected

    page.execute_script("localStorage.clear()")
    page.refresh()
    assert find(page, "#progress")[0].text == "0 decided"
    find(page, "#load")[0].send_keys(str(page.downloads / "decisions.csv"))
    for _ in range(100):
        if find(page, "#progress")[0].text == "4 decided":
            break
        time.sleep(0.02)
    assert downloaded(page) == expected


def test_the_cut_shows_its_precision_and_marks_what_is_above(page):
    slider = find(page, "#cut")[0]
    estimate = find(page, "#estimate")[0]
    # It starts at the largest cut of which half is wrong.
    assert estimate.text == "12 examples score 0.600 or more · 81 % of them wrong (70 %–90 %)"
    assert [card.get_attribute("data-key") for card in find(page, ".card.below")] == ["k4"]
    slider.send_keys("\ue012")  # Left: stricter.
    assert "2 examples score 0.900" in estimate.text and "finds 10 % of the wrong" in estimate.text
    assert len(find(page, ".card.below")) == 3
    find(page, "#hide")[0].click()
    assert keys(page) == ["k0", "k1"]
    find(page, "#bulk-drop")[0].click()
    assert [row[0] for row in downloaded(page)[1:]] == ["k0", "k1"]
    find(page, "#undo")[0].click()
    find(page, "#bulk-relabel")[0].click()
    assert [row[4] for row in downloaded(page)[1:]] == ["dog", "<i>ship</i>"]


def test_filters_by_class_pair_and_status(page):
    search = find(page, "#search")[0]
    press(page, "/")
    assert page.switch_to.active_element == search
    search.send_keys("SHIP")
    assert keys(page) == ["k3", "k1"]
    search.clear()
    search.send_keys("nothing")
    assert keys(page) == [] and find(page, "#empty")[0].is_displayed()
    search.clear()
    search.send_keys("d")  # Keys typed into a field decide nothing.
    assert find(page, "#progress")[0].text == "0 decided"
    search.clear()
    find(page, "#confusion button[data-given='1'][data-suggested='0']")[0].click()
    assert keys(page) == ["k2", "k4"]
    find(page, "#pair")[0].click()
    assert len(keys(page)) == 5
    find(page, "#classes button[data-class='2']")[0].click()
    assert search.get_attribute("value") == "<i>ship</i>" and keys(page) == ["k3", "k1"]
    find(page, ".card")[0].click()
    press(page, "k")
    choose(page, "status", "undecided")
    assert keys(page) == ["k1"]
    choose(page, "status", "decided")
    assert keys(page) == ["k3"]
    search.clear()
    choose(page, "status", "all")
    choose(page, "order", "rank")
    assert keys(page) == ["k0", "k1", "k2", "k3", "k4"]


def test_one_example_enlarged_takes_any_label(page):
    find(page, ".card")[0].click()
    press(page, "\ue007")
    dialog = find(page, "#detail")[0]
    assert dialog.is_displayed() and "train/0.png" in dialog.text
    choose(page, "newlabel", "cat")
    assert "odd" in dialog.text
    find(page, "[data-do='drop']")[0].click()
    assert "train/2.png" in dialog.text
    find(page, "[data-do='keep']")[0].click()
    find(page, "[data-do='clear']")[0].click()
    find(page, "[data-do='relabel']")[0].click()
    press(page, "\ue00c")
    assert not dialog.is_displayed()
    assert [row[3:] for row in downloaded(page)[1:]] == [
        ["relabel", "cat"],
        ["drop", ""],
        ["keep", ""],
        ["relabel", "cat"],
    ]


def test_copies_leaks_and_unreadable_files_have_their_tabs(page):
    names = ["".join(tab.text.split()) for tab in find(page, "#tabs button")]
    assert names == ["Labels40", "Duplicates2", "Leaks1", "Unreadable1"]
    find(page, "#tabs button")[1].click()
    assert keys(page) == ["k5", "k6"] and not find(page, "#cutrow")[0].is_displayed()
    find(page, ".strip button")[0].click()
    assert [row[3] for row in downloaded(page)[1:]] == ["keep", "drop"]
    find(page, "#tabs button")[2].click()
    assert keys(page) == ["k7"]
    find(page, "#tabs button")[3].click()
    assert keys(page) == ["k8"] and "no image" in find(page, ".card")[0].text


def test_text_of_the_data_is_text_and_the_theme_switches(page):
    assert find(page, "i") == [] and "<i>ship</i>" in find(page, "#classes")[0].text
    color = "return getComputedStyle(document.body).backgroundColor"
    before = page.execute_script(color)
    find(page, "#theme")[0].click()
    assert page.execute_script(color) != before
    find(page, "#theme")[0].click()
    assert page.execute_script(color) == before
    assert page.execute_script("return [...document.images].every(i => i.naturalWidth > 0)")
    find(page, ".overview > summary")[0].click()
    assert not find(page, "#confusion")[0].is_displayed()
