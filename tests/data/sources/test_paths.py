"""Paths as people type them."""

import pytest

from active_learning.data.errors import DataError
from active_learning.data.sources import paths


def test_braces():
    assert paths.expand("a-{08..11}.tar", "k") == [f"a-{n}.tar" for n in ("08", "09", "10", "11")]
    assert len(paths.expand("http://h/{0..1}-{a,b,c}.tar", "k")) == 6
    for path in ("{a..b}", "{1..", "{3..1}", "{0..99999999999}"):
        with pytest.raises(DataError, match=r"k=.*expected a range"):
            paths.expand(path, "k")


def test_what_exists_is_meant_literally(tmp_path, monkeypatch):
    for name in ("a[1].tar", "b{0..1}.tar", "c d.tar", "e1.tar", "e2.tar"):
        (tmp_path / name).write_bytes(b"")
    for name in ("a[1].tar", "b{0..1}.tar", "c d.tar"):
        assert paths.files_of(f"{tmp_path}/{name}", "k") == [f"{tmp_path}/{name}"]
    assert len(paths.files_of(f"{tmp_path}/e[12].tar", "k")) == 2
    assert len(paths.files_of(f"{tmp_path}/e{{1..2}}.tar", "k")) == 2
    with pytest.raises(DataError, match=r"no such file or folder '.*/e3\.tar'"):
        paths.files_of(f"{tmp_path}/e{{1..3}}.tar", "k")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.local("~/e1.tar").exists() and paths.local(f"file://{tmp_path}/c%20d.tar").exists()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").mkdir()
    assert paths.local("f\\..\\e1.tar").exists()


@pytest.mark.parametrize(
    "path", ["gs:/b/x", "s3:/b/x", "hf://datasets/x", "hdfs://c/x", "ftp://h/x"]
)
def test_addresses_of_other_kinds(path):
    with pytest.raises(DataError, match=r"^config\.data\.path=.*are not supported") as error:
        paths.check_kind(path, "config.data.path")
    assert "\n" not in str(error.value)


def test_buckets_and_http_are_read_where_a_source_can():
    for path in ("https://h/a.tar", "gs://b/x", "s3://b/x", "az://c/x"):
        paths.check_kind(path, "k", remote=True)
        with pytest.raises(DataError, match=r"^k=.*only tars, Parquet files and prepared shards"):
            paths.check_kind(path, "k")
    paths.check_kind("/a/b:c", "k")
    paths.check_kind("C:\\data", "k")
