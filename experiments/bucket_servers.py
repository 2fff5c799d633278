"""Object stores on loopback with injected faults: Amazon's protocol by moto, Google's by a fake.

Clients find them by the variables of `environment`.
"""

import contextlib
import functools
import hashlib
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

STAMP = "2026-01-01T00:00:00.000Z"


@dataclass
class Faults:
    """What goes wrong between a client and a server; may be changed while it runs.

    Attributes:
      fraction: Of the requests, those that fail: in turn by 503, by 429, and by a reset connection.
      latency: Seconds before each answer.
      denied: Whether every request is answered by 403.
      requests: How many there were.
      injected: How many of them failed here.
    """

    fraction: float = 0.0
    latency: float = 0.0
    denied: bool = False
    seed: int = 0
    requests: int = 0
    injected: int = 0
    _until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self):
        self._random = random.Random(self.seed)

    def outage(self, seconds: float) -> None:
        """Resets every connection from now on for so long."""
        self._until = time.monotonic() + seconds

    def next(self) -> int | None:
        """Status to answer with, 0 for a reset, None to let the request through."""
        with self._lock:
            self.requests += 1
            if self.denied:
                return 403
            failing = time.monotonic() < self._until
            if not failing and self._random.random() >= self.fraction:
                return None
            self.injected += 1
            return 0 if failing else (503, 429, 0)[self.injected % 3]


def with_faults(app: Callable, faults: Faults) -> Callable:
    """A WSGI application behind faults."""

    def guarded(environ: dict, start: Callable) -> Any:
        if faults.latency:
            time.sleep(faults.latency)
        status = faults.next()
        if status is None:
            return app(environ, start)
        if status == 0:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionError("cut off on purpose")
        _body(environ)
        body = b"<Error><Code>Injected</Code></Error>"
        start(f"{status} Injected", [("Content-Length", str(len(body)))])
        return [body]

    return guarded


@contextlib.contextmanager
def serve(app: Callable) -> Iterator[str]:
    """Serves a WSGI application on a free port; yields its address."""
    import logging

    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_args: Any) -> None:
            """Says nothing of the faults that are meant."""

        def connection_dropped(self, *_args: Any) -> None:
            """Nor of clients that leave."""

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def amazon(bucket: str) -> Callable:
    """A fresh S3 of moto's with one empty bucket."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.test import Client

    app = DomainDispatcherApplication(create_backend_app)
    Client(app).post("/moto-api/reset", base_url="http://127.0.0.1")
    answer = Client(app).put(f"/{bucket}", base_url="http://127.0.0.1")
    assert answer.status_code == 200, answer.text
    return app


class Google:
    """A fake of Google's object store with one bucket, as far as obstore speaks to it (XML)."""

    def __init__(self, bucket: str):
        self.bucket = bucket
        self.objects: dict[str, bytes] = {}
        self._uploads: dict[str, dict[int, bytes]] = {}

    def __call__(self, environ: dict, start: Callable) -> list[bytes]:
        """Answers one request."""
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        # PATH_INFO is unquoted and read as Latin-1.
        path = environ["PATH_INFO"].encode("latin-1").decode().lstrip("/")
        bucket, _, name = path.partition("/")
        if bucket != self.bucket:
            return _answer(start, 404, b"<Error><Code>NoSuchBucket</Code></Error>")
        method = environ["REQUEST_METHOD"]
        if not name:
            return _answer(start, 200, self._listing(query))
        if "uploads" in query or "uploadId" in query:
            return self._upload(method, name, query, _body(environ), start)
        if method == "PUT":
            if (source := environ.get("HTTP_X_GOOG_COPY_SOURCE")) is not None:
                self.objects[name] = self.objects[unquote(source).partition("/")[2]]
            else:
                self.objects[name] = _body(environ)
            return _answer(start, 200, b"", _about(self.objects[name]))
        if (content := self.objects.get(name)) is None:
            return _answer(start, 404, b"<Error><Code>NoSuchKey</Code></Error>")
        if method == "DELETE":
            self.objects.pop(name, None)
            return _answer(start, 204, b"")
        return _content(start, content, environ.get("HTTP_RANGE"), method == "HEAD")

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        files, folders = _listed(self.objects, query)
        rows = [
            f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size>"
            f"<LastModified>{STAMP}</LastModified>"
            f"<ETag>{escape(_about(content)[0][1])}</ETag></Contents>"
            for name, content in files
        ]
        rows += [
            f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            for folder in folders
        ]
        text = (
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(rows)}</ListBucketResult>"
        )
        return text.encode()

    def _upload(self, method: str, name: str, query: dict, body: bytes, start: Callable):
        if "uploads" in query:
            upload = f"upload{len(self._uploads)}"
            self._uploads[upload] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>"
            text += "</InitiateMultipartUploadResult>"
            return _answer(start, 200, text.encode())
        parts = self._uploads[query["uploadId"][0]]
        if method == "PUT":
            parts[int(query["partNumber"][0])] = body
            return _answer(start, 200, b"", _about(body))
        if method == "DELETE":
            return _answer(start, 204, b"")
        self.objects[name] = b"".join(parts[n] for n in sorted(parts))
        etag = escape(_about(self.objects[name])[0][1])
        text = f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
        return _answer(start, 200, text.encode())


