"""Pictures of any kind as uint8 RGB of the size a model takes: upright, opaque, eight bits a channel.

Of an animated picture the first frame is used, of one with a gain map the base picture. Colours become sRGB, by the
profile or the tag in the file (models/picture_colours.py). HEIC is read where pillow-heif, the extra `heic`, is there.
"""

import importlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.errors import BadInput, BadMedia, DecodeLimit
from models.file_kinds import HEIC, READS_HEIC, read_kind
from models.picture_colours import HEAD, convert_colours, describe_conversion

if TYPE_CHECKING:
    from torch import Tensor

Picture = NDArray[np.uint8]
Frames = NDArray[np.uint8]
"""The frames of a clip, (n, height, width, 3) in RGB."""
Fit = Literal["crop", "pad", "stretch"]
Background = Literal["black", "white"]

PICTURE_SUFFIXES = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".gif",
        ".avif",
        ".ppm",
        ".pgm",
        ".tga",
        *((".heic", ".heif") if READS_HEIC else ()),
    )
)

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""What Pillow reads here, whatever a file is named. Others run programs (EPS: Ghostscript) or are seldom tried."""

_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    OverflowError,
    IndexError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow raises for damaged pictures; RuntimeError is that of AVIF."""


def prepare_picture(
    path: Path, width: int, height: int, fit: Fit = "crop", background: Background = "white"
) -> Picture:
    """Read the picture at `path` as uint8 RGB [height, width, 3].

    fit: "crop" fills the frame and cuts the rest, evenly on both sides; "pad" shows the whole picture on
    `background`; "stretch" ignores its proportions. Raises BadInput when there is no such file and BadMedia when it
    cannot be read as a picture.
    """
    if not path.is_file():
        raise BadInput(f"{path.name}: no such file.")
    return np.asarray(fit_picture(_read(path, background), width, height, fit, background))


def open_picture(path: Path) -> Image.Image:
    """Open a picture of one of FORMATS, which is read when it is used; raises what Pillow raises."""
    return Image.open(path, formats=(*FORMATS, *(["HEIF"] if register_heif() else [])))


@cache
def register_heif() -> bool:
    """Make Pillow read HEIC where pillow-heif is installed; return whether it is."""
    if not READS_HEIC:
        return False
    importlib.import_module("pillow_heif").register_heif_opener()
    return True


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file, in which its colour tags are."""
    with path.open("rb") as file:
        return file.read(HEAD)


def describe_foreign_picture(path: Path) -> str | None:
    """Return how the colours of a picture are converted, in words; None where they are not, or it cannot be read."""
    try:
        with _warnings("ignore"), open_picture(path) as picture:
            return describe_conversion(picture, read_head(path))
    except (Image.DecompressionBombError, *_UNREADABLE):
        return None


def read_foreign_picture(
    path: Path, width: int, height: int, fit: Fit, background: Background, most_pixels: int
) -> tuple[Picture, int]:
    """Return a picture as `prepare_picture` does, and how many there are in its file; raises BadMedia where it has more
    than `most_pixels`. For a child process: it sets Pillow's limit."""
    Image.MAX_IMAGE_PIXELS = most_pixels
    return prepare_picture(path, width, height, fit, background), count_pictures(path)


def count_pictures(path: Path) -> int:
    """Count the pictures in a file, frames of an animation or pages, of which only the first is used; 1 if unknown."""
    try:
        with _warnings("ignore"), open_picture(path) as picture:
            return getattr(picture, "n_frames", 1)
    except (Image.DecompressionBombError, *_UNREADABLE):
        return 1


def fit_picture(picture: Image.Image, width: int, height: int, fit: Fit, background: Background) -> Image.Image:
    """Resize an RGB picture to (width, height) by Lanczos, as `fit` says."""
    if fit == "crop":
        return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    if fit == "pad":
        return _pad_picture(picture, width, height, background)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _pad_picture(picture: Image.Image, width: int, height: int, background: Background) -> Image.Image:
    scale = min(width / picture.width, height / picture.height)
    # A very long picture is at least one pixel wide.
    inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    canvas = Image.new("RGB", (width, height), background)
    corner = round((width - inner[0]) / 2), round((height - inner[1]) / 2)
    canvas.paste(picture.resize(inner, Image.Resampling.LANCZOS), corner)
    return canvas


def from_pixels(pixels: "Tensor") -> "Tensor":
    """Return uint8 values as networks take them, float32 in -1..1, in the same shape on the same device."""
    return pixels.float() / 127.5 - 1


def to_pixels(values: "Tensor") -> "Tensor":
    """Return values in about -1..1 as uint8, cut to that range and rounded, in the same shape on the same device."""
    return ((values.clamp(-1, 1) + 1) * 127.5).round().byte()


def _read(path: Path, background: Background) -> Image.Image:
    """Read a picture as RGB, turned by its EXIF orientation; more pixels than Pillow's limit are an error."""
    try:
        with _warnings("error"), open_picture(path) as picture:
            picture.load()
            turned = ImageOps.exif_transpose(picture)
            shown = _convert_wide(turned) if turned.mode.startswith("I") else turned
            return _make_opaque(convert_colours(shown, read_head(path)), background, path.name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise DecodeLimit(
            f"{path.name}: has more than {limit} million pixels; make it smaller, or raise --limits.megapixels."
        ) from error
    except _UNREADABLE as error:
        raise BadMedia(f"{path.name}: cannot be read as a picture ({_explain_error(path, error)}).") from error


@contextmanager
def _warnings(of_size: Literal["error", "ignore"]) -> Iterator[None]:
    """Filter Pillow's warnings within a block: about too many pixels as asked, about damaged EXIF data never shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter(of_size, Image.DecompressionBombWarning)
        yield


def _explain_error(path: Path, error: Exception) -> str:
    kind = read_kind(path)
    if kind and (kind.unread or kind.holds != "picture"):
        extra = ", or install Reelmill's extra heic" if kind is HEIC else ""
        return f"its content is {kind.name}; save it as JPEG or PNG{extra}"
    if isinstance(error, Image.UnidentifiedImageError):
        return "its content is not in a known picture format"
    return str(error).strip().rstrip(".") or type(error).__name__


def _make_opaque(picture: Image.Image, background: Background, name: str) -> Image.Image:
    """Convert any mode to RGB; transparent parts show the background."""
    if picture.mode == "F":
        raise BadMedia(f"{name}: holds floating-point values of unknown range; save it with 8 or 16 bits.")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    canvas = Image.new("RGBA", layer.size, background)
    return Image.alpha_composite(canvas, layer).convert("RGB")


def _convert_wide(picture: Image.Image) -> Image.Image:
    """Convert a 16-bit grey picture to 8 bits, rounded."""
    values = np.asarray(picture).astype(np.float64)
    gray = Image.fromarray((values.clip(0, 65535) / 257).round().astype(np.uint8))
    gray.info = dict(picture.info)
    return gray
