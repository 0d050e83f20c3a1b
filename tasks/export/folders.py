"""Folders: a dataset's samples as mp4 files in train/, validation/ and test/, with a table of metadata beside them.

`hf` writes metadata.jsonl and a README.md whose header names the splits, so that `datasets.load_dataset(FOLDER)` reads
it as a video folder. `csv` writes metadata.csv with the columns that finetrainers and the trainers of diffusers take:
`file_name`, relative to the table, and `caption`, and then what is known of the clip. Clips are hard links to the
dataset's where both lie on one disk, else copies.
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
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from tasks.caching import Step, cached, supersede
from tasks.manifest import ERROR_FIELDS, ManifestRef, publish, publish_text, read_rows, table_of

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

SIDES = ("train", "validation", "test")

WRITTEN = re.compile(r"[0-9a-f]{16}-.*\.mp4|metadata\.(csv|jsonl)")
"""What this step writes into a side's folder, and may remove from it."""

Rows = Sequence[Mapping[str, Any]]


class Layout(BaseModel):
    """Which of the two layouts is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: Literal["hf", "csv"]


def metadata_of(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample's row of metadata: the file's name, the caption, and the clip's facts that are single values."""
    facts = json.loads(sample["facts"])
    flat = {name: value for name, value in facts.items() if not isinstance(value, list | dict) and name != "caption"}
    return {"file_name": f"{sample['clip_id']}.mp4", "caption": sample["caption"] or ""} | flat


def as_table(rows: Rows, name: str) -> str:
    """Rows of metadata as CSV, or as JSON lines in which every row has every column, by the ending of `name`."""
    columns = list(dict.fromkeys(["file_name", "caption", *sorted({column for row in rows for column in row})]))
    if name.endswith(".jsonl"):
        whole = ({column: row.get(column) for column in columns} for row in rows)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in whole)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def card(splits: Sequence[str]) -> str:
    """The README.md of a Hugging Face dataset: its header says where the splits are."""
    files = "\n".join(f"  - split: {split}\n    path: {split}/**" for split in splits)
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\n---\n\n"
        "Clips with captions and measurements, exported by Reelmill. The footage belongs to its owners.\n"
    )


def write_all(out: Path, dataset: Path, samples: Rows, layout: Layout) -> list[dict[str, Any]]:
    """Write every side's folder below `out`, where what an older export left is removed: a row for each sample."""
    rows: list[dict[str, Any]] = []
    for split in SIDES:
        side = [sample for sample in samples if sample["side"] == split]
        table = f"{split}/{TABLES[layout.to]}"
        for sample in side:
            file = f"{split}/{sample['clip_id']}.mp4"
            place_file(dataset / sample["video"], out / file)
            named = {name: sample[name] for name in ("clip_id", "side", "sha256")}
            rows.append({**named, "file": file, "table": table, "attempt": 1})
        _sweep(out / split, {f"{sample['clip_id']}.mp4" for sample in side})
        if side:
            publish_text(out / table, as_table([metadata_of(sample) for sample in side], table))
    if layout.to == "hf":
        publish_text(out / "README.md", card([split for split in SIDES if any(s["side"] == split for s in samples)]))
    return rows


def place_file(source: Path, target: Path) -> None:
    """Put a file's content at `target`, by a hard link where the file system has them, else by a copy."""
    with publish(target) as aside:
        try:
            os.link(source, aside)
        except OSError:  # Another disk, or one without links: the content is the same.
            shutil.copyfile(source, aside)


def _sweep(folder: Path, files: set[str]) -> None:
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if WRITTEN.fullmatch(path.name) and path.name not in files:
            path.unlink()


@task(name="folders", cache_policy=NO_CACHE)
def write_folders(out: Path, config: Layout, dataset: Path, samples: ManifestRef) -> ManifestRef:
    """The folders of all samples that have a side, below `out`: found, or made."""

    def compute(_: str) -> pa.Table:
        supersede(STEP, out)
        chosen = [sample for sample in read_rows(samples, NEEDS) if sample["side"]]
        return table_of(write_all(out, dataset, chosen, config), SCHEMA)

    return cached(STEP, out, config, [samples], compute)
