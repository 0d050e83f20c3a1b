"""What models were measured to take on the devices of this machine: a small file in the user's cache.

Plans and estimates of time use a measured figure in place of an estimated one. No result depends on it, and the file
can be deleted at any time. It is $XDG_CACHE_HOME/reelmill/costs.json, by default in ~/.cache.
"""

import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from models.device import format_device

FORMAT = 1

MUCH = 1.1
"""A figure is written again where it is off by more than this factor."""

log = logging.getLogger("reelmill")


@dataclass(frozen=True)
class Cost:
    """The cost of one latent cell of one frame of one branch of guidance: bytes at the peak beside the weights, where
    they were seen, and seconds (of one denoising step, or of decoding)."""

    seconds: float
    bytes: float | None = None


Costs = Mapping[str, Cost]
"""By the rung of a plan, with "decoded " before it for decoding; those of one model on one device."""


def locate_costs() -> Path:
    """Return where the figures are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reelmill" / "costs.json"


def name_place(revision: str, device: torch.device, precision: str) -> str:
    """Return the name that figures of one model on one device are kept by; all GPUs of one name are alike."""
    return f"{revision} {precision} {format_device(device)}"


def read_costs(place: str, path: Path | None = None) -> dict[str, Cost]:
    """Return the figures of one model on one device; none where nothing was measured or the file cannot be used."""
    return _read(path or locate_costs()).get(place, {})


def learn_cost(place: str, rung: str, seen: Cost, path: Path | None = None) -> None:
    """Keep a figure if it says something new: more bytes than known, or a much shorter time."""
    path = path or locate_costs()
    known = _read(path)
    before = known.get(place, {}).get(rung)
    cost = seen if before is None else _join(before, seen)
    if cost == before or not math.isfinite(seen.seconds) or seen.seconds <= 0:
        return
    known.setdefault(place, {})[rung] = cost
    table = {where: {name: asdict(each) for name, each in own.items()} for where, own in sorted(known.items())}
    try:
        _publish(path, json.dumps({"format": FORMAT, "costs": table}, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        log.warning("%s: what was measured cannot be kept (%s).", path, error.strerror)


def _join(before: Cost, seen: Cost) -> Cost:
    """Join the figures of two measurements: the most bytes, and the shortest time; small changes count as none."""
    most = max((each for each in (before.bytes, seen.bytes) if each is not None), default=None)
    faster, more = seen.seconds * MUCH < before.seconds, (most or 0) > MUCH * (before.bytes or 0)
    return Cost(seen.seconds if faster else before.seconds, most if more else before.bytes)


def _read(path: Path) -> dict[str, dict[str, Cost]]:
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s: not a table of costs (%s). It is not used, and written anew.", path, error)
        return {}


def _parse(content: Any) -> dict[str, dict[str, Cost]]:
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {content['format']!r}")
    return {place: {rung: _parse_cost(each) for rung, each in own.items()} for place, own in content["costs"].items()}


def _parse_cost(noted: Mapping[str, Any]) -> Cost:
    figures = [float(noted["seconds"]), *([] if noted["bytes"] is None else [float(noted["bytes"])])]
    if not all(math.isfinite(figure) and figure > 0 for figure in figures):
        raise ValueError(f"{figures} are no costs")
    return Cost(*figures)


def _publish(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as aside:
        aside.write(text)
    Path(aside.name).replace(path)
