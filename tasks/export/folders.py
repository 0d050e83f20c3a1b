"""Folders: a dataset's samples as mp4 files in train/, validation/ and test/, with a table of metadata beside them.

`hf` writes metadata.jsonl and a README.md whose header names the splits, so that `datasets.load_dataset(FOLDER)` reads
the folder as a video dataset. `csv` writes metadata.csv with the columns that finetrainers and the trainers of
diffusers take: `file_name`, relative to the table, and `caption`, and then the facts about the clip. Clips are hard
links to the dataset's where both are on one disk, else copies. A sample whose clip cannot be read, or has other bytes
than were cut, is in no folder: its row says why.
"""

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from prefect import task
from pydantic import BaseModel, ConfigDict

from models.errors import BadMedia
from tasks.attempts import tried
from tasks.caching import Step, find_or_compute, supersede
from tasks.ledger import is_whole, remove, resolve_inside
from tasks.manifest import ERROR_FIELDS, ManifestRef, make_table, publish, publish_text, read_rows

VERSION = 1

NEEDS = ("clip_id", "side", "caption", "video", "sha256", "facts")

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("side", pa.string()),
        ("file", pa.string()),
        ("table", pa.string()),
        ("sha256", pa.string()),
        *ERROR_FIELDS,
    ]
)

STEP = Step("folders", VERSION, SCHEMA, files=("file", "table"))

TABLES = {"hf": "metadata.jsonl", "csv": "metadata.csv"}

SPLITS = ("train", "validation", "test")

WRITTEN = re.compile(r"[0-9a-f]{16}-.*\.mp4|metadata\.(csv|jsonl)")
"""The files that this step writes into a split's folder, and may remove from it."""

Rows = Sequence[Mapping[str, Any]]


class Layout(BaseModel):
    """The choice between the two layouts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: Literal["hf", "csv"]


def describe_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample's row of metadata: the file's name, the caption, and the clip's facts that are single values."""
    facts = json.loads(sample["facts"])
    flat = {name: value for name, value in facts.items() if not isinstance(value, list | dict) and name != "caption"}
    return {"file_name": f"{sample['clip_id']}.mp4", "caption": sample["caption"] or ""} | flat


def format_table(rows: Rows, name: str) -> str:
    """Format rows of metadata as CSV, or for a `name` in .jsonl as JSON lines in which every row has every column."""
    columns = list(dict.fromkeys(["file_name", "caption", *sorted({column for row in rows for column in row})]))
    if name.endswith(".jsonl"):
        whole = ({column: row.get(column) for column in columns} for row in rows)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in whole)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def format_readme(splits: Sequence[str]) -> str:
    """Return the README.md of a Hugging Face dataset, whose header names the splits and their folders."""
    files = "\n".join(f"  - split: {split}\n    path: {split}/**" for split in splits)
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\n---\n\n"
        "Clips with captions and measurements, exported by Reelmill. The footage belongs to its owners.\n"
    )


def write_all(out: Path, dataset: Path, samples: Rows, layout: Layout) -> list[dict[str, Any]]:
    """Write every split's folder below `out`, remove what an older export left there, and return a row per sample."""
    rows: list[dict[str, Any]] = []
    for split in SPLITS:
        own = [sample for sample in samples if sample["side"] == split]
        table = f"{split}/{TABLES[layout.to]}"
        placed = [place_sample(sample, dataset, out, table) for sample in own]
        rows += placed
        own = [sample for sample, row in zip(own, placed, strict=True) if not row.get("error_code")]
        _sweep(out / split, {f"{sample['clip_id']}.mp4" for sample in own})
        if own:
            publish_text(out / table, format_table([describe_sample(sample) for sample in own], table))
    if layout.to == "hf":
        publish_text(
            out / "README.md", format_readme([split for split in SPLITS if any(s["side"] == split for s in samples)])
        )
    return rows


def place_sample(sample: Mapping[str, Any], dataset: Path, out: Path, table: str) -> dict[str, Any]:
    """Put a sample's clip beside its `table` below `out`, and return its row, which says why where that fails."""
    named = {name: sample[name] for name in ("clip_id", "side", "sha256")} | {"attempt": 1}
    file = f"{sample['side']}/{sample['clip_id']}.mp4"

    def place() -> dict[str, Any]:
        source = resolve_inside(dataset, sample["video"])
        if not is_whole(source):
            wrong = "has other bytes than were cut. `reelmill retry` on the export cuts it again."
            raise BadMedia(f"{sample['video']}: {wrong}")
        place_file(source, out / file)
        return {**named, "file": file, "table": table}

    return tried(place, lambda error: {**named, **error}, "exporting", sample["clip_id"])


def place_file(source: Path, target: Path) -> None:
    """Put a file's content at `target`, by a hard link where the file system allows it, else by a copy."""
    with publish(target) as aside:
        try:
            os.link(source, aside)
        except OSError:  # Another disk, or one without hard links: a copy has the same content.
            shutil.copyfile(source, aside)


def _sweep(folder: Path, files: set[str]) -> None:
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if WRITTEN.fullmatch(path.name) and path.name not in files:
            remove(path)


@task(name="folders")
def write_folders(out: Path, config: Layout, dataset: Path, samples: ManifestRef) -> ManifestRef:
    """Find or write the folders of all samples that have a split, below `out`."""

    def compute(_: str) -> pa.Table:
        supersede(STEP, out)
        chosen = [sample for sample in read_rows(samples, NEEDS) if sample["side"]]
        return make_table(write_all(out, dataset, chosen, config), SCHEMA)

    return find_or_compute(STEP, out, config, [samples], compute)
