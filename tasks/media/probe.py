"""The facts that a video file states in its header, its first packets and its first frame; and what is odd in it.

Colours are named as ffmpeg names them (ITU-T H.273); what a file does not state is None. ANOMALIES are what confuses
players and trainers: none of them makes a file unusable, each is worth knowing before a file is used.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import InvalidDataError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from models.errors import BadMedia
from models.file_kinds import find_encryption, read_kind
from tasks.media.canonical_picture import read_pixel_aspect, read_shown_size
from tasks.media.video import open_video

PROBE_PACKETS = 400
"""The number of packets that are read to see whether the rate varies; the first frame must be among them."""

REORDERED = 32
"""How many of the last packets may precede packets that are not read yet, because codecs store frames out of order."""

FAR_START_S = 60.0
"""A first frame further from time zero than this is a far start; recordings in MPEG-TS begin at a second or two."""

UNPROTECTED = "Without its key it cannot be read; give a copy that is not protected."

HDR_TRANSFERS = ("smpte2084", "arib-std-b67")
"""The transfer functions of HDR10 and Dolby Vision (PQ), and of HLG."""

ANOMALIES = (
    "variable_rate",
    "no_duration",
    "no_timestamps",
    "timestamps_run_back",
    "far_start",
    "edit_list",
    "no_keyframe_at_start",
    "one_keyframe",
    "odd_size",
    "rotated",
    "pixels_not_square",
    "interlaced",
    "hdr",
    "cover_art",
    "extra_video_streams",
)
"""Their meaning, in this order: the gaps between frames differ; the length is not stated; a packet has no time;
decoding times run back; the first time is more than FAR_START_S from zero; an edit list hides frames or delays the
picture; the first packet is no keyframe; there is no second keyframe; a coded side is odd; the picture is stored
rotated; its pixels are not square; it is interlaced; it has a high dynamic range; the file contains a still picture; or
a second video."""

_PRIMARIES = {1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020"}
_PRIMARIES |= {10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "ebu3213"}
_TRANSFERS = {1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log"}
_TRANSFERS |= {10: "log_sqrt", 11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10"}
_TRANSFERS |= {15: "bt2020-12", 16: "smpte2084", 17: "smpte428", 18: "arib-std-b67"}
_MATRICES = {0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco"}
_MATRICES |= {9: "bt2020nc", 10: "bt2020c", 14: "ictcp"}
_RANGES = {1: "tv", 2: "pc"}
_FIELD_ORDERS = {1: "progressive", 2: "tt", 3: "bb", 4: "tb", 5: "bt"}


@dataclass(frozen=True)
class VideoFacts:
    """The facts that a file states about the video stream that is used, whose number in the file is `stream`; None: not
    stated.

    width and height are in pixels of the picture as shown: with square pixels, after `rotation` (degrees clockwise: 0,
    90, 180 or 270); coded_width and coded_height as stored. bit_depth is per component. sample_aspect is the width of a
    pixel over its height. fps is the average rate, fps_nominal the intended rate; duration_s is stated, not measured.
    `streams` counts all streams of the file. anomalies: words of ANOMALIES, in their order.
    """

    container: str
    codec: str
    pix_fmt: str
    bit_depth: int
    width: int
    height: int
    coded_width: int
    coded_height: int
    rotation: int
    sample_aspect: Fraction
    fps: float | None
    fps_nominal: float | None
    variable_rate: bool | None
    time_base: Fraction
    duration_s: float | None
    color_primaries: str | None
    color_transfer: str | None
    color_matrix: str | None
    color_range: str | None
    hdr: bool
    field_order: str | None
    interlaced: bool
    has_audio: bool
    audio_codec: str | None
    audio_channels: int | None
    audio_rate: int | None
    streams: int
    stream: int
    anomalies: tuple[str, ...]


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    keyframe: bool
    hidden: bool


class _Head(NamedTuple):
    """The first frame that can be decoded, the packets read for it, and whether these are all packets of the file."""

    frame: VideoFrame
    packets: list[_Packet]
    whole: bool


def probe(path: Path, number: int | None = None) -> VideoFacts:
    """Read a file's facts from its header, its first packets and its first frame, of its stream of this `number` or its
    best one; raises BadMedia, which says so where
    the file is not damaged, but encrypted or of a kind that is not decoded here."""
    try:
        return _probe(path, number)
    except BadMedia as error:
        if not (reason := _explain_unread(path)):
            raise
        raise BadMedia(f"{path}: {reason}") from error


def _explain_unread(path: Path) -> str | None:
    kind, encryption = read_kind(path), find_encryption(path)
    if encryption:
        return f"is encrypted ({encryption}). {UNPROTECTED}"
    if kind and kind.unread:
        return f"is of the kind {kind.name}, which is not decoded here. Convert it to H.264 in mp4."
    return None


def _probe(path: Path, number: int | None) -> VideoFacts:
    with open_video(path, threads=1, number=number) as (container, stream):
        head = _read_head(container, stream, path)
        context, frame, audio = stream.codec_context, head.frame, container.streams.audio[:1]
        aspect = read_pixel_aspect(stream)
        width, height = read_shown_size(frame, aspect)
        transfer = _TRANSFERS.get(int(frame.color_trc))
        return VideoFacts(
            container=container.format.name,
            codec=context.name,
            pix_fmt=frame.format.name,
            bit_depth=max(component.bits for component in frame.format.components),
            width=width,
            height=height,
            coded_width=context.coded_width or frame.width,
            coded_height=context.coded_height or frame.height,
            rotation=_read_rotation(frame),
            sample_aspect=aspect,
            fps=_convert_rate(stream.average_rate),
            fps_nominal=_convert_rate(stream.guessed_rate or stream.base_rate),
            variable_rate=_has_varying_rate(head.packets),
            time_base=stream.time_base or Fraction(1),
            duration_s=_read_duration(container, stream),
            color_primaries=_PRIMARIES.get(int(frame.color_primaries)),
            color_transfer=transfer,
            color_matrix=_MATRICES.get(int(frame.colorspace)),
            color_range=_RANGES.get(int(frame.color_range)),
            hdr=transfer in HDR_TRANSFERS,
            field_order=_FIELD_ORDERS.get(int(context.field_order)),
            interlaced=_is_interlaced(stream, frame),
            has_audio=bool(audio),
            audio_codec=audio[0].codec_context.name if audio and audio[0].codec_context else None,
            audio_channels=audio[0].channels or None if audio and audio[0].codec_context else None,
            audio_rate=audio[0].rate or None if audio and audio[0].codec_context else None,
            streams=len(container.streams),
            stream=stream.index,
            anomalies=_find_anomalies(container, stream, head),
        )


def _find_anomalies(container: InputContainer, stream: VideoStream, head: _Head) -> tuple[str, ...]:
    frame, packets = head.frame, head.packets
    pictures = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
    found = {
        "variable_rate": _has_varying_rate(packets) is True,
        "no_duration": _read_duration(container, stream) is None,
        "no_timestamps": any(packet.pts is None for packet in packets),
        "timestamps_run_back": _has_reversed_times(packets),
        "far_start": _has_far_start(stream, packets),
        "edit_list": any(packet.hidden for packet in packets) or _is_delayed(container, stream),
        "no_keyframe_at_start": not packets[0].keyframe,
        "one_keyframe": _has_one_keyframe(stream, head),
        "odd_size": bool(frame.width % 2 or frame.height % 2),
        "rotated": _read_rotation(frame) != 0,
        "pixels_not_square": read_pixel_aspect(stream) != 1,
        "interlaced": _is_interlaced(stream, frame),
        "hdr": _TRANSFERS.get(int(frame.color_trc)) in HDR_TRANSFERS,
        "cover_art": bool(pictures),
        "extra_video_streams": len(container.streams.video) - len(pictures) > 1,
    }
    return tuple(name for name in ANOMALIES if found[name])


def _read_head(container: InputContainer, stream: VideoStream, path: Path) -> _Head:
    frame, packets, whole = None, [], True
    for packet in container.demux(stream):
        if any(data.data_type.startswith("encryption") for data in packet.iter_sidedata()):
            raise BadMedia(f"{path}: is encrypted (CENC). {UNPROTECTED}")
        if packet.size:
            packets.append(_Packet(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
        frame = frame or next(iter(_decode(packet)), None)
        if len(packets) >= PROBE_PACKETS:
            whole = False
            break
    if frame is None or not packets:
        raise BadMedia(f"{path}: none of its frames can be decoded. It is damaged or cut short; copy it again.")
    return _Head(frame, packets, whole)


def _decode(packet: av.Packet) -> list[VideoFrame]:
    try:
        return packet.decode()
    except InvalidDataError:
        return []


def _has_varying_rate(packets: list[_Packet]) -> bool | None:
    """Say whether the gaps between frames differ by more than the rounding to the time base explains."""
    times = [packet.dts if packet.pts is None else packet.pts for packet in packets if not packet.hidden]
    known = np.unique([time for time in times if time is not None])
    gaps = np.diff(known)[: -REORDERED if len(times) >= PROBE_PACKETS else None]
    if len(gaps) < 2:
        return None
    rounding = 1 if np.median(gaps) > 8 else 0
    return bool(np.ptp(gaps) > rounding)


def _has_reversed_times(packets: list[_Packet]) -> bool:
    times = [packet.dts for packet in packets if packet.dts is not None]
    return any(later < earlier for earlier, later in pairwise(times))


def _has_far_start(stream: VideoStream, packets: list[_Packet]) -> bool:
    times = [packet.pts for packet in packets if packet.pts is not None and not packet.hidden]
    return bool(times) and abs(min(times) * (stream.time_base or 1)) > FAR_START_S


def _is_delayed(container: InputContainer, stream: VideoStream) -> bool:
    """Say whether an mp4 or mov states that its picture begins after zero, which only an edit list can do."""
    return "mp4" in container.format.name and (stream.start_time or 0) > 0


def _has_one_keyframe(stream: VideoStream, head: _Head) -> bool:
    """Say whether seeking is possible only to the start; files of one frame do not count."""
    entries = stream.index_entries
    marks = [entries[i].is_keyframe for i in range(len(entries))] if len(entries) >= len(head.packets) else []
    marks = marks or ([packet.keyframe for packet in head.packets] if head.whole else [])
    return len(marks) > 1 and sum(marks) <= 1


def _read_rotation(frame: VideoFrame) -> int:
    return round(-frame.rotation / 90) * 90 % 360


def _is_interlaced(stream: VideoStream, frame: VideoFrame) -> bool:
    return bool(frame.interlaced_frame) or int(stream.codec_context.field_order) > 1


def _read_duration(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.duration > 0 and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration and container.duration > 0 else None


def _convert_rate(rate: Fraction | None) -> float | None:
    return float(rate) if rate else None
