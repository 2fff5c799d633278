"""The curate page as a file: size, contents and escaping. Its controls: tests/browser."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from active_learning.curation.page import MAX_BYTES, thumbnail, write_page
from active_learning.curation.records import ClassSummary, Cut, Estimate, Record, Summary
from tests.report.test_hostile import PAYLOADS


def photograph(seed, side=256):
    """Noise of the amplitude of a photograph's detail over a smooth picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


PICTURE = thumbnail(photograph(0))


class Tags(HTMLParser):
    """Fails on an element, a handler or an address that the template does not write."""

    scripts = styles = 0

    def handle_starttag(self, tag, attrs):
        assert tag not in ("iframe", "object", "embed", "link", "a", "base", "img", "svg")
        self.scripts += tag == "script"
        self.styles += tag == "style"
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "href", "action", "formaction"), (tag, value)


def record(n, **words):
    fields = {"label": "cat", "suggested": "dog", "score": 0.9, "rank": n + 1, "issue": "label"}
    return Record(**({"path": f"{n}.png", "key": f"k{n}"} | fields | words))


def data(page):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    return json.loads(text)


def write(folder, records, images, summary=None):
    return write_page(folder, records, images, summary or Summary("set", 10)).read_text("utf-8")


def test_a_thumbnail_of_a_photograph_is_a_few_kilobytes():
    image = Image.open(io.BytesIO(thumbnail(photograph(1)[:128])))
    assert (image.format, image.size) == ("WEBP", (128, 64))
    assert Image.open(io.BytesIO(thumbnail(np.zeros((8, 8, 1), np.uint8)))).size == (8, 8)
    assert len(PICTURE) < 6000


def test_two_thousand_pictures_fit_and_more_are_counted(tmp_path):
    records = [record(n) for n in range(2500)]
    page = write(tmp_path, records, {r.key: PICTURE for r in records})
    assert len(page) <= MAX_BYTES
    shown = data(page)["records"]
    assert [r["key"] for r in shown] == [f"k{n}" for n in range(2000)]
    assert "the 2,000 most suspect of 2,500 findings are on this page" in page


def test_large_pictures_leave_out_the_least_suspect(tmp_path):
    large = b"\xff\xd8\xff" + bytes(100_000)
    records = [record(n) for n in reversed(range(300))]
    page = write(tmp_path, records, {r.key: large for r in records})
    assert len(page) <= MAX_BYTES
    assert [r["rank"] for r in data(page)["records"]] == list(range(1, 143))


def test_what_is_on_the_page(tmp_path):
    records = [
        record(0),
        record(1, issue="ok"),
        record(0, issue="duplicate", group="g"),
        record(3, issue="unreadable", detail="truncated"),
    ]
    page = write(tmp_path, records, {"k0": PICTURE})
    shown = data(page)["records"]
    assert [(r["key"], r["issue"]) for r in shown] == [
        ("k0", "duplicate"),
        ("k0", "label"),
        ("k3", "unreadable"),
    ]
    encoded = "data:image/webp;base64," + base64.b64encode(PICTURE).decode()
    assert [r["image"] for r in shown] == [encoded, encoded, None]


def test_without_cuts_the_precision_is_the_mean_probability(tmp_path):
    chances = (0.9, 0.7, 0.2, 0.1)
    records = [record(n, score=p, probability=p) for n, p in enumerate(chances)]
    result = data(write(tmp_path, records, {}))
    assert [cut["precision"] for cut in result["cuts"]] == pytest.approx([0.9, 0.8, 0.6, 0.475])
    assert [cut["count"] for cut in result["cuts"]] == [1, 2, 3, 4]
    assert result["start"] == 2  # The last of which half is wrong.
    assert data(write(tmp_path, [record(0)], {}))["cuts"] == []


def test_confusions_are_a_table_and_of_many_classes_a_list(tmp_path):
    def summary(n):
        classes = tuple(ClassSummary(f"class{k}", 10) for k in range(n))
        confusion = np.eye(n) * 5
        confusion[1, 2] = 3
        return Summary("set", 10, classes=classes, confusion=tuple(map(tuple, confusion.tolist())))

    few = write(tmp_path, [record(0)], {}, summary(4))
    assert 'data-given="1" data-suggested="2" title="class1 that are probably class2">3<' in few
    assert few.count('class="diagonal">5<') == 4
    many = write(tmp_path, [record(0)], {}, summary(30))
    assert "<b>3</b> class1 <i>→</i> class2" in many and 'class="diagonal"' not in many
    wrong = Summary("set", 10, classes=(ClassSummary("a", 1),), confusion=((1, 2), (3, 4)))
    with pytest.raises(ValueError, match="make it 1 x 1"):
        write(tmp_path, [record(0)], {}, wrong)


def test_estimates_stand_with_their_intervals(tmp_path):
    summary = Summary(
        "set",
        10,
        Estimate(0.072, 0.051, 0.1),
        (ClassSummary("cat", 1200, Estimate(0.1, 0.05, 0.2)),),
        cuts=(Cut(0.5, 3, Estimate(0.8, 0.7, 0.9)),),
        counts={"leak": 0},
        confidence=0.9,
    )
    page = write(tmp_path, [record(0)], {}, summary)
    assert "7.2 %" in page and "90 % interval: 5.1 % to 10 %" in page and "1,200" in page
    assert "<b>0</b><span>training pictures that are also in the test set</span>" in page
    assert 'style="left: 25.0%; width: 75.0%"' in page
    assert "<td>10 % (5.0 % to 20 %)</td>" in page


@pytest.mark.parametrize("text", PAYLOADS.values(), ids=PAYLOADS)
def test_hostile_text_is_text(tmp_path, text):
    words = {"path": text, "key": text, "label": text, "suggested": text, "group": text}
    summary = Summary(
        text,
        10,
        classes=(ClassSummary(text, 1, Estimate(0.1, 0.0, 0.2)), ClassSummary(text + "2", 1)),
        confusion=((1, 2), (3, 4)),
        notes=(text,),
    )
    records = [record(0, **words, detail=text), record(1, **words, issue="leak")]
    page = write(tmp_path, records, {text: PICTURE}, summary)
    parser = Tags()
    parser.feed(page)
    assert parser.scripts == 2 and parser.styles == 1
    shown = data(page)["records"][0]
    assert (shown["label"], shown["key"]) == (text[:1000], text[:1000])
    assert len(page) < 150_000


def test_only_the_pages_own_script_may_run(tmp_path):
    page = write(tmp_path, [record(0)], {})
    script = re.findall(r"<script>(.*?)</script>", page, re.S)[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.replace("&#39;", "'")
    assert not re.search(r"\b(?:https?:)?//(?!\s)[a-z]+\.", page)


@pytest.mark.parametrize("picture", [b"<svg onload=alert(1)>", b"GIF89a", b"", b"RIFFxxxxWAVE"])
def test_another_format_is_refused(tmp_path, picture):
    with pytest.raises(ValueError, match="not a JPEG, PNG or WebP"):
        write(tmp_path, [record(0)], {"k0": picture})
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize("words", [{"issue": "odd"}, {"score": 1.5}, {"probability": float("nan")}])
def test_a_record_out_of_range_is_refused(words):
    with pytest.raises((ValueError, TypeError)):
        record(0, **words)
