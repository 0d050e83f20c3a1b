"""The gallery: one page with each picture beside its video, what was asked and what was measured, and what failed.

It is self-contained while it stays small: pictures and videos are embedded up to EMBED_LIMIT bytes in all, and linked
past that. It opens from disk, without a server.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prefect import task

from tasks.manifest import ManifestRef, publish_text, read_rows

VERSION = 1

EMBED_LIMIT = 64_000_000

PAGE = Path("report/index.html")

NEEDS = ("job", "take", "name", "status", "stage", "image", "picture", "video", "motion_asked", "motion_measured",
         "camera_strength", "first_frame_psnr", "last_frame_psnr", "seed", "steps", "fps", "motion_bucket", "frames",
         "width", "height", "model", "lora", "lora_strength", "error_message")  # fmt: skip


@dataclass
class Embedder:
    """Turns files below `root` into URLs for a page in report/: data URIs up to `budget` bytes, links after."""

    root: Path
    budget: int = EMBED_LIMIT

    def url(self, name: str, kind: str) -> str:
        """The URL of the file `name`, of MIME type `kind`."""
        path = self.root / name
        size = path.stat().st_size
        if size > self.budget:
            return f"../{name}"
        self.budget -= size
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def asked_measured(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each motion asked: how many clips, in how many it was measured, and what was measured instead."""
    table = []
    for motion in sorted({row["motion_asked"] for row in rows if row["status"] == "ok" and row["motion_asked"]}):
        seen = Counter(r["motion_measured"] for r in rows if r["status"] == "ok" and r["motion_asked"] == motion)
        met, clips = seen.pop(motion, 0), seen.total()
        table.append({"motion": motion, "clips": clips + met, "met": met, "others": seen.most_common()})
    return table


def figures(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The page's headline: names and values."""
    states = Counter(row["status"] for row in rows)
    sharp = [row["first_frame_psnr"] for row in rows if row["first_frame_psnr"] is not None]
    motions = asked_measured(rows)
    asked, met = sum(m["clips"] for m in motions), sum(m["met"] for m in motions)
    shown = [("clips", str(states["ok"])), ("failed", str(states["failed"])), ("duplicates", str(states["duplicate"]))]
    if sharp:
        shown.append(("first frame, mean", f"{sum(sharp) / len(sharp):.1f} dB"))
    if asked:
        shown.append(("motion as asked", f"{met} of {asked}"))
    return shown


def gallery_html(root: Path, rows: Sequence[Mapping[str, Any]], embed_limit: int = EMBED_LIMIT) -> str:
    """The page for the rows of outputs.parquet below `root`."""
    url = Embedder(root, embed_limit).url
    clips = [
        {**row, "picture_url": url(row["picture"], "image/png"), "video_url": url(row["video"], "video/mp4")}
        for row in rows
        if row["status"] == "ok"
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("gallery.html.j2").render(
        figures=figures(rows),
        motions=asked_measured(rows),
        clips=clips,
        others=[row for row in rows if row["status"] != "ok"],
    )


@task(name="gallery")
def write_gallery(root: Path, outputs: ManifestRef) -> Path:
    """Write the page of a run; its path."""
    publish_text(root / PAGE, gallery_html(root, read_rows(outputs, NEEDS)))
    return root / PAGE
