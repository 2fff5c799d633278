"""The gallery of the committed results."""

import json
import shutil

from experiments import gallery


def test_the_page_shows_what_is_there_and_names_what_is_missing(tmp_path, monkeypatch):
    results = tmp_path / "results"
    results.mkdir()
    for name in ("flickr_desk_final", "scaling_law_desk", "transfer_desk"):
        shutil.copy(gallery.RESULTS / f"{name}.json", results)
    rows = json.loads((results / "flickr_desk_final.json").read_text())
    kept = [row for row in rows if row["arm"] != "(b) joint"]
    (results / "flickr_desk_final.json").write_text(json.dumps(kept))
    monkeypatch.setattr(gallery, "RESULTS", results)
    gallery.write(tmp_path / "out" / "index.html")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Missing: Image-text pairs: newer objectives, cheaper joint selection." in page
    assert "105 of 107 runs are measured. Missing: (b) joint (0 of 2)." in page
    assert page.count("24 of 24 runs are measured.") == 1
    assert page.count("16 of 16 runs are measured.") == 1
    assert "In 12 of 12 comparisons the reference alone" in page
    assert "<td>41.8 ± 0.6</td>" in page and "<td>0.072 ± 0.017</td>" in page
    assert page.count('<img alt="') >= 2  # Figures are in the page itself.
    assert 'href="../results/transfer_desk.json"' in page and "http://" not in page
