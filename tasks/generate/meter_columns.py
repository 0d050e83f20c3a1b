"""The columns of a generated clip's meters: the decoding step writes them, the table of outputs collects them; and the
words for how long a clip is good.

Each one's meaning, unit and range are in tasks/generate/decode.py and models/measures/meters.py.
"""

import pyarrow as pa

METERS: tuple[pa.Field, ...] = (
    pa.field("first_frame_psnr", pa.float64()),
    pa.field("last_frame_psnr", pa.float64()),
    pa.field("motion_measured", pa.string()),
    pa.field("camera_strength", pa.float64()),
    pa.field("camera_pan", pa.float64()),
    pa.field("camera_tilt", pa.float64()),
    pa.field("camera_zoom", pa.float64()),
    pa.field("camera_roll", pa.float64()),
    pa.field("object_motion", pa.float64()),
    pa.field("motion_score", pa.float64()),
    pa.field("sharpness", pa.float64()),
    pa.field("colour", pa.float64()),
    pa.field("identity", pa.float64()),
    pa.field("flicker", pa.float64()),
    pa.field("frozen_share", pa.float64()),
    pa.field("good_until", pa.int32()),
    pa.field("good_until_reason", pa.string()),
    pa.field("sharpness_curve", pa.list_(pa.float32())),
    pa.field("colour_curve", pa.list_(pa.float32())),
    pa.field("identity_curve", pa.list_(pa.float32())),
    pa.field("flicker_curve", pa.list_(pa.float32())),
    pa.field("change_curve", pa.list_(pa.float32())),
)


def describe_length(good: int, frames: int) -> str:
    """Describe for the gate and the page until where a clip of this many frames is good."""
    return f"good until frame {good} of {frames}"
