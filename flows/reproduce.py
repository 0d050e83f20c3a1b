"""Reproduce: make a generated clip again from its provenance and compare: the latents bit for bit, and the frames.

The provenance (flows/provenance.py) names everything that the clip was made from. Picture, model and LoRA are looked
for in the folder it was made in, unless they are given. What has changed since is named, and then nothing is sampled.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from flows.provenance import Facts, read_provenance, read_rows_beside
from flows.running.config import Outcome
from models.device import DEVICE_HELP, DeviceName, find_device, format_device
from models.errors import BadInput, ReelmillError
from models.generation.card import read_card
from models.measures.psnr import mean_squared_error, psnr
from models.pictures import Frames, Picture, open_picture, read_foreign_picture
from models.weights.names import MODEL_HELP, is_of_hub, shorten_revision
from tasks.child_process import Child
from tasks.generate.clip_tags import read_clip
from tasks.generate.decode import DecodeConfig, decode_jobs, pair_samples
from tasks.generate.encode import EncodeConfig, encode_jobs, pair_measured
from tasks.generate.encode_formats import make_look
from tasks.generate.jobs import PICTURE_LIMIT_S, SCHEMA
from tasks.generate.sample import VERSION, SampleConfig, sample_jobs
from tasks.ledger import is_whole, resolve_inside
from tasks.limits import get_limits
from tasks.manifest import Lineage, ManifestRef, digest_file, make_table, read_rows, write_manifest

CLIP_LIMIT_S = 600.0
"""Time limit for reading the clip that is compared."""


class ReproduceConfig(BaseModel):
    """The clip, and what is used instead of what its folder has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip: Path = Field(description="A generated clip: its file, or its folder of pictures")
    model: str | None = Field(
        default=None, description=f"The model: {MODEL_HELP}; as in the clip's folder if not given"
    )
    lora: Path | None = Field(default=None, description="The LoRA's file; as in the clip's folder if not given")
    picture: Path | None = Field(default=None, description="The original picture; the clip's folder has a copy if not")
    device: DeviceName = Field(default="auto", description=f"{DEVICE_HELP}. The precision is the clip's own")


class ReproduceOutcome(Outcome):
    """Whether the clip came out the same; otherwise what differs, one sentence each."""

    clip: Path
    differs: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Show one line, or one for each difference."""
        found = [f"differs: {each}" for each in self.differs] or ["identical: latents bit for bit, and every frame"]
        return "\n".join([f"clip: {self.clip}", *found])


@dataclass(frozen=True)
class RecordedInputs:
    """What a clip is made from now: a model's name, a LoRA, the picture at the model's size if it has one, and the
    device."""

    model: str
    lora: Path | None
    picture: Picture | None
    device: str


def reproduce(config: ReproduceConfig) -> ReproduceOutcome:
    """Make a clip again and compare; raises BadInput or BadMedia where it cannot be."""
    clip, facts, rows = read_recorded(config)
    inputs, differs = find_inputs(config, facts, rows)
    differs = [*list_damaged(clip), *differs]
    if not differs:
        differs = compare(clip, facts, rows, inputs)
    return ReproduceOutcome(failed=bool(differs), clip=clip, differs=tuple(differs))


def check(config: ReproduceConfig) -> list[str]:
    """Return a sentence for each input that is not the clip's own now; raises BadInput or BadMedia where it cannot be
    made again."""
    clip, facts, rows = read_recorded(config)
    find_device(config.device)
    return [*list_damaged(clip), *find_inputs(config, facts, rows)[1]]


def read_recorded(config: ReproduceConfig) -> tuple[Path, Facts, Mapping[str, Facts]]:
    """Return the clip, its provenance, and the rows beside it; a picture of a clip of pictures is that clip."""
    clip = config.clip.parent if config.clip.suffix == ".png" and config.clip.is_file() else config.clip
    return clip, read_provenance(clip), read_rows_beside(clip)


def find_inputs(config: ReproduceConfig, facts: Facts, rows: Mapping[str, Facts]) -> tuple[RecordedInputs, list[str]]:
    """Return what the clip is made from now, and a sentence for each of it that is not what it was made from."""
    own = rows.get(facts["item_key"], {})
    model, lora = choose_model(config, facts, own), choose_lora(config, facts, own)
    differs = [*list_other_weights(facts, model, lora), *list_other_versions(facts)]
    picture = None
    try:
        picture = choose_picture(config, facts, own)
    except _OtherPicture as other:
        differs.append(str(other))
    return RecordedInputs(model, lora, picture, config.device), differs


def choose_model(config: ReproduceConfig, facts: Facts, own: Facts) -> str:
    """Return the model asked for, or the one that the clip's folder names, or the one that the clip names: the embedded
    one, or one of the hub."""
    is_anywhere = facts["model"] == "tiny" or is_of_hub(facts["model"], facts["model_revision"])
    name = config.model or own.get("model") or (facts["model"] if is_anywhere else None)
    if name is None:
        raise BadInput(f"{config.clip}: was made with the model {facts['model']}; say where it is with --model.")
    return name


def choose_lora(config: ReproduceConfig, facts: Facts, own: Facts) -> Path | None:
    """Return the LoRA asked for, or the one that the clip's folder names; None where the clip was made without one."""
    if not facts.get("lora_sha256"):
        if config.lora:
            raise BadInput(f"{config.clip}: was made without a LoRA; leave out --lora.")
        return None
    path = config.lora or (Path(own["lora"]) if own.get("lora") else None)
    if path is None or not path.is_file():
        raise BadInput(f"{config.clip}: was made with the LoRA {facts.get('lora')}; say where it is with --lora.")
    return path


