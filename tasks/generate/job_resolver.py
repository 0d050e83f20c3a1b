"""From the rows of a job list to resolved jobs: every setting decided, from the row, the run, the model or a default.

What a model needs, what it takes and what its clips can be is its family's (models/families/). A setting that cannot be
honoured and does not change the meaning is named in `ignored`; one that changes it is a reason not to make the job.
"""

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from unicodedata import category, normalize

from pydantic import ValidationError

from models.device import choose_precision, find_device
from models.errors import BadInput, ReelmillError
from models.families.family import Fitted, Input
from models.families.text_to_picture import find_drawer_revision
from models.generation.calibration import load_calibration
from models.generation.card import ModelCard, read_card
from models.generation.long_clips import Way
from models.svd.lora import load_lora
from models.svd.model import motion_bucket
from models.svd.regions import choose_word, list_words
from models.weights.names import INDEX_FILE, is_hub_name, pin_name
from tasks.attempts import error_columns, tried
from tasks.footage import MEAN_RADIUS
from tasks.further_columns import pack
from tasks.generate.job_columns import JobColumns
from tasks.generate.job_settings import JobsConfig
from tasks.item_lists import Listing, locate
from tasks.manifest import digest_file
from tasks.table_files import TableRow

DEFAULTS: Mapping[str, Any] = {"model": "tiny", "seed": 0, "lora_strength": 1.0}
"""Where neither a row nor the run says anything, and the model has no number of its own."""

NAME_LENGTH = 40
"""Characters of a text that name its clip."""

NAME_BYTES = 120
"""Bytes of a name: file systems take 255, some that encrypt 143, and take, key and suffix come after it."""

_DEVICES = re.compile(r"^(?:con|prn|aux|nul|conin|conout|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])(?=\.|$)", re.IGNORECASE)
"""The names that Windows takes for devices, whatever their suffix."""

FLOW_PER_STRENGTH = {"zoom_in": MEAN_RADIUS, "zoom_out": MEAN_RADIUS, "roll": MEAN_RADIUS * math.pi / 180}
"""Mean optical flow, in short sides per second, of a motion of strength 1. Pans and tilts move every point by their own
strength."""


