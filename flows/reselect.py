"""Select: decide again which clips of a dataset are kept, from their measurements alone; nothing is computed anew."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from prefect import flow
from pydantic import Field

from flows.config import Outcome, read_settings
from flows.curate import described
from flows.running import exclusive
from models.errors import BadInput
from tasks.curate.select import Funnel, SelectConfig, reselect
from tasks.manifest import publish_text


class ReselectConfig(SelectConfig):
    """The dataset and the thresholds; what is not given stays as it was."""

    dataset: Path = Field(description="Folder of the dataset.")


class SelectOutcome(Outcome):
    """What became of the clips."""

    funnel: Funnel
    clips: Path

    def __str__(self) -> str:
        return f"{described(self.funnel)}\ntable: {self.clips}"


def stored(dataset: str) -> Mapping[str, Any]:
    """The thresholds that a dataset was last decided with."""
    path = Path(dataset) / "curate.yaml"
    return read_settings(path).get("select", {}) if path.is_file() else {}


@flow(name="select")
def select(config: ReselectConfig) -> SelectOutcome:
    """Apply the thresholds to every clip and write clips.parquet again."""
    if not config.dataset.is_dir():
        raise BadInput(f"{config.dataset}: no such folder. Name a dataset that `reelmill curate` made.")
    thresholds = SelectConfig(**config.model_dump(exclude={"dataset"}))
    with exclusive(config.dataset):
        selection = reselect(config.dataset, thresholds)
        remember(config.dataset, thresholds)
    return SelectOutcome(funnel=selection.funnel, clips=selection.clips.path)


def remember(dataset: Path, thresholds: SelectConfig) -> None:
    """Write the thresholds into the dataset's settings, so that a retry decides alike."""
    path = dataset / "curate.yaml"
    settings = (read_settings(path) if path.is_file() else {}) | {"select": thresholds.model_dump(mode="json")}
    publish_text(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120))