class Azure:
    """A fake of Azure's blob store with one container, as far as obstore speaks to it."""

    def __init__(self, bucket: str):
        self.bucket = bucket
        self.objects: dict[str, bytes] = {}
        self._blocks: dict[tuple[str, str], bytes] = {}

    def __call__(self, environ: dict, start: Callable) -> list[bytes]:
        """Answers one request."""
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        path = environ["PATH_INFO"].encode("latin-1").decode().lstrip("/")
        container, _, name = path.partition("/")
        if container != self.bucket:
            return _answer(start, 404, b"<Error><Code>ContainerNotFound</Code></Error>")
        method = environ["REQUEST_METHOD"]
        if query.get("comp") == ["batch"]:
            return self._delete_all(_body(environ).decode(), start)
        if not name:
            return _answer(start, 200, self._listing(query))
        if method == "PUT":
            self._put(name, query, _body(environ))
            return _answer(start, 201, b"", _about(self.objects.get(name, b"")))
        if (content := self.objects.get(name)) is None:
            return _answer(start, 404, b"<Error><Code>BlobNotFound</Code></Error>")
        span = environ.get("HTTP_X_MS_RANGE") or environ.get("HTTP_RANGE")
        return _content(start, content, span, method == "HEAD")

    def _delete_all(self, body: str, start: Callable) -> list[bytes]:
        """Deletes the blobs of a batch, the only way in which obstore deletes."""
        parts = []
        for number, path in enumerate(re.findall(r"^DELETE (\S+)", body, re.M)):
            name = unquote(path.partition("?")[0].lstrip("/")).partition("/")[2]
            found = self.objects.pop(name, None) is not None
            status = "202 Accepted" if found else "404 The specified blob does not exist."
            parts.append(
                "--batch\r\nContent-Type: application/http\r\nContent-ID: "
                f"{number}\r\n\r\nHTTP/1.1 {status}\r\nx-ms-version: 2023-11-03\r\n\r\n"
            )
        kind = [("Content-Type", "multipart/mixed; boundary=batch")]
        return _answer(start, 202, "".join([*parts, "--batch--\r\n"]).encode(), kind)

    def _put(self, name: str, query: dict[str, list[str]], body: bytes) -> None:
        """Stores a blob, one of its blocks, or what its blocks make."""
        kind = query.get("comp", [""])[0]
        if kind == "block":
            self._blocks[name, query["blockid"][0]] = body
        elif kind == "blocklist":
            blocks = re.findall(r"<(?:Uncommitted|Latest)>([^<]*)</", body.decode())
            self.objects[name] = b"".join(self._blocks.pop((name, block)) for block in blocks)
        else:
            self.objects[name] = body

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        files, folders = _listed(self.objects, query)
        rows = [
            f"<Blob><Name>{escape(name)}</Name><Properties>"
            f"<Last-Modified>{_about(content)[1][1]}</Last-Modified>"
            f"<Content-Length>{len(content)}</Content-Length><Content-Type/>"
            f"<Etag>{escape(_about(content)[0][1])}</Etag></Properties></Blob>"
            for name, content in files
        ]
        rows += [f"<BlobPrefix><Name>{escape(folder)}</Name></BlobPrefix>" for folder in folders]
        blobs = f"<Blobs>{''.join(rows)}</Blobs><NextMarker/>"
        return f"<EnumerationResults>{blobs}</EnumerationResults>".encode()


