"""Encoding a span of a video again: its frames at their own times, as the canonical picture, H.264 tagged BT.709."""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from models.errors import BadMedia
from tasks.media.canonical_picture import BT709, LIMITED, make_video_frame, read_pixel_aspect
from tasks.media.video import decode_span, open_video

SEEK_EARLY_S = 3
"""Seconds read before a span, for containers that seek only roughly."""

MP4_OPTIONS = {"movflags": "+faststart", "fflags": "+bitexact"}


class PictureSource(NamedTuple):
    """The file of a span: its demuxer and the number of its stream as probing found them, and whether it is combed."""

    path: Path
    demuxer: str | None
    stream: int | None
    combed: bool


def encode_span(source: PictureSource, start_pts: int, end_pts: int, crf: int, target: Path, item: str) -> None:
    """Encode exactly the frames shown in [start_pts, end_pts) to the mp4 `target`, the first one at time zero.

    For a child process. Only a few frames are in memory at a time. Raises BadMedia, `item` naming the clip.
    """
    with (
        open_video(source.path, demuxer=source.demuxer, number=source.stream) as (container, stream),
        av.open(str(target), "w", format="mp4", options=MP4_OPTIONS) as output,
    ):
        time_base, aspect = stream.time_base or Fraction(1), read_pixel_aspect(stream)
        early = max(start_pts * time_base - SEEK_EARLY_S, Fraction(0))
        clip: VideoStream | None = None
        for time, frame in decode_span(container, stream, early, end_pts * time_base):
            if time >= start_pts * time_base:
                picture = make_video_frame(frame, aspect, source.combed)
                picture.pts, picture.time_base = round(time / time_base) - start_pts, time_base
                clip = clip or _add_stream(output, picture, stream, crf)
                output.mux(clip.encode(picture))
        if clip is None:
            raise BadMedia(f"{item}: no frame is shown there.")
        output.mux(clip.encode())


def _add_stream(output: OutputContainer, picture: VideoFrame, source: VideoStream, crf: int) -> VideoStream:
    # A rate is only what x264 plans with: times are those of the frames.
    clip = output.add_stream("libx264", rate=source.average_rate or 25, options=_make_options(crf))
    clip.width, clip.height, clip.pix_fmt = picture.width, picture.height, "yuv420p"
    context = clip.codec_context
    context.time_base = clip.time_base = source.time_base or Fraction(1)
    context.thread_count = 1
    context.color_range, context.colorspace = LIMITED, BT709
    context.color_trc, context.color_primaries = BT709, BT709
    return clip


def _make_options(crf: int) -> dict[str, str]:
    return {"crf": str(crf), "preset": "medium", "flags": "+bitexact"}