class Asking:
    """Turns rows of a listing into resolved jobs; a file is read once, however many rows name it.

    `home` is the folder that models and LoRAs of rows are named from. A row's setting overrides the run's, except in a
    `workflow`: a flag that was given is meant to change what the workflow says.
    """

    def __init__(self, listing: Listing, home: Path, config: JobsConfig, workflow: bool = False) -> None:
        self.listing, self.home, self.config, self.workflow = listing, home, config, workflow
        self._digest = cache(digest_file)
        self._card = cache(read_card)
        self._picture_revision = cache(find_drawer_revision)
        self._pinned = cache(pin_name)
        self._calibration = cache(load_calibration)
        self._lora = cache(lambda path: (load_lora(path)[1], digest_file(path)))

    def job(self, number: int, row: TableRow) -> dict[str, Any]:
        """Return the manifest row of job `number` without its picture; with the reason where it cannot be made."""
        image, prompt = (make_printable(str(row.values.get(name) or "")) for name in ("image", "prompt"))
        named = Path(image).stem if image else prompt[:NAME_LENGTH]
        known = {
            "job": number,
            "name": make_safe_name(named),
            "image": image or None,
            "prompt": prompt or None,
            "further": pack(row.further),
            "attempt": 1,
        }
        return tried(
            lambda: known | self._resolve(row) | {"status": "ready"},
            lambda failure: known | {"status": "failed"} | failure,
            "reading the job",
            image or known["name"],
        )

    def _resolve(self, row: TableRow) -> dict[str, Any]:
        line = _parse(row)
        path = locate(self.listing.folder, line.image) if line.image else None
        digest = self._digest(path) if path else None
        model = self._folder("model", line.model) or "tiny"
        card, ignored = self._card(model), list(line.ignored)
        texts = self._texts(line, card, ignored)
        about = digest or sha256((texts["prompt"] or "").encode()).hexdigest()
        stem = path.stem if path else (texts["prompt"] or "")[:NAME_LENGTH]
        prefix = normalize("NFC", make_printable(line.prefix or ""))
        plain = make_safe_name(line.key or stem)
        name = make_safe_name(add_prefix(prefix, line.key or stem))
        source = {"name": name, "image": str(path) if path else None, "image_sha256": digest, **texts}
        settings = self._settings(line, card, ignored)
        fixed = {"key": make_printable(line.key or about), "model": model, "priority": line.priority or 0}
        fixed["prefix"] = prefix if name != plain else None
        return source | fixed | settings | {"ignored": ignored or None}

    def _folder(self, setting: Literal["model", "picture_model"], own: str | None) -> str | None:
        """Find the model of a row: "tiny", a folder as the command line names it, one as a row names it, from `home`,
        or one of the hub by its commit."""
        name = self._pick(setting, own)
        if name is None or name == "tiny":
            return name
        if name != own:
            return self._pinned(name)
        names = (name, name.removesuffix(".safetensors"))
        folder = next((f for n in names if ((f := self._below_home(setting, n)) / INDEX_FILE).is_file()), None)
        if folder is not None:
            return str(folder)
        if is_hub_name(name):
            return self._pinned(name)
        flag = f"--{setting.replace('_', '-')}"
        raise BadInput(f"{setting} {name}: there is no folder of that model in {self.home}; give {flag}.")

    def _below_home(self, setting: str, name: str) -> Path:
        """Return what a row names; raises BadInput for what no path can be."""
        try:
            return (self.home / name).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise BadInput(f"{setting} {name!r}: not a usable path ({error}).") from error

    def _texts(self, line: JobColumns, card: ModelCard, ignored: list[str]) -> dict[str, Any]:
        """Return the texts that make the clip, or the picture that it is made from, and the model that draws that."""
        asked = {name: self._pick(name, getattr(line, name)) for name in ("prompt", "negative_prompt")}
        texts = {name: make_printable(text) if text else None for name, text in asked.items()}
        lacks = line.image is None and "picture" in card.inputs.needs
        drawn = self._folder("picture_model", line.picture_model) if lacks else None
        check_inputs(card, line.image is not None or drawn is not None, texts["prompt"])
        if line.image is not None and "picture" not in card.inputs:
            raise BadInput(f"{line.image}: {card.family} makes clips from texts alone; leave the picture out.")
        if line.picture_model and not drawn:
            used = "the picture given is used" if line.image else f"{card.family} makes clips from the text itself"
            ignored.append(f"picture_model: {used}.")
        columns: dict[str, Input] = {"prompt": "text", "negative_prompt": "negative text"}
        for column, taken in columns.items():
            if texts[column] and not drawn and taken not in card.inputs:
                ignored.append(f"{column}: {card.family} does not take it.")
                texts[column] = None
        revision = self._picture_revision(drawn) if drawn else None
        return {**texts, "picture_model": drawn, "picture_model_revision": revision}

    def _settings(self, line: JobColumns, card: ModelCard, ignored: list[str]) -> dict[str, Any]:
        rules = card.rules
        size = rules.fit_size(
            self._pick("width", line.width, rules.width), self._pick("height", line.height, rules.height)
        )
        frames = fit_frames(card, self._pick("frames", line.frames, rules.frames))
        ignored += [fitted.note for fitted in (size, frames) if fitted.note]
        return {
            **{n: self._pick(n, getattr(line, n)) for n in ("seed", "motion_strength")},
            "family": card.family,
            "steps": self._pick("steps", line.steps, rules.steps),
            "frames": frames.value,
            "longer": self._longer(line, card, frames.value, ignored),
            "width": size.value[0],
            "height": size.value[1],
            "model_revision": card.revision,
            "dtype": choose_precision(find_device("auto"), self.config.dtype, rules.gpu_precision),
            **self._steering(line, card, ignored),
            **self._motion_and_lora(line, card),
        }

    def _longer(self, line: JobColumns, card: ModelCard, frames: int, ignored: list[str]) -> Way | None:
        """Return how a clip past the model's own length is made; None where it is made at once."""
        asked = self._pick("longer", line.longer)
        if card.facts and frames > card.facts.frames:
            return asked or "windows"
        if asked:
            ignored.append(f"longer: a clip of {frames} frames is made at once by this model.")
        return None

    def _steering(self, line: JobColumns, card: ModelCard, ignored: list[str]) -> dict[str, Any]:
        """Return guidance, rate, noise and amount of motion, as far as the family takes them; the rest is named as
        ignored."""
        low, high = self.config.guidance or (None, None)
        guidance = [self._first(line.guidance_min, low), self._first(line.guidance_max, high)]
        fps, noise = (self._pick(n, getattr(line, n)) for n in ("fps", "noise_aug"))
        played = float(self._pick("playback_fps", line.playback_fps, _find_first(fps, card.rules.fps)))
        bucket = self._pick("motion_bucket", line.motion_bucket)
        asked: dict[Input, Any] = {"noise_aug": noise, "motion bucket": bucket}
        ignored += [
            f"{name.replace(' ', '_')}: {card.family} does not take it."
            for name, value in asked.items()
            if value is not None and name not in card.inputs
        ]
        if fps is not None and "fps" not in card.inputs and fps != card.rules.fps:
            ignored.append(
                f"fps {fps:g}: {card.family} makes {float(card.rules.fps):g} a second, played at {played:g}."
            )
        if card.facts is None:
            strength = _find_first(guidance[1], guidance[0])
            if len({value for value in guidance if value is not None}) > 1:
                ignored.append(f"guidance_min: {card.family} has one guidance for all frames, {strength:g}.")
            guidance = [strength, strength]
        return {
            "fps": float(_find_first(fps, card.rules.fps)),
            "playback_fps": played,
            "guidance_min": _find_first(guidance[0], card.guidance[0]),
            "guidance_max": _find_first(guidance[1], card.guidance[1]),
            "noise_aug": _find_first(noise, card.noise_aug) if "noise_aug" in card.inputs else None,
            "motion_bucket": self._bucket(line, card, bucket) if "motion bucket" in card.inputs else None,
        }

    def _bucket(self, line: JobColumns, card: ModelCard, given: int | None) -> int | None:
        """Return the motion bucket asked for; or that for the strength asked for; or the model's own."""
        strength, motion = self._pick("motion_strength", line.motion_strength), self._pick("motion", line.motion)
        if given is not None or strength is None:
            return _find_first(given, card.motion_bucket)
        # Standing still is no motion that a calibration measures.
        if self.config.calibration and motion != "static":
            return self._calibration(self.config.calibration, card.revision).bucket(motion, strength)
        return motion_bucket(strength * FLOW_PER_STRENGTH.get(motion, 1.0))

    def _motion_and_lora(self, line: JobColumns, card: ModelCard) -> dict[str, Any]:
        motion, path = self._pick("motion", line.motion), self._lora_path(line)
        lineages: dict[str, Any] = {}
        made_by_lora: tuple[str, ...] = ()
        chosen: dict[str, Any] = {}
        if card.lineage:
            lineages["model"] = _shorten(card.lineage)
        if path and "motion LoRA" not in card.inputs:
            raise BadInput(f"LoRA {path.name}: {card.family} takes none; leave it out.")
        if path:
            strength = self._pick("lora_strength", line.lora_strength)
            learned, digest = self._lora_of(path, card)
            made_by_lora = tuple((learned.get("train") or {}).get("motions") or ())
            lineages["lora"] = _shorten(learned)
            chosen = {"lora": str(path), "lora_sha256": digest, "lora_strength": strength}
        if motion is None and len(made_by_lora) == 1:
            motion = made_by_lora[0]
        # A motion LoRA learns, and so is used, without the word for its motion.
        told = choose_word(motion, card.facts.by_regions) if card.facts else motion
        word = None if motion in made_by_lora or (path and card.facts is None) else told
        _check_word(word, card)
        lineage = json.dumps(lineages, sort_keys=True) if lineages else None
        return chosen | {"motion": motion, "word": word, "lineage": lineage}

    def _lora_of(self, path: Path, card: ModelCard) -> tuple[Mapping[str, Any], str]:
        """Return what a LoRA says it learned from, and its digest. Another family's says nothing, and needs no word:
        whether it makes the motion that the job asks for is measured."""
        if card.facts is not None:
            facts, digest = self._lora(path)
            return facts.lineage, digest
        if not path.is_file():
            raise BadInput(f"{path}: no LoRA file there.")
        return {}, self._digest(path)

    def _lora_path(self, line: JobColumns) -> Path | None:
        """Return a LoRA's path: a row names it from its list's folder, the command line from where it is called."""
        rows = self._below_home("lora", line.lora) if line.lora else None
        return self._first(rows, Path(self.config.lora).resolve() if self.config.lora else None)

    def _pick(self, name: str, own: Any, native: Any = None) -> Any:
        """Return a setting: the row's or the run's, whichever has priority; or the model's; or the default."""
        return self._first(own, getattr(self.config, name), _find_first(native, DEFAULTS.get(name)))

    def _first(self, own: Any, run: Any, native: Any = None) -> Any:
        return _find_first(run, own, native) if self.workflow else _find_first(own, run, native)


