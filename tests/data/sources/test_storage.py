"""Shards behind URLs, served by a small server of our own that answers range requests."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from active_learning.config import ConfigError
from active_learning.data.sources import storage
from active_learning.data.sources.source import DataError
from active_learning.data.sources.webdataset import WebDataset
from active_learning.storage import addresses
from active_learning.storage.errors import StorageError
from tests.data.sources.test_webdataset import examples, write_tar


class Files(BaseHTTPRequestHandler):
    """Files by name; `asked` counts requests.

    Names that start with `whole` get no ranges, `busy` answers 503 at every other request.
    """

    files: dict[str, bytes]
    asked: Counter
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path[1:]
        self.asked[name] += 1
        content = self.files.get(name)
        if content is None or (name.startswith("busy") and self.asked[name] % 2):
            self.send_response(404 if content is None else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
        body, status = (
            (content, 200) if name.startswith("whole") else (content[first : last + 1], 206)
        )
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hash(content)}"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """(address, files by name, counts of requests)"""
    handler = type("Handler", (Files,), {"files": {}, "asked": Counter()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(addresses, "_RETRY", {**addresses._RETRY, "max_retries": 1})
        addresses._store.cache_clear()
        yield f"http://127.0.0.1:{running.server_port}", handler.files, handler.asked
        addresses._store.cache_clear()
        running.shutdown()
        thread.join()


def test_tars_by_url_are_those_on_disk(tmp_path, server):
    address, files, asked = server
    for n in range(2):
        tar = write_tar(tmp_path / f"train-{n:03d}.tar", examples(30, 30 * n))
        files[tar.name] = tar.read_bytes()
    here = WebDataset(path=str(tmp_path), size=16, text="caption").open().train
    keys = {"size": 16, "text": "caption", "cache": str(tmp_path / "cache")}
    there = WebDataset(path=f"{address}/train-{{000..001}}.tar", **keys).open().train
    # Of each tar the first byte, then all in one block; class names are not there.
    assert sum(asked.values()) == 5 and asked["manifest.json"] == 1
    assert np.array_equal(here.ids, there.ids) and np.array_equal(
        here.labels("label"), there.labels("label")
    )
    assert list(here.texts("caption")) == list(there.texts("caption"))
    rows = np.arange(0, len(here), 5)
    assert np.array_equal(here.gather(rows)["image"], there.gather(rows)["image"])
    assert sum(asked.values()) == 5  # copies of the blocks are kept
    WebDataset(path=f"{address}/train-{{000..001}}.tar", **keys).open()
    assert sum(asked.values()) == 5 + 3  # and the indices
    files["train-000.tar"] = write_tar(tmp_path / "x.tar", examples(9)).read_bytes()
    again = WebDataset(path=f"{address}/train-{{000..001}}.tar", **keys).open()
    assert len(again.train) + len(again.test) == 39  # another version, indexed anew


def test_what_a_server_may_answer(tmp_path, server, monkeypatch):
    address, files, _ = server
    content = write_tar(tmp_path / "x.tar", examples(20)).read_bytes()
    files |= {"whole.tar": content, "busy.tar": content, "short.tar": content[:1500]}

    def opened(name):
        return WebDataset(path=f"{address}/{name}", size=16, cache=str(tmp_path / "c")).open()

    assert len(opened("busy.tar").train) == 18  # asked again after a pause
    for name, message in (
        ("whole.tar", "does not answer range requests"),
        ("none.tar", "not there"),
        ("short.tar", "truncated"),
    ):
        with pytest.raises((ConfigError, DataError), match=f"^{address}/{name}: .*{message}"):
            opened(name)
    monkeypatch.setattr(addresses, "PATIENCE", 0.1)
    with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:9/x\.tar: .*gave up after"):
        WebDataset(path="http://127.0.0.1:9/x.tar").open()


def test_a_query_is_part_of_a_url(tmp_path, server):
    address, files, _ = server
    files["x.tar?part=1"] = write_tar(tmp_path / "x.tar", examples(20)).read_bytes()
    opened = WebDataset(path=f"{address}/x.tar?part=1", size=16, cache=str(tmp_path / "c")).open()
    assert len(opened.train) == 18


def test_a_read_is_whole_or_an_error(tmp_path):
    (tmp_path / "f").write_bytes(bytes(range(100)))
    file = storage.Local(str(tmp_path / "f"))
    assert file.pread(3, 97) == b"abc"
    with pytest.raises(OSError, match="ends before byte 101"):
        file.pread(4, 97)
