"""The colours of what is written: how RGB frames become those of a film or a WebP, on their way through ffmpeg.

A film is of BT.709 at every size and says so in every frame: players honour that, and those that look at nothing but
the size take 720 lines and more for BT.709 as well. ffmpeg's own default is BT.601 at every size, and unsaid.
"""

from typing import Any

from models.pictures import Frames

BT709 = {"color_primaries": "bt709", "color_trc": "bt709", "colorspace": "bt709"}
"""The primaries, transfer and matrix that a film's frames say; the names are those of ffmpeg."""


def make_film_pictures(stream: Any, frames: Frames) -> Any:
    """Return an ffmpeg stream of RGB `frames` as 8-bit YUV 4:2:0 of BT.709 in the limited range, which say what they
    are; odd sides are made even by repeating the last line."""
    return _convert(_make_even(stream, frames), "bt709").filter("setparams", range="tv", **BT709)


def make_webp_pictures(stream: Any) -> Any:
    """Return an ffmpeg stream of RGB as WebP has it: BT.601 in the limited range, always, and there is no place to say
    so."""
    return _convert(stream, "bt601")


def _convert(stream: Any, matrix: str) -> Any:
    ranges = {"in_range": "pc", "out_range": "tv"}
    scaled = stream.filter("scale", out_color_matrix=matrix, flags="bicubic+accurate_rnd", **ranges)
    return scaled.filter("format", "yuv420p")


def _make_even(stream: Any, frames: Frames) -> Any:
    """Return a stream with even sides, as chroma at half the size needs; the last line is repeated."""
    _, height, width, _ = frames.shape
    if not (height % 2 or width % 2):
        return stream
    # Borders are filled in planes: without planes of RGB here, ffmpeg makes them planes of YUV by its own default.
    padded = stream.filter("pad", "ceil(iw/2)*2", "ceil(ih/2)*2").filter("format", "gbrp")
    return padded.filter("fillborders", right=width % 2, bottom=height % 2, mode="smear")
