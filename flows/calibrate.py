"""Measure how much motion a model makes for which motion bucket, and keep the table that jobs ask by."""

import json
import logging
from pathlib import Path

from pydantic import Field

from flows.running.config import FlowConfig, Outcome, Tally
from flows.running.run import running
from flows.running.told import told_flow
from models.device import DEVICE_HELP, DeviceName, find_device
from models.weights.names import MODEL_HELP, find_model_folder
from tasks.generate.calibrate import FILE, CalibrateConfig, calibrate_model, format_table
from tasks.manifest import read_rows

log = logging.getLogger("reelmill")


class CalibrationConfig(FlowConfig, CalibrateConfig):
    """Which model is measured, and on how many clips."""

    model: str = Field(description=f"The model: {MODEL_HELP}")
    out: Path = Field(description="Folder of the measurements and of the table")
    device: DeviceName = Field(default="auto", description=DEVICE_HELP)

    @property
    def settings(self) -> CalibrateConfig:
        """Return the part that the measurements depend on."""
        return CalibrateConfig(**{name: getattr(self, name) for name in CalibrateConfig.model_fields})


class CalibrationOutcome(Outcome):
    """The table, and where it is."""

    text: str
    table: Path

    def __str__(self) -> str:
        """Show the speeds by motion and bucket, then the file."""
        return f"{self.text}\ntable: {self.table}"


@told_flow(name="calibrate")
def calibrate(config: CalibrationConfig) -> CalibrationOutcome:
    """Generate clips over buckets and motions, measure them, and write the table."""
    check(config)
    with running(config.out, "calibrate", config) as run:
        measured = run.whole(calibrate_model, config.settings, config.model, config.device)
        rows = read_rows(measured, ("error_message",))
        failures = [row["error_message"] for row in rows if row["error_message"]]
        for failure in failures:
            log.warning("%s", failure)
        table = config.out / FILE
        text = format_table(json.loads(table.read_text())["responses"])
        tally = Tally(items=len(rows), done=len(rows) - len(failures), said=next(iter(failures), None))
        return CalibrationOutcome(failed=len(failures), tally=tally, text=text, table=table)


def check(config: CalibrationConfig) -> list[str]:
    """Return nothing; raises BadInput or BadModel where the device or the model is not here."""
    find_device(config.device)
    find_model_folder(config.model)
    return []
