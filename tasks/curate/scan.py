"""Scan: one decode of each source, which gives the time and the cheap signals of every frame, and the frame store.

`change`, `luma`, `deviation` and `detail` are signals with one value per frame; `thumbnails` has the bytes of each
frame that tasks/media/signals.py describes. They are all that `split` needs to find the shots, at whatever rate it
looks. `damaged` marks frames that the decoder repaired, up to the next keyframe. `joins` are the frames at which a film
that was joined goes on: with a picture of another size (`size`), or with a clock that was set back (`clock`); from
there on the times are those of a clock that goes on. `width` and `height` are those of the first frame, and each join
has those from there on. `fineness` is how fine some of the stored frames are in the film's own pixels, about one a
second and one after each cut (models/measures/fineness.py). `lost` counts packets that gave no picture, `dropped`
frames without a usable time, `decodes` the decoders opened for the row. `limit_s` is set only in a row whose decode
took longer than this many seconds: with a higher limit it is tried again.
"""

import logging
from array import array
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.errors import BadMedia, DecodeLimit, DecodeTimeout
from models.measures.fineness import fineness
from tasks.attempts import tried
from tasks.caching import Step, find, find_or_compute, make_key, make_lineage, set_aside
from tasks.child_process import run_in_child
from tasks.ledger import resolve_inside
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, read_rows, remove_asides
from tasks.media.canonical_picture import COMBED, make_picture, measure_combing, read_pixel_aspect, read_shown_size
from tasks.media.frame_store import FrameWriter, frame_writer
from tasks.media.signals import Recorder, correlate, find_neighbours, read_luma, shrink_frame
from tasks.media.video import FullPass, SourceVideo, count_decoders, name_demuxer, open_video
from tasks.source_files import read_as

log = logging.getLogger("reelmill")

VERSION = 4

JOIN = pa.struct([("frame", pa.int64()), ("kind", pa.string()), ("width", pa.int32()), ("height", pa.int32())])

