"""The report in a browser: every control once, light and dark, nothing in the console."""

import pytest

from active_learning.report.__main__ import main
from tests.report.folders import REFERENCE, write_run


@pytest.fixture
def page(tmp_path, open_page):
    logged = {
        "select/corrupted_fraction": 0.3,
        "candidates/corrupted_fraction": 0.4,
        "gate/reference_accuracy": 0.5,
        "gate/online_accuracy": 0.2,
        "gate/reference_loss": 1.0,
        "gate/online_loss": 1.5,
    }
    write_run(tmp_path, "uniform", 100, 1, [0.2, 0.5], baseline=True)
    for name in ("first <b>", "second"):
        words = {"reference": REFERENCE, "snapshot": True} | logged
        write_run(tmp_path, name, 80, 1, [0.3, 0.6], **words)
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    return open_page(tmp_path / "out" / "index.html")


def find(page, selector):
    return page.find_elements("css selector", selector)


def test_every_control_of_the_report_works(page):
    (fold,) = find(page, "details")
    hidden = fold.find_elements("css selector", "img")[0]
    assert not hidden.is_displayed()
    find(page, "summary")[0].click()
    assert hidden.is_displayed()
    loaded = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    assert page.execute_script(loaded)
    # The scrolled tables take the keyboard's focus and scroll by themselves, not the page.
    tables = find(page, ".scroll")
    assert len(tables) == 2
    for table in tables:
        page.execute_script("arguments[0].focus()", table)
        assert page.switch_to.active_element == table
    width = "return document.documentElement.scrollWidth <= innerWidth"
    assert page.execute_script(width)
    page.set_window_size(500, 900)
    assert page.execute_script(width)
    page.set_window_size(1400, 1000)
    assert "first <b> (" not in page.title and find(page, "main b")[0].text == "20.0 %"


def test_the_report_follows_the_color_scheme_and_fetches_nothing(page):
    color = "return getComputedStyle(document.body).backgroundColor"
    colors = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        colors.append(page.execute_script(color))
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert colors == ["rgb(253, 252, 249)", "rgb(22, 24, 27)"]
    fetched = (
        "return performance.getEntriesByType('resource')"
        ".filter(entry => !entry.name.startsWith('data:')).length"
    )
    assert page.execute_script(fetched) == 0
