"""Cutting a span out of a video: the packets that a cut without encoding may keep, the ffmpeg commands, and a check of
what was written.

A copied clip begins at the first keyframe at or after its start and ends at the last one at or before its end (at the
end of the file where the clip reaches it), as in Stable Video Diffusion (appendix C). So it never shows a frame of the
neighbouring shots. ffmpeg's own options cannot do that: they seek to the keyframe before the start, hide the extra
frames behind an edit list, and end in decoding order. So its filters are given the packets by their times.
"""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import ffmpeg

from models.errors import BadMedia, NoKeyframes
from tasks.media.clocks import SteadyClock, can_be_set_back
from tasks.media.video import find_ffmpeg, make_film_options, name_demuxer, open_video

SEEK_EARLY_S, READ_ON_S = 3, 5
"""Seconds read before the first packet wanted, for containers that seek only roughly, and after the last one."""

DETERMINISTIC = {"map_metadata": -1, "fflags": "+bitexact", "movflags": "+faststart"}


class Packet(NamedTuple):
    """A packet that shows a frame: its presentation time, and whether decoding can begin with it."""

    pts: int
    keyframe: bool


class PacketIndex(NamedTuple):
    """The packets of a file's main video stream in decoding order, that stream's number and time base, the demuxer that
    found them, and whether its clock is set back somewhere."""

    packets: tuple[Packet, ...]
    stream: int
    time_base: Fraction
    demuxer: str | None = None
    set_back: bool = False


class Cut(NamedTuple):
    """What a copied clip keeps: the packets with times in [start_pts, end_pts), without those `skipped` in between."""

    start_pts: int
    end_pts: int
    shown: tuple[int, ...]
    skipped: tuple[int, ...]


def read_index(path: Path, demuxer: str | None = None, number: int | None = None) -> PacketIndex:
    """Read the packets of a file's stream of this `number`, or its best one, without decoding, by the `demuxer` that
    probing it found. Raises BadMedia when it
    cannot be read or a packet has no time."""
    with open_video(path, threads=1, demuxer=demuxer, number=number) as (container, stream):
        whole = [(p.pts, p.dts, p.is_keyframe) for p in container.demux(stream) if _is_shown(p)]
        read = [(pts, keyframe) for pts, _, keyframe in whole]
        packets = tuple(Packet(pts, keyframe) for pts, keyframe in read if pts is not None)
        if len(packets) < len(read) or not packets:
            raise BadMedia(f"{path}: its packets have no times, so nothing can be cut out of it. Convert it to mp4.")
        found = name_demuxer(container.format.name)
        clock = SteadyClock(stream.time_base or Fraction(1))
        stored = (dts for _, dts, _ in whole if dts is not None)
        set_back = can_be_set_back(container.format.name) and any(clock.set_time(dts)[1] for dts in stored)
        return PacketIndex(packets, stream.index, stream.time_base or Fraction(1), found, set_back)


def _is_shown(packet: Any) -> bool:
    return bool(packet.size) and not packet.is_discard


def choose_packets(packets: Sequence[Packet], start_pts: int, end_pts: int, item: str) -> Cut:
    """Choose the packets, from those in decoding order, that a copy of [start_pts, end_pts) keeps.

    Frames stored after the ending keyframe but shown before it need that keyframe, and are left out. Raises NoKeyframes
    without keyframes to cut at, and BadMedia when the packets' order cannot be copied.
    """
    keys = [number for number, packet in enumerate(packets) if packet.keyframe and start_pts <= packet.pts <= end_pts]
    is_last = all(packet.pts < end_pts for packet in packets)
    if not keys or (len(keys) < 2 and not is_last):
        count = "only one keyframe" if keys else "no keyframe"
        raise NoKeyframes(f"{item}: {count} between its cuts, so it cannot be copied. Use --clips.mode exact.")
    first, stop = keys[0], len(packets) if is_last else keys[-1]
    begin = packets[first].pts
    shown = sorted(packet.pts for packet in packets[first:stop] if packet.pts >= begin)
    if not shown or shown[-1] >= end_pts:
        raise BadMedia(f"{item}: its packets are in an order that cannot be copied. Use --clips.mode exact.")
    times = sorted(packet.pts for packet in packets)
    after = bisect_right(times, shown[-1])
    end = times[after] if after < len(times) else end_pts
    kept = set(shown)
    skipped = tuple(pts for pts in times[bisect_right(times, begin) : after] if pts not in kept)
    return Cut(begin, end, tuple(shown), skipped)


