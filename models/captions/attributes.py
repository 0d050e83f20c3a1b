"""A sentence about a clip, composed from its measurements; no network looks at the picture.

It names the length, the camera's motion, brightness, the main colours, how much else moves, and text on screen. Null
measurements are left out.
"""

from collections.abc import Mapping
from typing import Any

MOVES = {
    "static": "stands still before",
    "pan_left": "pans left across",
    "pan_right": "pans right across",
    "tilt_up": "tilts up over",
    "tilt_down": "tilts down over",
    "zoom_in": "zooms in on",
    "zoom_out": "zooms out of",
    "roll": "rolls {sense} over",
    "complex": "moves freely through",
}
"""What the camera does to the scene, by class of motion."""

SLOW, FAST = 0.15, 0.5
"""sides/s: below the first the camera moves slowly, from the second on quickly."""

DARK, BRIGHT = 60.0, 170.0
"""Mean luma, 0 to 255: below the first a scene is dark, from the second on bright."""

FLAT = 2.0
"""Deviation of luma, 0 to 255, below which the picture counts as empty."""

CALM, BUSY = 0.005, 0.05
"""sides/s of object motion: below the first nothing else moves, from the second on much else moves."""

VISIBLE_TEXT = 0.005
"""Share of the picture from which text is mentioned."""


def compose(clip: Mapping[str, Any]) -> str:
    """Compose the caption of a clip, whose columns are null where a step could not measure."""
    seconds = f"{clip['end_s'] - clip['start_s']:.1f}"
    return f"For {seconds} seconds, the camera {describe_camera(clip)} {describe_scene(clip)}{describe_details(clip)}."


def describe_camera(clip: Mapping[str, Any]) -> str:
    """Say what the camera does, such as "slowly pans left across"."""
    motion, strength = clip.get("camera_motion"), clip.get("camera_strength")
    if motion in (None, "unknown") or strength is None:
        return "shows"
    sense = "clockwise" if (clip.get("camera_roll") or 0.0) > 0 else "counter-clockwise"
    verb = MOVES[motion].format(sense=sense)
    if motion == "static" or SLOW <= strength < FAST:
        return verb
    return f"{'slowly' if strength < SLOW else 'quickly'} {verb}"


def describe_scene(clip: Mapping[str, Any]) -> str:
    """Say what the camera shows, such as "a dark scene in blue and grey"."""
    brightness, colours = clip.get("brightness"), clip.get("colours") or []
    tone = "" if brightness is None else "dark " if brightness < DARK else "bright " if brightness >= BRIGHT else ""
    thing = "empty picture" if (clip.get("contrast") or FLAT) < FLAT else "scene"
    article = "an" if thing.startswith("e") and not tone else "a"
    return f"{article} {tone}{thing}" + (f" in {' and '.join(colours)}" if colours else "")


def describe_details(clip: Mapping[str, Any]) -> str:
    """Say what else is in the clip, such as " where little else moves, with text on screen"."""
    moving, text = clip.get("object_motion"), clip.get("text_area")
    amount = "" if moving is None else "nothing" if moving < CALM else "much" if moving >= BUSY else "little"
    return (f" where {amount} else moves" if amount else "") + (
        ", with text on screen" if text is not None and text >= VISIBLE_TEXT else ""
    )
