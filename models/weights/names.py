"""The diffusers model behind a name: its folder on this machine, and the revision of its content.

A name is "tiny", the embedded model; a folder with model_index.json; or ID@REVISION of the hub, found only in
Hugging Face's local cache (models/weights/hub_cache.py). A folder comes before a hub model of the same name.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from models.errors import BadInput, BadModel
from models.weights.files import HALF, find_weights, read_files
from models.weights.hub_cache import HUB_NAME, READ_SUFFIXES, Model, compute_digest, find_snapshot, make_hub_command
from models.weights.pipeline_folder import list_parts, read_index

TINY = Path(__file__).parents[1] / "tiny"

WORDS_FILE = "motion_words.safetensors"
"""A model's motion words, beside its model_index.json."""

INDEX_FILE = "model_index.json"

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

MODEL_HELP = "a folder in diffusers' layout, ID@REVISION of the hub in the local cache, or 'tiny' for the embedded one"
"""The help text of options that name a model."""


def find_model_folder(name: str) -> Path:
    """Find the folder of a model of any family; "tiny" is the embedded one.

    Raises BadInput when there is none, and BadModel, with the command that downloads it, for a model of the hub that is
    not in the local cache or lacks files there.
    """
    if found := _find_hub_model(name):
        return found.path
    folder = TINY if name == "tiny" else Path(name)
    if not (folder / INDEX_FILE).is_file():
        raise BadInput(_format_not_found(name))
    return folder


def find_revision(name: str) -> str:
    """Return the revision that identifies a model's content: for a folder the digest of what is loaded, for a model of
    the hub ID@COMMIT, with +fp16 when it is only there in half precision."""
    if found := _find_hub_model(name):
        return found.revision + (f"+{HALF}" if _is_half(found.path) else "")
    return compute_weights_digest(find_model_folder(name))


def pin_name(name: str) -> str:
    """Return a hub model's name with its commit, whatever branch it was named by; any other name unchanged."""
    found = _find_hub_model(name)
    return found.revision if found else name


def is_hub_name(name: str) -> bool:
    """Say whether a name without a folder is that of a model of the hub."""
    return HUB_NAME.fullmatch(name) is not None


def format_name(name: str, revision: str) -> str:
    """Return what to call a model of that revision on any machine: a folder's own name, without its path."""
    return name if is_of_hub(name, revision) else Path(name).name


def is_of_hub(name: str, revision: str) -> bool:
    """Say whether a pinned name is that of a model of the hub, whose revision is then the same."""
    return name == revision.partition("+")[0]


def shorten_revision(revision: str) -> str:
    """Return a revision as people read it: the first digits of a digest, a model of the hub in full."""
    return revision if "@" in revision else revision[:12]


def compute_weights_digest(folder: Path) -> str:
    """Return the SHA-256 over what is loaded from a model's folder: weights, configurations, vocabularies, with names.

    A file is read again only when its identity changes.
    """
    digest = hashlib.sha256()
    for path in sorted({folder / INDEX_FILE, folder / WORDS_FILE, *_list_part_files(folder)}):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(bytes.fromhex(compute_digest(path)))
    return digest.hexdigest()


def _find_hub_model(name: str) -> Model | None:
    """Find the snapshot of a name of the hub; None for a name of another kind."""
    hub = HUB_NAME.fullmatch(name)
    if hub is None or (Path(name) / INDEX_FILE).is_file():
        return None
    found = find_snapshot(hub["id"], hub["revision"])
    if lacking := _find_lacking_file(found.path):
        bring = make_hub_command(hub["id"], hub["revision"])
        raise BadModel(f"{name}: {lacking} is missing from the local cache; `{bring}` downloads it.")
    return found


def _find_lacking_file(folder: Path) -> str | None:
    """Find the first file that a snapshot lacks, or a part's folder when all of it is missing."""
    if not (folder / INDEX_FILE).is_file():
        return INDEX_FILE
    for name in list_parts(read_index(folder)):
        part, weights = folder / name, find_weights(folder / name)
        if not any(path.is_file() for path in part.glob("*")):
            return name
        # Only networks have a config.json.
        if weights is None and (part / "config.json").is_file():
            return f"{name}/*.safetensors"
        for path in weights.files if weights else ():
            if not path.is_file():
                return f"{name}/{path.name}"
    return None


def _is_half(folder: Path) -> bool:
    return any(found.variant for part in list_parts(read_index(folder)) if (found := find_weights(folder / part)))


def _list_part_files(folder: Path) -> Iterator[Path]:
    for part in list_parts(read_index(folder)):
        yield from read_files(folder / part, READ_SUFFIXES)


def _format_not_found(name: str) -> str:
    if HUB_ID.fullmatch(name) and not Path(name).exists():
        return f"{name}: no such folder; a model of the hub is named with its revision, {name}@COMMIT or {name}@main."
    return f"{name}: no model there (a folder with {INDEX_FILE}). Use 'tiny' for the embedded one."
