"""Encoding a generated clip: the formats, the encoder and the quality of each, and how it is written within memory.

Frames go to ffmpeg one by one from where they are, and one thread encodes them, so that the same frames give the same
bytes on every machine. Where that takes too much memory, the clip is encoded again while no other such clip is: the
same bytes. Where that is still too much, an mp4 is encoded with no frames looked at ahead: as near to the frames as
before, but rounded otherwise.
"""

import logging
import re
import threading
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import ffmpeg

from models.errors import BadInput
from models.pictures import Frames
from tasks.generate.clip_tags import TAG, write_tag
from tasks.manifest import publish, publish_folder
from tasks.media.video import compile_command, find_ffmpeg, make_frame_input, make_mp4_options, run_ffmpeg
from tasks.media.written_colours import make_film_pictures, make_webp_pictures

Format = Literal["h264", "hevc", "av1", "webp", "gif", "png"]

EncodePlan = Literal[
    "frame by frame",
    "frame by frame, one clip at a time",
    "frame by frame, one clip at a time, none ahead",
]

PLANS: tuple[EncodePlan, ...] = get_args(EncodePlan)
"""How much memory is used, from the most to the least."""

PICTURE_NAME = "%04d.png"

FASTEST_GIF = 50
"""Frames per second: two hundredths of a second each."""

log = logging.getLogger("reelmill")

_ALONE = threading.Lock()

_LISTED = re.compile(r"^ V[A-Z.]{5} (?P<name>[^= ]\S*)", re.MULTILINE)
"""A line of ffmpeg's list of encoders."""


@dataclass(frozen=True)
class Codec:
    """A format: its file's suffix ("" for a folder of pictures), ffmpeg's encoders for it, the preferred one first, its
    default quality, and the worst one; None where it has no quality to choose."""

    suffix: str
    encoders: tuple[str, ...]
    crf: int | None = None
    worst: int | None = None


CODECS: Mapping[Format, Codec] = {
    "h264": Codec(".mp4", ("libx264",), 16, 51),
    "hevc": Codec(".mp4", ("libx265",), 18, 51),
    "av1": Codec(".mp4", ("libsvtav1", "libaom-av1"), 20, 63),
    "webp": Codec(".webp", ("libwebp_anim",), 10, 51),
    "gif": Codec(".gif", ("gif",)),
    "png": Codec("", ("png",)),
}

MP4 = {"pix_fmt": "yuv420p", "threads": 1}

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "libx264": MP4 | {"preset": "medium"},
    "libx265": MP4 | {"tag:v": "hvc1", "x265-params": "log-level=error:pools=none:frame-threads=1:wpp=0:info=0"},
    "libsvtav1": MP4 | {"preset": 6, "svtav1-params": "lp=1"},
    "libaom-av1": MP4 | {"cpu-used": 6, "row-mt": 0},
}
"""What encodes alike on every machine: one thread, and no settings written into the stream."""

NONE_AHEAD: Mapping[str, Mapping[str, Any]] = {
    "libx264": {"x264-params": "rc-lookahead=1:ref=1:bframes=0:mbtree=0"},
    "libx265": {"x265-params": f"{OPTIONS['libx265']['x265-params']}:rc-lookahead=1:ref=1:bframes=0"},
    "libsvtav1": {"svtav1-params": "lp=1:lookahead=0:pred-struct=1"},
    "libaom-av1": {"lag-in-frames": 0},
}
"""What takes the least memory: at 1024x576, 74 MB instead of 133 by libx264, 106 instead of 165 by libx265."""


@dataclass(frozen=True)
class ClipLook:
    """How a clip is written: the format, ffmpeg's encoder, and its quality, None where the format has none."""

    format: Format
    encoder: str
    crf: int | None

    @property
    def suffix(self) -> str:
        """Return what the name of such a clip ends with."""
        return CODECS[self.format].suffix

    @property
    def plans(self) -> tuple[EncodePlan, ...]:
        """Return the plans that apply to it: only film encoders look at frames ahead."""
        return PLANS if self.encoder in NONE_AHEAD else PLANS[:-1]


def make_look(name: Format, crf: int | None) -> ClipLook:
    """Return the look asked for; raises BadInput for a quality that the format does not have, or where ffmpeg has no
    encoder."""
    codec = CODECS[name]
    if crf is not None and codec.worst is None:
        raise BadInput(f"--crf {crf}: {name} has no quality to choose. Leave it out, or choose another --format.")
    if crf is not None and codec.worst is not None and not 0 <= crf <= codec.worst:
        raise BadInput(f"--crf {crf}: the quality of {name} goes from 0, the best, to {codec.worst}.")
    known = list_encoders(find_ffmpeg())
    encoder = next((encoder for encoder in codec.encoders if encoder in known), None)
    if encoder is None:
        wanted = " nor ".join(codec.encoders)
        raise BadInput(
            f"--format {name}: {find_ffmpeg()} has no encoder {wanted}. Choose another format, or unset "
            "IMAGEIO_FFMPEG_EXE: the ffmpeg that Reelmill is installed with has it."
        )
    return ClipLook(name, encoder, codec.crf if crf is None else crf)


