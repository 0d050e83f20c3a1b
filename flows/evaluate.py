"""Measure a model on pictures it never saw; `reelmill evaluate tiny` gives the embedded model's figures."""

from pathlib import Path
from typing import Any

from pydantic import Field

from flows.running.config import FlowConfig, Outcome
from flows.running.run import running
from flows.running.told import told_flow
from models.device import DEVICE_HELP, DeviceName, find_device
from models.weights.names import MODEL_HELP, find_model_folder
from tasks.manifest import publish_json
from tasks.tiny.evaluate import EvaluateConfig, evaluate_model, format_figures, read_figures


class EvaluationConfig(FlowConfig, EvaluateConfig):
    """Which model is measured, and on how many clips."""

    model: str = Field(default="tiny", description=f"The model: {MODEL_HELP}")
    out: Path = Field(default=Path("out/tiny-eval"), description="Folder of the measurements")
    device: DeviceName = Field(default="auto", description=DEVICE_HELP)
    figures: Path | None = Field(default=None, description="File the figures are written to, as JSON")

    @property
    def settings(self) -> EvaluateConfig:
        """Return the part that the measurements depend on."""
        return EvaluateConfig(**{name: getattr(self, name) for name in EvaluateConfig.model_fields})


class EvaluationOutcome(Outcome):
    """The figures of tasks.tiny.evaluate.figures."""

    found: dict[str, Any]

    def __str__(self) -> str:
        """Show the figures as a table."""
        return format_figures(self.found)


@told_flow(name="evaluate")
def evaluate(config: EvaluationConfig) -> EvaluationOutcome:
    """Generate clips of held-out pictures, compare each with the true one, and sum up."""
    check(config)
    with running(config.out, "evaluate", config) as run:
        found = read_figures(run.whole(evaluate_model, config.settings, config.model, config.device))
        if config.figures:
            publish_json(config.figures, found)
        return EvaluationOutcome(found=found)


def check(config: EvaluationConfig) -> list[str]:
    """Return nothing; raises BadInput or BadModel where the device or the model is not here."""
    find_device(config.device)
    find_model_folder(config.model)
    return []
