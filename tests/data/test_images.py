"""Decoding: what a person would see, from every kind of file, and an error for everything
damaged.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from active_learning.data import images
from active_learning.data.images import BadImage, cover, decode, decode_small, decode_view
from active_learning.data.sources import ImageFolder


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, different in every corner, so that JPEG keeps them and no rotation looks like
    another.
    """
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    return np.stack(
        [40 + 180 * y, 30 + 150 * x, 200 - 120 * x * y + 10 * np.sin(seed + 9 * x)], -1
    ).astype(np.uint8)


def save(image, kind: str, mode: str | None = None, **options) -> bytes:
    out = io.BytesIO()
    made = image if isinstance(image, Image.Image) else Image.fromarray(image)
    (made.convert(mode) if mode else made).save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(params=["fast", "pillow"])
def library(request, monkeypatch):
    """Once with the optional decoders, once with Pillow alone."""
    if request.param == "pillow":
        monkeypatch.setattr(images, "cv2", None)
        monkeypatch.setattr(images, "simplejpeg", None)
    return request.param


def test_png_is_exact_and_jpeg_close(library):
    image = photo(37, 53)
    assert np.array_equal(decode(save(image, "PNG")), image)
    assert np.abs(decode(save(image, "JPEG", quality=95)).astype(int) - image).max() < 8
    assert decode(save(image, "JPEG")).dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_gives_the_upright_picture(library, orientation):
    image = photo(40, 64)
    stored = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: np.rot90(image),
        7: image[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(image, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    blob = save(np.ascontiguousarray(stored[orientation]), "JPEG", quality=95, exif=exif)
    assert decode(blob).shape == image.shape
    assert np.abs(decode(blob).astype(int) - image).max() < 10


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_note_does_not_cost_the_image(library):
    blob = save(photo(16, 16), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert decode(blob).shape == (16, 16, 3)


def test_grey_cmyk_palette_and_one_bit(library):
    grey = photo(20, 30)[..., 0]
    for kind in ("PNG", "JPEG"):
        seen = decode(save(grey, kind))
        assert seen.shape == (20, 30, 3)
        assert np.abs(seen.astype(int) - grey[..., None]).max() < 6
    red = np.full((16, 16, 3), (220, 30, 30), np.uint8)
    cmyk = decode(save(red, "JPEG", "CMYK", quality=95)).reshape(-1, 3).mean(0)
    assert np.abs(cmyk - (220, 30, 30)).max() < 12
    palette = Image.fromarray(red).quantize(4)
    assert np.array_equal(decode(save(palette, "PNG")), red)
    assert set(np.unique(decode(save((grey > 120).astype(np.uint8) * 255, "PNG", "1")))) <= {0, 255}


def test_transparency_is_laid_on_white(library):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:4, :, 3] = 255
    seen = decode(save(rgba, "PNG"))
    assert (seen[:4] == (200, 0, 0)).all()
    assert (seen[4:] == 255).all()
    half = np.full((2, 2, 4), (0, 0, 0, 128), np.uint8)
    assert np.abs(decode(save(half, "PNG")).astype(int) - 127).max() <= 1


def test_sixteen_bits_keep_the_high_eight(library):
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    seen = decode(save(Image.fromarray(values), "PNG"))
    assert np.array_equal(seen[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_truncated_files_are_errors(library, kind, share):
    blob = save(photo(64, 64), kind)
    with pytest.raises(BadImage):
        decode(blob[: int(len(blob) * share)])


def test_other_bytes_and_bombs_are_errors(library):
    for blob in (b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04" + bytes(100)):
        with pytest.raises(BadImage):
            decode(blob)
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = lambda name, data: (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    )
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(BadImage, match="60000 x 60000"):
        decode(bomb)
    blob = bytearray(save(photo(16, 16), "JPEG"))
    at = blob.index(b"\xff\xc0")
    blob[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(BadImage):
        decode(bytes(blob))


def test_cover_is_the_centre_square(library):
    image = photo(30, 50)
    assert np.array_equal(cover(image, 30), image[:, 10:40])
    blocks = np.repeat(
        np.repeat(np.arange(16, dtype=np.uint8).reshape(4, 4, 1) * 10, 5, 0), 5, 1
    ).repeat(3, 2)
    assert np.array_equal(cover(blocks, 4), blocks[::5, ::5])
    assert cover(photo(5, 9), 24).shape == (24, 24, 3)
    assert np.array_equal(decode_view(save(image, "PNG"), 30), image[:, 10:40])


def test_the_small_view_is_close_to_the_exact_one(library):
    blob = save(photo(375, 500), "JPEG", quality=90)
    exact, small = decode_view(blob, 32), decode_small(blob, 32)
    assert small.shape == exact.shape == (32, 32, 3)
    assert np.abs(small.astype(int) - exact).max() < 12
    png = save(photo(60, 50), "PNG")
    assert np.array_equal(decode_small(png, 32), decode_view(png, 32))


def test_encode_round_trip(library):
    image = photo(64, 48)
    assert np.abs(decode(images.encode(image, 95)).astype(int) - image).max() < 8


def test_heic_is_read_with_its_extra(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="the extra [heif] is not installed")
    image, out = photo(48, 64), io.BytesIO()
    heif.from_pillow(Image.fromarray(image)).save(out, quality=95)
    blob = out.getvalue()
    assert images.suffix(blob) == ".heic" and ".heic" in images.SUFFIXES
    assert np.abs(decode(blob).astype(int) - image).mean() < 4
    with pytest.raises(BadImage):
        decode(blob[: len(blob) // 2])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for n in range(4):
            (tmp_path / name / f"{n}.HEIC").write_bytes(blob)
    result = ImageFolder(path=str(tmp_path), size=16).open()
    assert len(result.train) + len(result.test) == 8
    assert not result.train.gather(np.arange(2))["bad"].any()