def check_inputs(card: ModelCard, has_picture: bool, prompt: str | None) -> None:
    """Raise BadInput when a model needs a picture or a text that a job does not have."""
    if "text" in card.inputs.needs and not prompt:
        raise BadInput(f"{card.family} needs a text: give it in the column prompt, or --prompt for all.")
    if "picture" in card.inputs.needs and not has_picture:
        raise BadInput(
            f"{card.family} needs a picture: give one in the column image"
            + (", or a model that draws it from the text as picture_model." if prompt else ".")
        )


def fit_frames(card: ModelCard, asked: int) -> Fitted:
    """Return the nearest number of frames that a model makes; raises BadInput past its limits."""
    fitted = card.rules.fit_frames(asked)
    if abs(fitted.value - asked) >= card.rules.frame_step:
        raise BadInput(f"frames {asked}: clips of {card.family} have {card.rules.frames_rule}; ask for {fitted.value}.")
    return fitted


def _check_word(word: str | None, card: ModelCard) -> None:
    if unknown := [part for part in list_words(word) if part not in card.words]:
        made_by_regions = card.facts.by_regions if card.facts else ()
        names, first = ", ".join(sorted({*card.words, *made_by_regions})) or "none", unknown[0]
        advice = "give a LoRA for it" if "motion LoRA" in card.inputs else "leave it out"
        raise BadInput(f"motion {first!r}: the model does not know it by name (it knows: {names}); {advice}.")