def make_copy_command(path: Path, index: PacketIndex, cut: Cut, target: Path) -> list[str]:
    """Return the ffmpeg command that copies the packets of `cut`; the clip's first frame is at time zero."""
    wrong = [f"lt(pts,{cut.start_pts})", f"gte(pts,{cut.end_pts})", *(f"eq(pts,{pts})" for pts in cut.skipped)]
    filters = f"noise=drop='{'+'.join(wrong)}',setts=pts=PTS-{cut.start_pts}:dts=DTS-{cut.start_pts}"
    source = ffmpeg.input(str(path.absolute()), **_limit_input(index, cut.start_pts, cut.end_pts))
    options = {"c": "copy", "copypriorss": 1, "bsf:v": filters, **DETERMINISTIC}
    return _compile_command(source[str(index.stream)], target, options)


def _limit_input(index: PacketIndex, start_pts: int, end_pts: int) -> dict[str, Any]:
    """Return input options that keep the file's own times and read little more than [start_pts, end_pts), and no other
    file; of a file whose clock is set back all is read."""
    if index.set_back:
        return {"copyts": None, **make_film_options(index.demuxer)}
    beginning = min(packet.pts for packet in index.packets) * index.time_base
    early = start_pts * index.time_base - SEEK_EARLY_S
    seek = early > beginning
    length = end_pts * index.time_base - (early if seek else beginning) + READ_ON_S + max(0, -beginning)
    options: dict[str, Any] = {"copyts": None, "seek_timestamp": 1, "t": f"{float(length):.6f}"}
    options |= make_film_options(index.demuxer)
    return options | ({"ss": f"{float(early):.6f}"} if seek else {})


def _compile_command(stream: Any, target: Path, options: dict[str, Any]) -> list[str]:
    output = stream.output(str(target.absolute()), format="mp4", **options)
    quiet = output.global_args("-hide_banner", "-loglevel", "error", "-nostdin").overwrite_output()
    return quiet.compile(cmd=find_ffmpeg())


def inspect_clip(path: Path, item: str) -> tuple[Fraction, ...]:
    """Return the times of a written clip's frames in seconds, in order; its first frame is decoded.

    Raises BadMedia when it does not begin with a keyframe, hides a frame, has times that do not increase, or has a
    first frame that cannot be decoded.
    """
    with open_video(path, threads=1, demuxer="mov") as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size]
        shown = sorted(packet.pts for packet in packets if packet.pts is not None)
        stored = [packet.dts for packet in packets if packet.dts is not None]
        container.seek(0, stream=stream)
        frame = next(container.decode(stream), None)
        faults = {
            "does not begin with a keyframe": not packets or not packets[0].is_keyframe,
            "ends within a frame": any(packet.is_corrupt for packet in packets),
            "hides frames": any(packet.is_discard for packet in packets),
            "has times that do not increase": len(shown) < len(packets)
            or _is_unordered(shown)
            or _is_unordered(stored),
            "has a first frame that cannot be decoded": frame is None or frame.is_corrupt,
        }
        found = " and ".join(fault for fault, is_there in faults.items() if is_there)
        if found:
            raise BadMedia(f"{item}: was cut, but the file {found}. Use --clips.mode exact, or convert the source.")
        return tuple(pts * (stream.time_base or Fraction(1)) for pts in shown)


def _is_unordered(times: Sequence[int]) -> bool:
    return any(later <= earlier for earlier, later in pairwise(times))