def list_cautions(look: ClipLook, rates: Collection[float]) -> list[str]:
    """Return what players make of clips of a look at these `rates` (frames per second), where that is not what was
    asked for."""
    cautions = []
    if look.encoder == "libx264" and look.crf == 0:
        cautions.append(
            "--crf 0: H.264 without any loss is of the profile High 4:4:4 Predictive, which browsers, phones and most "
            "players refuse. --crf 1 is of the profile High, which all of them play."
        )
    if look.format == "gif" and (fast := max(rates, default=0)) > FASTEST_GIF:
        cautions.append(
            f"--format gif at {fast:g} frames a second: a GIF counts in hundredths of a second, and browsers show a "
            f"frame of less than two of them for ten. Play it at {FASTEST_GIF} or fewer (--playback-fps), or choose "
            "another format."
        )
    return cautions


@cache
def list_encoders(exe: str) -> frozenset[str]:
    """Return the names of the video and picture encoders that an ffmpeg has."""
    listed = run_ffmpeg([exe, "-hide_banner", "-encoders"], None, exe).decode(errors="replace")
    return frozenset(found["name"] for found in _LISTED.finditer(listed))


def write_clip(
    path: Path, frames: Frames, fps: float, look: ClipLook, said: str
) -> tuple[EncodePlan, list[EncodePlan]]:
    """Write uint8 RGB [frames, height, width, 3] to `path`, with the text `said` in it; return the plan that worked,
    and those that were too large before.

    Raises BadMedia, and EncoderOutOfMemory where no plan was small enough.
    """
    *first, last = look.plans
    for number, plan in enumerate(first):
        try:
            with _ALONE if number else nullcontext():
                _write(path, frames, fps, look, said, plan)
        except MemoryError as error:
            log.warning("%s Tried again: %s.", error, look.plans[number + 1])
            continue
        return plan, first[:number]
    with _ALONE:
        _write(path, frames, fps, look, said, last)
    return last, first


def _write(path: Path, frames: Frames, fps: float, look: ClipLook, said: str, plan: EncodePlan) -> None:
    with publish_folder(path) if look.format == "png" else publish(path) as aside:
        source = make_frame_input(frames, fps)
        if look.format == "gif":
            _write_gif(aside, frames, source, str(path))
        else:
            run_ffmpeg(compile_command(_make_output(aside, frames, source, look, said, plan)), frames, str(path))
        if look.suffix != ".mp4":
            write_tag(aside, said)


def _make_output(aside: Path, frames: Frames, source: Any, look: ClipLook, said: str, plan: EncodePlan) -> Any:
    """Return what ffmpeg writes of the frames of `source`, for every format but GIF."""
    if look.format == "png":
        names = f"{str(aside.absolute()).replace('%', '%%')}/{PICTURE_NAME}"
        return source.output(names, vcodec=look.encoder, pix_fmt="rgb24", threads=1, fflags="+bitexact")
    if look.format == "webp":
        shown = {"pix_fmt": "yuv420p", "quality": convert_webp_quality(look.crf or 0), "loop": 0, "fflags": "+bitexact"}
        return make_webp_pictures(source).output(str(aside.absolute()), vcodec=look.encoder, **shown)
    ahead = NONE_AHEAD[look.encoder] if plan == PLANS[-1] else {}
    options = {**OPTIONS[look.encoder], **ahead, **make_mp4_options({TAG: said})}
    return make_film_pictures(source, frames).output(
        str(aside.absolute()), vcodec=look.encoder, crf=look.crf, **options
    )


def convert_webp_quality(crf: int) -> int:
    """Return WebP's quality, 100 best, for a quality of 0 to 51, 0 best."""
    return round(100 * (1 - crf / 51))


def _write_gif(aside: Path, frames: Frames, source: Any, item: str) -> None:
    """Write a GIF with the 256 colours that suit all of its frames: they are found first, so that no frame is held
    back."""
    with TemporaryDirectory() as folder:
        palette = f"{folder}/palette.png"
        found = source.filter("palettegen", reserve_transparent=0).output(palette, update=1)
        run_ffmpeg(compile_command(found), frames, item)
        painted = ffmpeg.filter([source, ffmpeg.input(palette)], "paletteuse", diff_mode="rectangle")
        run_ffmpeg(compile_command(painted.output(str(aside.absolute()), loop=0, fflags="+bitexact")), frames, item)
