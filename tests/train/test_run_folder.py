"""summary.json: read back, or rebuilt when it cannot be."""

import json

import pytest

from active_learning.metrics import read_summary, write_summary

SUMMARY = {"complete": True, "final": {}, "flops": {}, "step": 3}


def test_a_summary_is_read_back(tmp_path):
    assert read_summary(tmp_path) is None
    write_summary(tmp_path, SUMMARY)
    assert read_summary(tmp_path) == SUMMARY


@pytest.mark.parametrize(
    "content",
    [b"", json.dumps(SUMMARY).encode()[:30], b"[]", b'{"complete": true}', b"\xff", b"[" * 9000],
)
def test_an_unreadable_summary_counts_as_none(tmp_path, content):
    (tmp_path / "summary.json").write_bytes(content)
    assert read_summary(tmp_path) is None