FINENESS = pa.struct([("pts", pa.int64()), ("value", pa.float32())])

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("source_digest", pa.string()),
        ("time_base", pa.string()),
        ("frames", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("duration_s", pa.float64()),
        ("end_pts", pa.int64()),
        ("pts", pa.list_(pa.int64())),
        ("change", pa.list_(pa.float32())),
        ("luma", pa.list_(pa.float32())),
        ("deviation", pa.list_(pa.float32())),
        ("detail", pa.list_(pa.float32())),
        ("thumbnails", pa.large_binary()),
        ("damaged", pa.list_(pa.bool_())),
        ("joins", pa.list_(JOIN)),
        ("fineness", pa.list_(FINENESS)),
        ("lost", pa.int64()),
        ("dropped", pa.int64()),
        ("frame_store", pa.string()),
        ("decodes", pa.int32()),
        ("limit_s", pa.float64()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("scan", VERSION, SCHEMA, files=("frame_store",))


FINENESS_EVERY_S = 1
"""Seconds between frames whose fineness is measured: it costs a millisecond each."""

COMBING_PAIRS = (0, 1, 0, 3)
"""Combing is measured in the pair of frames that begins so many frames after a stored one, by turns: where pictures
last two and three fields by turns, two of five frames are combed, always the same ones of each half second."""


class Sampling(BaseModel):
    """What the scan's result depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    frames_per_s: float = Field(default=2.0, gt=0, description="Frames stored per second.")
    short_side: int = Field(default=360, ge=16, description="Short side of stored frames, at most, in pixels.")
    jpeg_quality: int = Field(default=90, ge=1, le=100, description="JPEG quality of stored frames.")
    peak_change: float = Field(
        default=2.0, ge=0, description="Minimum change, 0 to 255, for storing the frames on both sides."
    )
    peak_ratio: float = Field(
        default=1.25, ge=1, description="The same, as a multiple of the mean of the two changes before."
    )
    max_damage: float = Field(
        default=0.05, ge=0, le=1, description="Largest share of lost or damaged frames that a video may have."
    )


class ScanConfig(Sampling):
    """Sampling, and how long a decode may take. No result depends on the latter."""

    limit_factor: float = Field(
        default=20.0, gt=0, description="Time limit for a decode, as a multiple of the duration."
    )
    limit_floor_s: float = Field(default=120.0, gt=0, description="Minimum time limit for a decode, in seconds.")


def is_peak(change: Sequence[float], config: Sampling) -> bool:
    """Return whether the newest change stands out from those before it, so that there may be a cut.

    A cut that is r times the mean of two neighbours on each side is at least r/2 times the mean of the two before it.
    So every cut that `split` finds at a threshold of twice `peak_ratio` or more is among these.
    """
    newest, before = change[-1], np.array(change[-2:-8:-1])
    usual = find_neighbours(before, newest, window=2).mean()
    return bool(newest >= config.peak_change and newest >= config.peak_ratio * usual)


SOON_S = Fraction(1, 10)
"""Where the picture changes fast, a stored frame is followed by one so long after it, for motion to be measured."""

UNLIKE = 0.4
"""Two stored pictures whose small lumas correlate less than this may be too far apart for that."""


class Sampler:
    """The choice of frames for the store: the first and the last, some each second, and both sides of each peak. One
    that is unlike the one before, as in a fast pan or at a shot's beginning, is followed by another SOON_S later.

    A frame is stored when those after it are seen, since combing is measured by them.
    """

    def __init__(self, writer: FrameWriter, config: Sampling, stream: VideoStream) -> None:
        self._writer, self._config = writer, config
        self._time_base, self._pixel_aspect = stream.time_base or Fraction(1), read_pixel_aspect(stream)
        self._rate = Fraction(config.frames_per_s).limit_denominator(1000)
        self._start: Fraction | None = None
        self._next_tick = 0
        self._before: VideoFrame | None = None
        self._chosen: VideoFrame | None = None
        self._age = self._stored = 0
        self._combing: float | None = None
        self._combed = False
        self._next_fine: Fraction | None = None
        self._last_stored: NDArray[np.uint8] | None = None
        self._soon: Fraction | None = None
        self.fineness: list[dict[str, Any]] = []

    def see(self, frame: VideoFrame, peak: bool, luma: NDArray[np.uint8]) -> None:
        """Take the next frame; a `peak` is between it and the one before, `luma` is that of its thumbnail."""
        time = (frame.pts or 0) * self._time_base
        self._start = time if self._start is None else self._start
        tick = int((time - self._start) * self._rate)
        if peak:
            self.finish()
            self._next_fine = None
        elif self._chosen is not None and self._before is not None:
            self._look_for_combs(self._before, frame)
        if peak or tick >= self._next_tick:
            self._next_tick = tick + 1
            is_unlike = peak or self._last_stored is None or correlate(self._last_stored, luma) < UNLIKE
            self._last_stored, self._soon = luma, time + SOON_S if is_unlike else None
            self._choose(frame)
        elif self._soon is not None and time >= self._soon:
            self._soon = None
            self._choose(frame)
        self._before = frame

    def _choose(self, frame: VideoFrame) -> None:
        self._store()
        self._chosen, self._age = frame, 0

    def finish(self) -> None:
        """Store the last frame seen, unless it is already stored."""
        last, self._before = self._before, None
        self._store()
        if last is not None and self._writer.last_pts != last.pts:
            self._chosen = last
            self._store()

    def _look_for_combs(self, before: VideoFrame, frame: VideoFrame) -> None:
        if self._age == COMBING_PAIRS[self._stored % len(COMBING_PAIRS)]:
            self._combing = measure_combing(before, frame)
            self._store()
        self._age += 1

    def _store(self) -> None:
        """Store the frame that is chosen, if there is one; where too little moves to say whether it is combed, as the
        one before."""
        frame, self._chosen = self._chosen, None
        if frame is None:
            return
        combing, self._combing, self._stored = self._combing, None, self._stored + 1
        self._combed = self._combed if combing is None else combing >= COMBED
        picture = make_picture(frame, self._pixel_aspect, self._config.short_side, self._combed)
        pts = frame.pts or 0
        self._writer.add(pts, float(pts * self._time_base), picture, combing)
        self._measure_fineness(frame, pts)

    def _measure_fineness(self, frame: VideoFrame, pts: int) -> None:
        if self._next_fine is not None and pts * self._time_base < self._next_fine:
            return
        self._next_fine = pts * self._time_base + FINENESS_EVERY_S
        if (value := fineness(read_luma(frame))) is not None:
            self.fineness.append({"pts": pts, "value": value})


class Joins:
    """The places where a film goes on with another size of its picture, or with a clock that was set back."""

    def __init__(self) -> None:
        self.size: tuple[int, int] | None = None
        self.found: list[dict[str, Any]] = []
        self._last: tuple[int, int] | None = None
        self._resets = 0

    def see(self, number: int, size: tuple[int, int], resets: int) -> bool:
        """Take the next frame's number, its size, and how often the clock was set back so far; return whether it
        begins another part."""
        kinds = {"size": self._last not in (None, size), "clock": resets > self._resets}
        self.size, self._last, self._resets = self.size or size, size, resets
        kind = next((kind for kind, is_there in kinds.items() if is_there), None)
        if kind:
            self.found.append({"frame": number, "kind": kind, "width": size[0], "height": size[1]})
        return kind is not None


def scan_file(
    path: Path, store: Path, config: Sampling, demuxer: str | None = None, number: int | None = None
) -> dict[str, Any]:
    """Decode the stream of this `number` of `path`, or its best one, once, by the `demuxer` of its probe; write its
    frame store and return the measured columns. Raises BadMedia.

    Runs in a child process. Memory does not grow with the video's length, except for about 320 bytes of signals per
    frame.
    """
    cv2.setNumThreads(1)
    with open_video(path, 2, demuxer, number, skip_loop_filter="all") as (container, stream):
        aspect = read_pixel_aspect(stream)
        decoding, signals, joins = FullPass(container, stream), Recorder(), Joins()
        damages = array("b")
        with frame_writer(store, config.jpeg_quality) as writer:
            sampler = Sampler(writer, config, stream)
            for frame, damaged in decoding.frames():
                joined = joins.see(len(signals.pts), read_shown_size(frame, aspect), len(decoding.resets))
                signals.add(frame.pts or 0, shrink_frame(frame))
                damages.append(damaged)
                if not damaged:
                    peak = joined or is_peak(signals.change, config) or any(damages[-2:])
                    sampler.see(frame, peak, signals.read_last_luma())
            sampler.finish()
            _check_damage(path, damages, decoding, config)
        return _make_columns(signals, damages, decoding, stream, joins) | {"fineness": sampler.fineness}


def _check_damage(path: Path, damages: "array[int]", decoding: FullPass, config: Sampling) -> None:
    good, repaired = damages.count(0), damages.count(1)
    frames = good + repaired + decoding.lost + decoding.dropped
    if not good or frames - good > config.max_damage * frames:
        untimed = decoding.dropped > decoding.lost + repaired
        whole = "It is damaged or cut short; copy it again."
        advice = "Times are missing or decrease; convert it to mp4." if untimed else whole
        raise BadMedia(
            f"{path}: only {good} of {frames} frames can be used ({decoding.lost} lost, {repaired} damaged, "
            f"{decoding.dropped} without a time). {advice}"
        )


def _make_columns(
    signals: Recorder, damages: "array[int]", decoding: FullPass, stream: VideoStream, joins: Joins
) -> dict[str, Any]:
    width, height = joins.size or (0, 0)
    time_base = stream.time_base or Fraction(1)
    end_pts = signals.pts[-1] + _estimate_duration(signals.pts, stream)
    return {
        "time_base": f"{time_base.numerator}/{time_base.denominator}",
        "frames": len(signals.pts),
        "width": width,
        "height": height,
        "joins": joins.found,
        "duration_s": float((end_pts - signals.pts[0]) * time_base),
        "end_pts": end_pts,
        "damaged": np.array(damages, bool),
        "lost": decoding.lost,
        "dropped": decoding.dropped,
        "decodes": count_decoders(),
    } | signals.columns()


def _estimate_duration(pts: Sequence[int], stream: VideoStream) -> int:
    """Return how long the last frame is shown: as long as most frames are, since few files say it."""
    if len(pts) > 1:
        return int(np.median(np.diff(pts)))
    return round(1 / (stream.average_rate * stream.time_base)) if stream.average_rate and stream.time_base else 1


def _scan(video: SourceVideo, root: Path, store: Path, sampling: Sampling, limit_s: float) -> dict[str, Any]:
    """Scan a video in a child process; return its columns."""
    resolve_inside(root, store.as_posix())
    try:
        demuxer = name_demuxer(video.container)
        with read_as(root, video.path, video.digest) as path:
            measured = run_in_child(scan_file, path, root / store, sampling, demuxer, video.stream, limit_s=limit_s)
    finally:
        remove_asides(root / store)
    if measured["lost"] or measured["dropped"] or measured["damaged"].any():
        log.warning("%s: some of its frames are lost, damaged or without a time; they are left out.", video.path)
    return measured | {"frame_store": store.as_posix()}


def _may_do_now(row: Mapping[str, Any], limit_s: float) -> bool:
    """Return whether a scan that was stopped at a limit is worth another attempt: the limit of time is higher now, or
    it was one of memory, processor time or pixels, which are not recorded."""
    return (row["limit_s"] or limit_s) < limit_s or row["error_code"] == DecodeLimit.code


def scan_video(root: Path, config: ScanConfig, video: SourceVideo) -> ManifestRef:
    """Return the scan of one video below `root`: found, or made. A video that cannot be decoded gives a row that says
    why."""
    sampling = Sampling(**config.model_dump(include=set(Sampling.model_fields)))
    limit_s = max(config.limit_floor_s, config.limit_factor * (video.duration_s or 0.0))

    def compute(key: str) -> pa.Table:
        store = Path("frames") / f"{video.video_id}.{key[:8]}.parquet"
        row = {"video_id": video.video_id, "source_digest": video.digest, "attempt": 1}
        measured = tried(
            lambda: _scan(video, root, store, sampling, limit_s),
            lambda failure: failure | ({"limit_s": limit_s} if failure["error_code"] == DecodeTimeout.code else {}),
            "scanning",
            str(video.path),
        )
        return make_table([row | measured], SCHEMA)

    found = find(STEP, root, make_key(make_lineage(STEP, sampling, [video.make_key()])))
    if found and any(_may_do_now(row, limit_s) for row in read_rows(found, ("error_code", "limit_s"))):
        set_aside(found.path)
    return find_or_compute(STEP, root, sampling, [video.make_key()], compute)


@task(name="scan")
def scan_videos(root: Path, config: ScanConfig, videos: list[SourceVideo]) -> list[ManifestRef]:
    """Scan a chunk of videos, one after the other."""
    return [scan_video(root, config, video) for video in videos]
