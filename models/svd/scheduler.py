"""The schedulers that models/svd/sampling.py can replace: the network must be trained for what the sampler does with
it.

Steps and noise levels are chosen here (Euler's method over Karras' levels), whatever a scheduler's class would do. What
the network predicts, how it sees the noise, and between which levels, are the model's own.
"""

import logging
from functools import cache
from pathlib import Path

from models.errors import BadModel
from models.weights.pipeline_folder import read_json_object

TRAINED_FOR = {"prediction_type": "v_prediction", "timestep_type": "continuous"}
"""As Stable Video Diffusion's scheduler_config.json says it: v is predicted, and told ln(sigma) / 4."""

SAMPLED_BY = {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}

log = logging.getLogger("reelmill")


def check_scheduler(folder: Path) -> None:
    """Raise BadModel when a model folder's scheduler belongs to a network that needs another sampler than this
    project's; log once when its steps would differ."""
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        raise BadModel(f"{path}: the file is missing. Copy the model's folder again.")
    config = read_json_object(path)
    for name, ours in TRAINED_FOR.items():
        if config.get(name) != ours:
            raise BadModel(
                f"{path}: {name} is {config.get(name)}, and what is sampled here is {ours}, as Stable Video Diffusion. "
                "Name another model, or correct the file if it is wrong."
            )
    low, high = config.get("sigma_min"), config.get("sigma_max")
    if not (isinstance(low, int | float) and isinstance(high, int | float) and 0 < low < high):
        raise BadModel(
            f"{path}: sigma_min {low} and sigma_max {high} are no range of noise levels; put the model's own there "
            "(0.002 and 700 for Stable Video Diffusion)."
        )
    others = [f"{name} {config.get(name)}" for name, ours in SAMPLED_BY.items() if config.get(name) != ours]
    if others:
        asked = ", ".join(others)
        _say(f"{path}: {asked} is not followed: every model is sampled by Euler's method over Karras' noise levels.")


@cache
def _say(text: str) -> None:
    log.warning("%s", text)