def _parse(row: TableRow) -> JobColumns:
    if row.problem:
        raise BadInput(row.problem)
    try:
        return JobColumns.model_validate(dict(row.values))
    except ValidationError as error:
        first = error.errors()[0]
        wrong = first["msg"].removeprefix("Value error, ").lower()
        raise BadInput(f"column {first['loc'][0]}: {wrong}, not {first.get('input')!r}.") from error


def _find_first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _shorten(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Return a lineage with long lists replaced by their lengths: it is repeated in every row and every video."""
    return {k: len(v) if isinstance(v, list) and len(v) > 16 else v for k, v in lineage.items()}


def make_failure(error: ReelmillError) -> dict[str, Any]:
    """Return the columns of a job that cannot be made."""
    columns = error_columns(error)
    return {"status": "failed", **columns, "error_message": make_printable(columns["error_message"]), "attempt": 1}


def make_printable(text: str) -> str:
    """Return text that a table can hold: halves of characters, which JSON can write, are replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def make_safe_name(text: str) -> str:
    """Return text as a part of a file name that is one on every file system: in the composed form of Unicode (NFC), at
    most NAME_BYTES of UTF-8, never empty, hidden or a device of Windows.

    Letters, marks, digits and signs of all scripts stay; of ASCII only '-', '_' and '.' do. Spaces, control characters
    and what is not visible become '-'.
    """
    name = "".join(letter if _stays(letter) else " " for letter in normalize("NFC", text))
    name = _DEVICES.sub(r"\g<0>_", re.sub(" +", "-", name).strip("-."), 1)
    return name.encode()[:NAME_BYTES].decode(errors="ignore").strip("-.") or "item"


def fold_name(name: str) -> str:
    """Return what is the same for names that are one file on some file system: case and Unicode's forms apart."""
    return normalize("NFC", normalize("NFC", name).casefold())


def _stays(letter: str) -> bool:
    if letter.isascii():
        return letter.isalnum() or letter in "._-"
    return category(letter)[0] not in "CZ"


def add_prefix(prefix: str, stem: str) -> str:
    """Return a clip's name, from the prefix asked for and its picture's name, which the prefix may be or end with
    already."""
    name = make_safe_name(stem)
    if not prefix:
        return name
    return prefix if prefix == name or prefix.endswith(f"-{name}") else f"{prefix}-{stem}"