class _OtherPicture(Exception):
    """The picture that was found is not the one the clip was made from."""


def choose_picture(config: ReproduceConfig, facts: Facts, own: Facts) -> Picture | None:
    """Return the picture at the model's size: prepared from the one given, or the copy in the clip's folder; None where
    the clip was made from a text alone."""
    if not facts.get("picture_sha256"):
        if config.picture:
            raise BadInput(f"{config.clip}: was made from a text alone; leave out --picture.")
        return None
    if config.picture is None:
        copy = resolve_inside(own["home"], own["picture"]) if own else None
        if copy is None or not copy.is_file():
            made_from = facts.get("image") or f"a picture that {facts['picture_model']} drew"
            raise BadInput(f"{config.clip}: was made from {made_from}; say where it is with --picture.")
        pixels = _read_pixels(copy)
        if _read_digest(pixels) != facts["picture_sha256"]:
            raise _OtherPicture(f"picture: {copy} is not what it was made from ({facts['picture_sha256'][:12]}).")
        return pixels
    if not config.picture.is_file():
        raise BadInput(f"{config.picture}: no such file.")
    digest = digest_file(config.picture)
    # A drawn picture has no other file than its pixels.
    if facts.get("image_sha256") and digest != facts["image_sha256"]:
        raise _OtherPicture(f"picture: {config.picture} is {digest[:12]}, not {facts['image_sha256'][:12]}.")
    return _prepare(config.picture, facts)


def _prepare(path: Path, facts: Facts) -> Picture:
    """Return the picture as the clip had it."""
    how = (facts["width"], facts["height"], facts["fit"] or "crop", facts["background"] or "white")
    with Child() as child:
        most = get_limits().pixels
        pixels, _ = child.run(read_foreign_picture, path, *how, most, limit_s=PICTURE_LIMIT_S, item=path.name)
    if _read_digest(pixels) != facts["picture_sha256"]:
        raise _OtherPicture(f"picture: {path} is the same file, but is prepared otherwise by this version of Reelmill.")
    return pixels


def _read_foreign_clip(clip: Path) -> Frames:
    with Child() as child:
        return child.run(read_clip, clip, limit_s=CLIP_LIMIT_S)


def list_other_weights(facts: Facts, model: str, lora: Path | None) -> list[str]:
    """Return a sentence for the model and for the LoRA that are not the ones the clip was made with."""
    differs, card = [], read_card(model)
    if card.revision != facts["model_revision"]:
        found, told = shorten_revision(card.revision), shorten_revision(facts["model_revision"])
        differs.append(f"model: {model} is {found}, not {told}.")
    if card.family != facts["family"]:
        differs.append(f"family: {model} is of {card.family}, not of {facts['family']}.")
    if lora and (digest := digest_file(lora)) != facts["lora_sha256"]:
        differs.append(f"LoRA: {lora} is {digest[:12]}, not {facts['lora_sha256'][:12]}.")
    return differs


def list_damaged(clip: Path) -> list[str]:
    """Return a sentence for each file of a clip that has other bytes than were written."""
    files = sorted(clip.iterdir()) if clip.is_dir() else [clip]
    return [f"file: {file} has other bytes than were written." for file in files if not is_whole(file)]


def list_other_versions(facts: Facts) -> list[str]:
    """Return a sentence for the sampling step if it has changed since, and for the encoder if only another one is
    here."""
    made, encoder = facts.get("sample_version"), make_look(facts["format"], facts["crf"]).encoder
    differs = []
    if made != VERSION:
        differs.append(f"version: sampling is at version {VERSION}, the clip was made by {made}.")
    if encoder != facts["encoder"]:
        differs.append(f"encoder: this ffmpeg encodes {facts['format']} by {encoder}, not by {facts['encoder']}.")
    return differs


