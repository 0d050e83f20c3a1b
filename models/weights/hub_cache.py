"""The files of a network: a model named by hub id and pinned revision, or by a path, found without internet access.

`ID@REVISION` is a snapshot in Hugging Face's local cache (`hf download ID --revision REVISION` downloads it); anything
else is a path to a folder, or to one `.safetensors` file. Weights are safetensors, and a model's own code never runs.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from models.errors import BadModel
from models.file_identity import Identity, identify
from models.given_files import read_json
from models.weights.conversions import make_download_command

HUB_NAME = re.compile(r"(?P<id>\w[\w.-]*(/\w[\w.-]*)?)@(?P<revision>\w[\w./-]*)")

READ_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".jinja", ".model"})
"""Endings of the files that loading may read in a model's folder; their content is what its revision depends on."""

CONVERTING = "docs/weights.md"
"""The page that says how published weights become safetensors."""


def resolve_name(name: str) -> str:
    """Return a name as settings keep it: paths absolute; hub names, and names in the folder of weights, unchanged."""
    if not name.strip():
        raise ValueError("must name a model: ID@REVISION of the hub, or a path")
    is_path = "/" in name and not HUB_NAME.fullmatch(name)
    return str(Path(name).expanduser().absolute()) if is_path else name


ModelName = Annotated[str, AfterValidator(resolve_name)]
"""The type of a setting that names a model: ID@REVISION, a path, or a bare name in the folder of weights."""


@dataclass(frozen=True)
class Model:
    """A model that was found: its folder or file, and the revision of its content.

    The revision is ID@COMMIT for a snapshot of the hub, whose commit is the digest of its content, and
    NAME:DIGITS, the first digits of a SHA-256, for local files.
    """

    path: Path
    revision: str


def locate_model(name: str, weights: Path) -> str:
    """Return a bare name as a path in the folder `weights`; any other name unchanged."""
    return name if "/" in name or HUB_NAME.fullmatch(name) else str(weights / name)


def find_model(name: str) -> Model:
    """Find the model of a name on this machine; raises BadModel, with the command that downloads it, when missing."""
    if hub := HUB_NAME.fullmatch(name):
        found, bring = find_snapshot(hub["id"], hub["revision"]), make_hub_command(hub["id"], hub["revision"])
        _refuse_incomplete(found.path, name, f"; `{bring}` downloads what is missing")
        return found
    path = Path(name)
    if path.is_file() and path.suffix == ".safetensors":
        return Model(path, f"{path.name}:{compute_digest(path)[:12]}")
    if path.is_dir():
        _refuse_incomplete(path, name)
        return Model(path, f"{path.name}:{_compute_folder_digest(path)[:12]}")
    command = None if path.exists() else make_download_command(path)
    wrong = "not weights, which end in .safetensors" if path.exists() else "no such file or folder"
    raise BadModel(
        f"{name}: {wrong}; {f'`{command}` downloads it' if command else f'{CONVERTING} says how to make it'}."
    )


def list_missing_models(names: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each (setting, model's name) whose model is missing here: what is wrong and how to get it."""
    lines = []
    for setting, name in names:
        try:
            find_model(name)
        except BadModel as error:
            lines.append(f"{setting}: {error}")
    return lines


def find_snapshot(model_id: str, revision: str) -> Model:
    """Find a hub model in Hugging Face's local cache, complete or not; raises BadModel that names the download."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name = f"{model_id}@{revision}"
    try:
        folder = snapshot_download(model_id, revision=revision, cache_dir=constants.HF_HUB_CACHE, local_files_only=True)
    except LocalEntryNotFoundError as error:
        bring = make_hub_command(model_id, revision)
        raise BadModel(f"{name}: not in Hugging Face's local cache; `{bring}` downloads it.") from error
    except HFValidationError as error:
        raise BadModel(f"{name}: not a name of the hub ({error}).") from error
    return Model(Path(folder), f"{model_id}@{Path(folder).name}")


def make_hub_command(model_id: str, revision: str) -> str:
    """Return the shell command that downloads a model of the hub to the local cache."""
    return f"hf download {model_id} --revision {revision}"


def load_part(part: Any, folder: Path, **options: Any) -> Any:
    """Load a model's folder with a class of transformers: a network in float32 on the best device, a tokenizer, ...

    Raises BadModel when the class cannot load it, or when the weights leave a part of the network random.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    is_network = not any(word in part.__name__ for word in ("Tokenizer", "Processor"))
    asked = {"use_safetensors": True, "dtype": "float32", "output_loading_info": True} if is_network else {}
    try:
        made = part.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **asked, **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise BadModel(
            f"{folder}: {part.__name__} cannot load it ({reason}). Is it the right kind of model?"
        ) from error
    return _require_whole_network(folder, *made) if is_network else made


def read_weights(path: Path) -> dict[str, Any]:
    """Read the tensors of one safetensors file by name; raises BadModel when it is not one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadModel(
            f"{path}: not a readable safetensors file ({error}). {CONVERTING} says how to make it."
        ) from error


def read_stamp(path: Path) -> tuple[tuple[str, Identity], ...]:
    """Return names and identities of a model's files: they show, without reading it, whether a model has changed."""
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())
    return tuple((file.name, identify(file)) for file in files)


def compute_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read once in a process for each identity."""
    return _compute_file_digest(path, identify(path))


def _require_whole_network(folder: Path, network: Any, loading: dict[str, Any]) -> Any:
    from models.device import find_device

    lacking = sorted(str(key) for key in {*loading.get("missing_keys", ()), *loading.get("mismatched_keys", ())})
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise BadModel(
            f"{folder}: its weights lack {lacking[0]}{more} of {type(network).__name__}. Name a model of that kind."
        )
    return network.eval().requires_grad_(False).to(find_device("auto"))


def _refuse_incomplete(folder: Path, name: str, remedy: str = "") -> None:
    if not (folder / "config.json").is_file():
        raise BadModel(f"{name}: it has no config.json{remedy}.")
    index = folder / "model.safetensors.index.json"
    shards = _read_shards(index, name) if index.is_file() else {"model.safetensors"}
    missing = sorted(shard for shard in shards if not (folder / shard).is_file())
    if missing:
        raise BadModel(f"{name}: it has no {missing[0]}, and other weight formats are not read{remedy}.")


def _read_shards(index: Path, name: str) -> set[str]:
    try:
        return {str(shard) for shard in read_json(index)["weight_map"].values()}
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise BadModel(f"{name}: {index.name} names no weights ({error}). Copy the model's folder again.") from error


@lru_cache(maxsize=4096)
def _compute_file_digest(path: Path, identity: Identity) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compute_folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in READ_SUFFIXES)
    facts = [f"{path.name} {compute_digest(path)}" for path in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
