"""Encoded images to uint8 RGB and back, and the views cut from them.

Whatever cannot be decoded fully and safely is a BadImage.
"""

import functools
import io
import struct

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError, features

from active_learning.data import limits

try:
    import cv2
except ImportError:  # Pillow does it all, at about half the speed
    cv2 = None
try:
    import simplejpeg
except ImportError:
    simplejpeg = None

try:
    import pillow_heif  # pyright: ignore[reportMissingImports]  # extra [heif]
except ImportError:
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()

_AVIF = features.check("avif")
FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"),
    *(("AVIF",) if _AVIF else ()),
    *(("HEIF",) if pillow_heif is not None else ()),
)
SUFFIXES = (
    *(
        ".jpg",
        ".jpeg",
        ".jfif",
        ".jpe",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
    ),
    *((".avif",) if _AVIF else ()),
    *((".heic", ".heif") if pillow_heif is not None else ()),
)
_ORIENTATION = 0x0112  # the EXIF tag
_PNG = b"\x89PNG\r\n\x1a\n"
_SUFFIX_OF = {
    b"\xff\xd8\xff": ".jpg",
    _PNG: ".png",
    b"RIFF": ".webp",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


class BadImage(ValueError):
    """Bytes that are no complete image; one line that says why."""


def decode(blob: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image to upright RGB.

    EXIF rotation is applied, gray repeated, CMYK converted, transparency laid on white, 16 bits cut
    to the high 8.

    Of an animation the first frame. Raises BadImage for anything damaged, truncated, of another
    kind or above the limit of pixels.
    """
    return _decode(blob, 0)


def decode_view(blob: bytes, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """The evaluation view: the full image, resized until it covers size x size, the center cut out.

    Raises BadImage.
    """
    return cover(_decode(blob, 0), size)


def decode_small(blob: bytes, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """The same view from a JPEG decoded at the smallest DCT scale that still covers it.

    The scales are 1/8 to 1. This is cheaper than `decode_view` and not bit for bit the same.
    Entropy decoding is paid in full, so it saves about half; a prepared small view saves far more.
    Raises BadImage.
    """
    return cover(_decode(blob, size), size)


def cover(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Resizes until the shorter side is `size` px and cuts out the center.

    Area mean when shrinking, cubic when growing.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    side = min(height, width)  # cut first: the center square is all that is kept
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(square)
    if cv2 is not None:
        return cv2.resize(
            square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        )
    how = Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(square).resize((size, size), how))


def encode(image: UInt8[np.ndarray, "h w 3"], quality: int = 90) -> bytes:
    """A JPEG (4:2:0) of `image`."""
    if simplejpeg is not None:
        return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", "420")
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality, subsampling="4:2:0")
    return out.getvalue()


def encode_png(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """A lossless PNG of a color image, or of a gray one (c = 1)."""
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(out, "PNG")
    return out.getvalue()


def suffix(blob: bytes) -> str:
    """The file suffix of an encoded image, from its first bytes."""
    if blob[4:8] == b"ftyp":
        return ".avif" if blob[8:12] in (b"avif", b"avis") else ".heic"
    return next((suffix for head, suffix in _SUFFIX_OF.items() if blob.startswith(head)), ".ppm")


def is_known(head: bytes) -> bool:
    """Whether a file's first 16 bytes are those of a kind of image that is read."""
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return True
    return suffix(head) != ".ppm" and suffix(head) in SUFFIXES


def is_gray(blob: bytes) -> bool:
    """Whether an encoded image has one channel. Raises BadImage."""
    try:
        with Image.open(io.BytesIO(blob), formats=FORMATS) as opened:
            return len(opened.getbands()) == 1
    except (OSError, ValueError, SyntaxError) as error:
        raise BadImage(" ".join(str(error).split())[:200]) from error


def shrink(image: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resized so that the shorter side is `side` px, the whole picture kept; never enlarged."""
    height, width = image.shape[:2]
    if min(height, width) <= side:
        return image
    scale = side / min(height, width)
    height, width = round(scale * height), round(scale * width)
    if cv2 is not None:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def decoders() -> str:
    """Names the libraries that decode and resize here, for provenance.

    Pixels may differ by a gray level between libraries.
    """
    decoder = "simplejpeg" if simplejpeg is not None else "Pillow"
    return f"{decoder}, {'OpenCV' if cv2 is not None else 'Pillow'}"


def _decode(blob: bytes, least: int) -> np.ndarray:
    try:
        if blob[:3] == b"\xff\xd8\xff":
            return _jpeg(blob, least)
        return _other(blob, least)
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage("no image format that is known") from error
    # Decoders raise many kinds, and a damaged file must cost one example and never the run.
    except Exception as error:
        raise BadImage(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from error


def _jpeg(blob: bytes, least: int) -> np.ndarray:
    if simplejpeg is None:
        return _other(blob, least)
    height, width, colors, _ = simplejpeg.decode_jpeg_header(blob)
    _check_size(int(width), int(height))
    if colors in ("CMYK", "YCCK") or not _ends(blob):
        return _other(blob, least)
    image = simplejpeg.decode_jpeg(
        blob, "RGB", fastdct=False, fastupsample=False, min_height=least, min_width=least
    )
    return _upright(image, _orientation(blob))


def _ends(blob: bytes) -> bool:
    """Whether the end-of-image marker is there (padding may follow).

    Without it the decoder would paint the missing rows gray.
    """
    return b"\xff\xd9" in blob[-64:] or blob.rstrip(b"\x00").endswith(b"\xff\xd9")


def _orientation(blob: bytes) -> int:
    """The EXIF orientation (1 to 8) of a JPEG, 1 where there is none.

    Reads only the header's segments.
    """
    at = 2
    while blob[at : at + 1] == b"\xff" and at + 4 <= len(blob):
        marker, size = struct.unpack(">BH", blob[at + 1 : at + 4])
        if marker == 0xDA:
            return 1
        if marker == 0xE1 and blob[at + 4 : at + 10] == b"Exif\x00\x00":
            return _orientation_of(blob[at + 10 : at + 2 + size])
        at += 2 + size
    return 1


@functools.lru_cache(maxsize=64)  # a camera writes the same header again and again
def _orientation_of(tiff: bytes) -> int:
    exif = Image.Exif()
    try:
        exif.load(b"Exif\x00\x00" + tiff)
        return _known(exif)
    except Exception:  # a damaged note about an undamaged image
        return 1


def _known(exif: Image.Exif) -> int:
    orientation = exif.get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation: mirrored for the even ones of 1-4, transposed from 5 on."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _other(blob: bytes, least: int) -> np.ndarray:
    if blob[:8] == _PNG and len(blob) >= 24:
        _check_size(*struct.unpack(">II", blob[16:24]))
    with Image.open(io.BytesIO(blob), formats=FORMATS) as opened:
        _check_size(*opened.size)
        if least:
            opened.draft("RGB" if opened.mode != "CMYK" else "CMYK", (least, least))
        opened.load()  # raises where the data end too early
        return _upright(np.array(_rgb(opened)), _noted(opened))


def _noted(opened: Image.Image) -> int:
    try:
        return _known(opened.getexif())
    except Exception:
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(values, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadImage("floating-point pixels have no known range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _check_size(width: int, height: int) -> None:
    most = limits.current().pixels
    if width < 1 or height < 1 or width * height > most:
        raise BadImage(f"{width} x {height} px, expected between 1 and {most} pixels")