def compare(clip: Path, facts: Facts, rows: Mapping[str, Facts], inputs: RecordedInputs) -> list[str]:
    """Make the clip again in a folder of its own; return a sentence for the latents and for the frames that differ."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        jobs, keys = _write_jobs(root, facts, rows, inputs)
        samples = sample_jobs.fn(root, SampleConfig(batch=len(keys), device=inputs.device), [(jobs, keys)])
        mine = keys.index(facts["item_key"])
        sample = _find_made(samples[mine])
        clips = decode_jobs.fn(root, DecodeConfig(device=inputs.device), pair_samples(jobs, [samples[mine]]))
        _find_made(clips[0])
        encoding = EncodeConfig(format=facts["format"], crf=facts["crf"], trim=facts["trim"], device=inputs.device)
        videos = encode_jobs.fn(root, encoding, pair_measured(jobs, [samples[mine]], clips))
        distance = distance_db(read_clip(root / _find_made(videos[0])["video"]), _read_foreign_clip(clip))
    if sample["latents_sha256"] != facts["latents_sha256"]:
        return [_describe_latents(facts, len(keys), format_device(find_device(inputs.device)), distance)]
    return [] if distance == math.inf else [f"frames: the latents are identical. {describe_distance(distance)}"]


def _describe_latents(facts: Facts, together: int, device: str, distance: float) -> str:
    batch = len(facts["batch"])
    if together < batch:
        why = f"it was sampled in a batch of {batch}, of which the others are not here"
    elif facts.get("device") != device:
        why = f"it was sampled on {facts.get('device')}, this is {device}"
    else:
        why = "its inputs are the same, so torch, its threads or the processor are others"
    return f"latents: not the same bits; {why}. {describe_distance(distance)}"


def describe_distance(distance: float) -> str:
    """Describe how near two clips' frames are, whose distance `distance_db` gave."""
    if distance == math.inf:
        return "Every frame is the same."
    return f"The frames agree to {distance:.1f} dB."


def _write_jobs(
    root: Path, facts: Facts, rows: Mapping[str, Facts], inputs: RecordedInputs
) -> tuple[ManifestRef, tuple[str, ...]]:
    """Write a manifest of jobs below `root` with the clip and, if all are there, those it was sampled with; return it
    and their keys."""
    own = _make_job(root, facts, inputs.picture, inputs)
    keys = tuple(facts["batch"])
    made = {own["item_key"]: own}
    others = [key for key in keys if key != own["item_key"]]
    if all(key in rows and _has_picture(rows[key]) for key in others):
        for key in others:
            picture = (
                _read_pixels(resolve_inside(rows[key]["home"], rows[key]["picture"])) if rows[key]["picture"] else None
            )
            made[key] = _make_job(root, rows[key], picture, inputs)
    else:
        keys = (own["item_key"],)
    table = make_table([made[key] for key in keys], SCHEMA)
    return write_manifest(root / "jobs.parquet", table, Lineage(step="reproduce", version=VERSION)), keys


def _has_picture(row: Facts) -> bool:
    return not row["picture"] or resolve_inside(row["home"], row["picture"]).is_file()


def _make_job(root: Path, facts: Facts, picture: Picture | None, inputs: RecordedInputs) -> dict[str, Any]:
    known = {name: facts.get(name) for name in SCHEMA.names if name not in ("lineage", "ignored")}
    made: dict[str, Any] = {"name": "again", "status": "ready", "picture": None, "picture_sha256": None}
    if picture is not None:
        digest = _read_digest(picture)
        (root / "pictures").mkdir(exist_ok=True)
        Image.fromarray(picture).save(root / "pictures" / f"{digest}.png")
        made |= {"picture": f"pictures/{digest}.png", "picture_sha256": digest}
    lora = str(inputs.lora) if inputs.lora else None
    return known | made | {"model": inputs.model, "lora": lora, "error_code": None, "error_message": None}


def _find_made(manifest: ManifestRef) -> dict[str, Any]:
    row = read_rows(manifest)[0]
    if row["error_code"]:
        raise ReelmillError(row["error_message"])
    return row


def distance_db(one: Frames, other: Frames) -> float:
    """Return the peak signal-to-noise ratio in dB of two clips; infinite when equal, 0 when of different size or
    length."""
    return psnr(mean_squared_error(one, other)) if one.shape == other.shape else 0.0


def _read_pixels(path: Path) -> Picture:
    with open_picture(path) as picture:
        return np.asarray(picture)


def _read_digest(pixels: Picture) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()
