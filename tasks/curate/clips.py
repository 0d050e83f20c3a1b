"""Clips: cuts clips out of their sources, as mp4 files in DATASET/clips/. Pictures only, no sound.

`copy` keeps the packets as they are, from the first keyframe at or after a clip's start to the last one at or before
its end, so that no frame of a neighbouring shot is in the file (Stable Video Diffusion, appendix C). A clip without two
keyframes is a row that says so. `exact` encodes exactly the clip's frames again, at their own times, as the canonical
picture (tasks/media/canonical_picture.py), with its bars. cut_start and
cut_end are what was cut, [start, end), in the source's time; cut_frames is the number of frames in it. Each file is
read back: it begins with a keyframe, is inside its clip, its times increase, and its first frame can be decoded.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from models.errors import BadMedia, NoKeyframes
from tasks.attempts import tried
from tasks.caching import Step, find_or_compute, make_lineage
from tasks.child_process import run_in_child
from tasks.curate.clip_cutting import (
    PacketIndex,
    choose_packets,
    inspect_clip,
    make_copy_command,
    read_index,
)
from tasks.curate.clip_encoding import PictureSource, encode_span
from tasks.ledger import resolve_inside
from tasks.limits import get_limits
from tasks.manifest import ERROR_FIELDS, ManifestRef, digest_file, make_table, publish, read_manifest, write_manifest
from tasks.media.canonical_picture import COMBED
from tasks.media.video import SourceVideo, name_clip, name_demuxer, run_ffmpeg
from tasks.source_files import read_as

VERSION = 2

NEEDS = ("clip_id", "video_id", "time_base", "start_pts", "end_pts", "frames", "combing", "keep")

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("cut_mode", pa.string()),
        ("cut_path", pa.string()),
        ("cut_start_pts", pa.int64()),
        ("cut_end_pts", pa.int64()),
        ("cut_start_s", pa.float64()),
        ("cut_end_s", pa.float64()),
        ("cut_frames", pa.int64()),
        ("cut_bytes", pa.int64()),
        ("cut_sha256", pa.string()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("clips", VERSION, SCHEMA, files=("cut_path",))

TABLE = "cuts.parquet"
"""In the dataset's folder: the rows of all sources."""


class Cutting(BaseModel):
    """What the bytes of a cut clip depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mode: Literal["off", "copy", "exact"] = Field(
        default="off",
        description="copy: from keyframe to keyframe, not encoded; exact: every frame, encoded; off: no cutting.",
    )
    crf: int = Field(
        default=16, ge=0, le=51, description="Quality of `exact`: lower is better, and the files are larger."
    )


class ClipsConfig(Cutting):
    """Cutting, which clips are cut, and how long that may take. The files do not depend on the last two."""

    which: Literal["kept", "all"] = Field(default="kept", description="Cut the clips that are kept, or all of them.")
    limit_factor: float = Field(
        default=60.0, gt=0, description="Time limit for one clip, as a multiple of its duration."
    )
    limit_floor_s: float = Field(default=60.0, gt=0, description="Minimum time limit for one clip, in seconds.")


@dataclass(frozen=True)
class CutSpan:
    """A clip to cut: its frames in [start_pts, end_pts) in its source's time base, their number, and whether they are
    combed."""

    clip_id: str
    time_base: str
    start_pts: int
    end_pts: int
    frames: int
    combed: bool = False

    def seconds(self) -> float:
        """Return its duration."""
        return float((self.end_pts - self.start_pts) * Fraction(self.time_base))


@dataclass(frozen=True)
class SourceSpans:
    """The clips to cut out of one source, in order of time."""

    video: SourceVideo
    spans: tuple[CutSpan, ...]

    def key(self) -> str:
        """Return a digest of the source's content and the spans."""
        return _digest([self.video.make_key(), [vars(span) for span in self.spans]])


def list_spans(videos: Sequence[SourceVideo], clips: Sequence[Mapping[str, Any]], which: str) -> list[SourceSpans]:
    """Return the clips to cut, by source, from rows with the columns of NEEDS; sources without any are left out."""
    found: dict[str, list[CutSpan]] = {}
    for clip in sorted(clips, key=lambda clip: clip["start_pts"]):
        if which == "all" or clip["keep"]:
            named = (clip[name] for name in ("clip_id", "time_base", "start_pts", "end_pts", "frames"))
            span = CutSpan(*named, combed=(clip.get("combing") or 0) >= COMBED)
            found.setdefault(clip["video_id"], []).append(span)
    return [SourceSpans(video, tuple(found[video.video_id])) for video in videos if video.video_id in found]