def _listed(
    objects: dict[str, bytes], query: dict[str, list[str]]
) -> tuple[list[tuple[str, bytes]], list[str]]:
    """Objects below a prefix, and, up to a delimiter, the folders there."""
    prefix, delimiter = (query.get(key, [""])[0] for key in ("prefix", "delimiter"))
    files, folders = [], set()
    for name, content in sorted(objects.items()):
        if not name.startswith(prefix):
            continue
        inner, cut, _ = name[len(prefix) :].partition(delimiter or "\0")
        if delimiter and cut:
            folders.add(prefix + inner + delimiter)
        else:
            files.append((name, content))
    return files, sorted(folders)


def _body(environ: dict) -> bytes:
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        return environ["wsgi.input"].read()
    return environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


@functools.lru_cache(maxsize=1024)
def _md5(content: bytes) -> str:
    """Kept by content, since each request for a part of an object answers with it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _about(content: bytes) -> list[tuple[str, str]]:
    return [("ETag", f'"{_md5(content)}"'), ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")]


def _answer(
    start: Callable, status: int, body: bytes, headers: list[tuple[str, str]] | None = None
) -> list[bytes]:
    start(
        f"{status} {HTTPStatus(status).phrase}",
        [("Content-Length", str(len(body)))] + (headers or []),
    )
    return [body]


def _content(start: Callable, content: bytes, span: str | None, only_head: bool) -> list[bytes]:
    headers, status, part = _about(content), 200, content
    if span is not None and (match := re.fullmatch(r"bytes=(\d*)-(\d*)", span)) is not None:
        first = int(match[1]) if match[1] else max(0, len(content) - int(match[2]))
        last = min(int(match[2]), len(content) - 1) if match[1] and match[2] else len(content) - 1
        part, status = content[first : last + 1], 206
        headers.append(("Content-Range", f"bytes {first}-{last}/{len(content)}"))
    start(f"{status} {HTTPStatus(status).phrase}", [("Content-Length", str(len(part))), *headers])
    return [b"" if only_head else part]


@contextlib.contextmanager
def buckets(kind: str, bucket: str = "bucket") -> Iterator[tuple[dict[str, str], Faults]]:
    """Serves a store of one kind ("gs", "s3" or "az") with one empty bucket.

    Yields:
      The environment that clients need, and the faults, none at first.
    """
    faults = Faults()
    app = {"gs": Google, "s3": amazon, "az": Azure}[kind](bucket)
    with serve(with_faults(app, faults)) as address:
        yield environment(kind, address), faults


def environment(kind: str, address: str) -> dict[str, str]:
    """The variables by which a client finds and enters a server on loopback."""
    if kind == "gs":
        return {"GOOGLE_BASE_URL": address, "GOOGLE_BEARER_TOKEN": "token"}
    if kind == "az":
        return {
            "AZURE_STORAGE_ENDPOINT": address,
            "AZURE_STORAGE_ACCOUNT_NAME": "account",
            "AZURE_STORAGE_ACCOUNT_KEY": "a2V5",
        }
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
