"""Deciding again which clips of a dataset are kept, from their measurements alone; nothing is computed again.

`reelmill select` is this module and loads no Prefect; flows/reselect.py wraps it as a flow.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from flows.running.config import Outcome, read_settings, read_written_settings
from flows.running.layers import LayeredConfig, Preset, find_preset
from flows.running.lock import exclusive
from models.errors import BadInput
from tasks import keep_rules
from tasks.curate.select import find_measures, reselect
from tasks.keep_rules import SelectConfig
from tasks.keep_verdicts import Funnel
from tasks.manifest import publish_text

log = logging.getLogger("reelmill")


def _complete(preset: Callable[[], SelectConfig]) -> Preset:
    """Return a preset that sets every threshold, so that none of those last used remains."""
    return lambda: preset().model_dump()


PRESETS: Mapping[str, Preset] = {name: _complete(preset) for name, preset in keep_rules.PRESETS.items()}


class ReselectConfig(LayeredConfig, SelectConfig):
    """The dataset and the thresholds; what is not given stays as it was."""

    dataset: Path = Field(description="Folder of the dataset.")
    preset: Literal["default", "keep-all", "training", "paper", "worst-12.5", "worst-25", "worst-50"] | None = Field(
        default=None,
        description=f"Named settings to start from, instead of those last used: {', '.join(PRESETS)}.",
    )

    @classmethod
    def list_layers(cls, given: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Return the thresholds that the dataset was last decided with, below those of the preset."""
        stored = read_thresholds(given["dataset"]) if isinstance(given.get("dataset"), str | Path) else {}
        return [stored, find_preset(PRESETS, given.get("preset"))]

    @classmethod
    def list_layered(cls) -> set[str]:
        """Return every threshold: each may have been set before."""
        return set(SelectConfig.model_fields)


class SelectOutcome(Outcome):
    """How many clips are kept, and why the others are not."""

    funnel: Funnel
    clips: Path

    def __str__(self) -> str:
        return f"{describe_funnel(self.funnel)}\ntable: {self.clips}"


def read_thresholds(dataset: str | Path) -> Mapping[str, Any]:
    """Return the thresholds that a dataset was last decided with."""
    path = Path(dataset) / "curate.yaml"
    return read_written_settings(path).get("select", {}) if path.is_file() else {}


def decide_again(config: ReselectConfig) -> SelectOutcome:
    """Apply the thresholds to every clip and write the verdicts into clips.parquet; raises BadInput, BadManifest."""
    check(config)
    thresholds = SelectConfig(**config.model_dump(exclude={"dataset", "preset"}))
    with exclusive(config.dataset):
        selection = reselect(config.dataset, thresholds)
        remember(config.dataset, thresholds)
    for rest in selection.funnel.skipped:
        log.warning("%s.", rest)
    return SelectOutcome(funnel=selection.funnel, clips=selection.clips.path)


def check(config: ReselectConfig) -> list[str]:
    """Return nothing, since no clip fails by being judged; raises BadInput or BadManifest where there is no dataset."""
    if not config.dataset.is_dir():
        raise BadInput(f"{config.dataset}: no such folder. Name a dataset that `reelmill curate` made.")
    find_measures(config.dataset)
    return []


def remember(dataset: Path, thresholds: SelectConfig) -> None:
    """Write the thresholds into the dataset's settings, so that a retry decides alike."""
    path = dataset / "curate.yaml"
    settings = (read_settings(path) if path.is_file() else {}) | {"select": thresholds.model_dump(mode="json")}
    publish_text(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120))


def describe_funnel(funnel: Funnel) -> str:
    """Describe the funnel in two lines."""
    dropped = ", ".join(f"{reason.first} {reason.reason}" for reason in funnel.reasons if reason.first)
    kept = f"clips: {funnel.clips}, {funnel.kept} kept ({funnel.kept_seconds:.1f} of {funnel.seconds:.1f} s)"
    return f"{kept}\ndropped: {dropped or 'none'}"
