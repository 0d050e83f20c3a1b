"""What a video file says about itself, from its header, its first packets and its first frame."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import InvalidDataError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from models.errors import BadMedia
from tasks.video import open_video, shown_size

PROBE_PACKETS = 400
"""Packets whose times tell whether the rate varies, and among which the first frame must be."""

REORDERED = 32
"""How many of the last packets read may still have earlier ones to come, because codecs store frames out of order."""


@dataclass(frozen=True)
class VideoFacts:
    """What a file says about its first video stream.

    width and height are in pixels of the picture as shown, after `rotation` (degrees clockwise: 0, 90, 180 or 270).
    fps is the average rate, fps_nominal the rate meant; duration_s is stated, not measured. None: not stated.
    """

    container: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    rotation: int
    fps: float | None
    fps_nominal: float | None
    variable_rate: bool | None
    time_base: Fraction
    duration_s: float | None
    has_audio: bool


def probe(path: Path) -> VideoFacts:
    """Read a file's facts from its header, its first packets and its first frame; raises BadMedia in one sentence."""
    with open_video(path, threads=1) as (container, stream):
        frame, times = _first_frame(container, stream, path)
        width, height = shown_size(frame)
        return VideoFacts(
            container=container.format.name,
            codec=stream.codec_context.name,
            pix_fmt=frame.format.name,
            width=width,
            height=height,
            rotation=round(-frame.rotation / 90) * 90 % 360,
            fps=_rate(stream.average_rate),
            fps_nominal=_rate(stream.guessed_rate or stream.base_rate),
            variable_rate=_varies(times),
            time_base=stream.time_base or Fraction(1),
            duration_s=_duration_s(container, stream),
            has_audio=bool(container.streams.audio),
        )


def _first_frame(container: InputContainer, stream: VideoStream, path: Path) -> tuple[VideoFrame, list[int]]:
    """The first frame that can be decoded, and the times of the first packets."""
    frame, times = None, []
    for packet in container.demux(stream):
        time = packet.dts if packet.pts is None else packet.pts
        times += [time] if packet.size and time is not None else []
        frame = frame or next(iter(_decode(packet)), None)
        if len(times) >= PROBE_PACKETS:
            break
    if frame is None:
        raise BadMedia(f"{path}: no frame of it can be decoded. It is damaged or cut short; copy it again.")
    return frame, times


def _decode(packet: av.Packet) -> list[VideoFrame]:
    try:
        return packet.decode()
    except InvalidDataError:
        return []


def _varies(times: list[int]) -> bool | None:
    """Whether the gaps between frames differ by more than the rounding to the time base explains."""
    gaps = np.diff(np.unique(times))[: -REORDERED if len(times) >= PROBE_PACKETS else None]
    if len(gaps) < 2:
        return None
    rounding = 1 if np.median(gaps) > 8 else 0
    return bool(np.ptp(gaps) > rounding)


def _duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _rate(rate: Fraction | None) -> float | None:
    return float(rate) if rate else None