def cut_clip(video: SourceVideo, index: PacketIndex, span: CutSpan, config: ClipsConfig, root: Path) -> dict[str, Any]:
    """Cut one clip below `root` and return its columns. A complete file that is already there is only measured."""
    limit_s, item = max(config.limit_floor_s, config.limit_factor * span.seconds()), _name(video, span)
    name = f"clips/{span.clip_id}.{_make_key(video, span, config)}.mp4"
    resolve_inside(root, name)
    if config.mode == "copy" and index.set_back:
        raise NoKeyframes(f"{item}: its film's clock is set back, so it cannot be copied. Use --clips.mode exact.")
    if config.mode == "copy":
        cut = choose_packets(index.packets, span.start_pts, span.end_pts, item)
        start, end, shown = cut.start_pts, cut.end_pts, len(cut.shown)
    else:
        cut, start, end, shown = None, span.start_pts, span.end_pts, span.frames
    seconds = float((end - start) * index.time_base)
    if not _is_whole(root / name, item, shown, seconds, limit_s):
        with publish(root / name) as aside, read_as(root, video.path, video.digest) as path:
            if cut:
                _copy(make_copy_command(path, index, cut, aside), item, limit_s)
            else:
                picture = PictureSource(path, name_demuxer(video.container), video.stream, span.combed)
                run_in_child(encode_span, picture, start, end, config.crf, aside, item, limit_s=limit_s, item=item)
            _check(aside, item, shown, seconds, limit_s)
    return {
        "cut_path": name,
        "cut_start_pts": start,
        "cut_end_pts": end,
        "cut_start_s": float(start * index.time_base),
        "cut_end_s": float(end * index.time_base),
        "cut_frames": shown,
        "cut_bytes": (root / name).stat().st_size,
        "cut_sha256": digest_file(root / name),
    }


def _name(video: SourceVideo, span: CutSpan) -> str:
    """Return how messages name a clip."""
    base = Fraction(span.time_base)
    return name_clip(video.path, float(span.start_pts * base), float(span.end_pts * base))


def _copy(command: list[str], item: str, limit_s: float) -> None:
    try:
        run_ffmpeg(command, None, item, limit_s, get_limits())
    except BadMedia as error:
        advice = "If mp4 cannot hold its codec, use --clips.mode exact."
        raise BadMedia(f"{str(error).rstrip('.')}. {advice}") from error


def _check(path: Path, item: str, frames: int, seconds: float, limit_s: float) -> None:
    """Raise BadMedia unless the written clip has `frames` frames, the first at zero and all within `seconds`."""
    times = run_in_child(inspect_clip, path, item, limit_s=limit_s, item=item)
    if len(times) != frames or times[0] != 0 or times[-1] >= seconds:
        raise BadMedia(
            f"{item}: expected {frames} frames in {seconds:.3f} s, but the file has {len(times)} from "
            f"{float(times[0]):.3f} to {float(times[-1]):.3f} s. Convert the source to mp4."
        )


def _is_whole(path: Path, item: str, frames: int, seconds: float, limit_s: float) -> bool:
    """Return whether the clip is there with the frames that it should have: a full disk leaves a shorter file."""
    try:
        return path.is_file() and _check(path, item, frames, seconds, limit_s) is None
    except BadMedia:
        return False


def cut_source(root: Path, source: SourceSpans, config: ClipsConfig) -> pa.Table:
    """Cut the clips of one source; return a row for each, with its error where it could not be cut."""
    video, limit_s = source.video, max(config.limit_floor_s, source.video.duration_s or 0.0)

    def cut(index: PacketIndex, span: CutSpan) -> dict[str, Any]:
        own = _make_row(span, config)
        return tried(
            lambda: own | cut_clip(video, index, span, config, root),
            lambda failure: own | failure,
            "cutting",
            _name(video, span),
        )

    def cut_all() -> list[dict[str, Any]]:
        with read_as(root, video.path, video.digest) as path:
            index = run_in_child(read_index, path, name_demuxer(video.container), video.stream, limit_s=limit_s)
        return [cut(index, span) for span in source.spans]

    rows = tried(
        cut_all,
        lambda failure: [_make_row(span, config) | failure for span in source.spans],
        "reading",
        str(video.path),
    )
    return make_table(rows, SCHEMA)


def _make_row(span: CutSpan, config: ClipsConfig) -> dict[str, Any]:
    return {"clip_id": span.clip_id, "cut_mode": config.mode, "attempt": 1}


def _make_key(video: SourceVideo, span: CutSpan, config: ClipsConfig) -> str:
    """Return what a clip's bytes depend on, as eight digits of its file's name."""
    settings = config.model_dump(include={"mode"} | ({"crf"} if config.mode == "exact" else set()))
    return _digest([VERSION, video.make_key(), vars(span), settings])[:8]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@task(name="clips")
def cut_clips(root: Path, config: ClipsConfig, sources: list[SourceSpans]) -> list[ManifestRef]:
    """Cut the clips of a chunk of sources below the dataset's `root`."""
    return [cut_cached(root, config, source) for source in sources]


def cut_cached(root: Path, config: ClipsConfig, source: SourceSpans) -> ManifestRef:
    """Return the cut clips of one source: found, or made."""
    cutting = Cutting(**config.model_dump(include=set(Cutting.model_fields)))
    return find_or_compute(STEP, root, cutting, [source.key()], lambda _: cut_source(root, source, config))


@task(name="cuts")
def gather_cuts(root: Path, config: ClipsConfig, cuts: list[ManifestRef]) -> ManifestRef:
    """Write the rows of all sources to cuts.parquet below `root`."""
    rows = pa.concat_tables([SCHEMA.empty_table(), *(read_manifest(cut) for cut in cuts)])
    return write_manifest(root / TABLE, rows, make_lineage(STEP, config, (cut.digest for cut in cuts)))
