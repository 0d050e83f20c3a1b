"""What a generated clip says of itself, in its file (tasks/generate/clip_tags.py) or in the JSON file beside it; and
the rows of the folder it was made in.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from models.errors import BadMedia
from models.given_files import parse_json, read_text
from models.pictures import Background, Fit
from tasks.child_process import Child
from tasks.generate.clip_tags import read_tag
from tasks.generate.encode_formats import Format
from tasks.generate.job_batches import ItemSettings
from tasks.generate.job_columns import In, JobColumns, in_
from tasks.generate.outputs import FILE
from tasks.ledger import check_whole
from tasks.manifest import read_rows

Facts = Mapping[str, Any]

NEEDS = ("item_key", "latents_sha256", "model", "model_revision", "family", "batch", "format", "encoder", "dtype")
"""What a clip must say of itself to be made again, beside its settings."""


TAG_LIMIT_S = 60.0
"""Time limit for reading what a clip carries."""

ASKED = tuple(dict.fromkeys((*in_(In.CLIP), *in_(In.FILE))))
"""What is within the range in which it can be asked for."""


class Provenance(ItemSettings):
    """What a clip says of itself, as far as it is made again from that."""

    model_config = ConfigDict(extra="ignore")

    batch: tuple[str, ...]
    format: Format
    crf: int | None
    trim: bool
    fit: Fit | None
    background: Background | None


def read_provenance(clip: Path) -> dict[str, Any]:
    """Read a clip's provenance, from its tag or the file beside it; raises BadMedia when it has none that can be
    used."""
    with Child() as child:
        text = child.run(read_tag, clip, limit_s=TAG_LIMIT_S)
    # A folder's name may have a dot in it, which ends no stem.
    sidecar = clip.with_name(f"{clip.name}.json") if clip.is_dir() else clip.with_suffix(".json")
    try:
        told = parse_json(text or read_text(sidecar))
        missing = [name for name in NEEDS if not told.get(name)]
    except (OSError, ValueError, AttributeError) as error:
        raise BadMedia(f"{clip}: does not say how it was made, and neither does {sidecar.name} beside it.") from error
    if missing:
        raise BadMedia(f"{clip}: does not say its {', '.join(missing)}, so it cannot be made again.")
    try:
        Provenance.model_validate(told)
        JobColumns.model_validate({name: told[name] for name in ASKED if told.get(name) is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadMedia(f"{clip}: does not say a usable {first['loc'][0]}: {first['msg'].lower()}.") from error
    return told


def read_rows_beside(clip: Path) -> dict[str, dict[str, Any]]:
    """Return the finished rows of the table in the folder that the clip was made in, by item key; none where it is
    elsewhere; raises BadManifest where the table has changed."""
    table = clip.absolute().parent.parent / FILE
    if not table.is_file():
        return {}
    check_whole(table)
    rows = read_rows(table)
    return {row["item_key"]: {**row, "home": table.parent} for row in rows if row["status"] == "ok"}
