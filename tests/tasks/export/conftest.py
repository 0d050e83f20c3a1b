"""A small dataset as it leaves curation and cutting: films of a few clips each, with real files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.caching import make_lineage
from tasks.curate import clips as clips_step
from tasks.curate import select
from tasks.curate.join import SCHEMA as CLIPS
from tasks.export.samples import HoldOutConfig, collect_samples
from tasks.manifest import ManifestRef, digest_file, make_table, write_manifest
from tasks.media.video import write_video


class Films:
    """The dataset's folder; `samples` are the manifest's rows of films given as clips' changes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.film = root / "clips" / "film.mp4"
        write_video(self.film, np.full((4, 32, 48, 3), 99, np.uint8), 8.0)

    def samples(self, out: Path, clips: list[dict[str, Any]], config: HoldOutConfig | None = None) -> ManifestRef:
        """The samples, below `out`, of clips that differ from the plain one as given."""
        rows = [self._clip(number) | clip for number, clip in enumerate(clips)]
        cuts = write_manifest(
            self.root / "cuts.parquet",
            make_table([self._cut(row) for row in rows], clips_step.SCHEMA),
            make_lineage(clips_step.STEP, None, ()),
        )
        schema = [*CLIPS, *select.SCHEMA]
        decided = make_table(
            [{k: v for k, v in row.items() if k != "broken"} for row in rows], select.pa.schema(schema)
        )
        known = write_manifest(self.root / "clips.parquet", decided, make_lineage(select.STEP, None, ()))
        return collect_samples.fn(out, config or HoldOutConfig(), self.root, known, [cuts])

    def _clip(self, number: int) -> dict[str, Any]:
        video = f"{number:016x}"
        times = {"start_s": 0.0, "end_s": 0.5, "start_pts": 0, "end_pts": 4, "time_base": "1/8", "fps": 8.0}
        seen = {"caption": f"clip {number}", "camera_motion": "static", "motion_score": 0.25, "colours": ["red"]}
        size = {"width": 48, "height": 32, "frames": 4, "keep": True}
        return {"clip_id": f"{video}-0-4", "video_id": video, "source": f"/in/{number}.mp4", **times, **seen, **size}

    def _cut(self, row: dict[str, Any]) -> dict[str, Any]:
        named = {"clip_id": row["clip_id"], "cut_mode": "exact", "attempt": 1}
        if row.get("broken"):
            return named | {"error_code": "bad_media", "error_message": f"{row['clip_id']}: broken."}
        copy = self.root / "clips" / f"{row['clip_id']}.mp4"
        copy.write_bytes(self.film.read_bytes() + row["clip_id"].encode())
        place = {"cut_path": f"clips/{copy.name}", "cut_bytes": copy.stat().st_size, "cut_sha256": digest_file(copy)}
        return named | place | {"cut_start_s": 0.0, "cut_end_s": 0.5, "cut_frames": 4}


@pytest.fixture
def films(tmp_path: Path) -> Films:
    """An empty dataset; see Films."""
    return Films(tmp_path / "films")


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """The bytes of all files of an export by name, without the manifests."""
    return lambda out: {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "manifests" not in path.parts
    }
