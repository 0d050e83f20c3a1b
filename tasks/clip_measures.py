"""What is measured of clips: every measured column, declared once, under the step that measures it.

A step takes its schema from here, `join` the columns of clips.parquet, the rules (tasks/keep_rules.py) the columns that
they judge, and the pages the words and the unit of each column. How a column is measured is described in its step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.manifest import ERROR_FIELDS

NO_WEIGHTS = "They need weights that this run did not have."
OLDER = "This dataset was made before this was measured."


class Measure(NamedTuple):
    """A measured column: its name and type, its name in words, and its unit, range and direction.

    `absent` says why a whole dataset may lack it, where it may: a rule on it is then ignored. A `bulky` column stays in
    the manifest of its step, and is not joined.
    """

    name: str
    type: pa.DataType
    words: str
    unit: str = ""
    absent: str = ""
    bulky: bool = False

    @property
    def field(self) -> pa.Field:
        """Return the column as a field of a schema."""
        return pa.field(self.name, self.type)


FLOAT, INTEGER, TEXT_TYPE = pa.float32(), pa.int32(), pa.string()
TEXTS, FLOATS = pa.list_(TEXT_TYPE), pa.list_(FLOAT)

LENGTH = Measure("seconds", pa.float64(), "length", "seconds")
"""A clip's length is `end_s` less `start_s`, and no column."""

PHASH = Measure("phash", TEXTS, "perceptual hashes of the first, middle and last frame", "16 hexadecimal digits each")

LOOK = (
    Measure("brightness", FLOAT, "mean luma", "0 to 255"),
    Measure("contrast", FLOAT, "contrast", "deviation of luma, 0 to 255"),
    Measure("colours", TEXTS, "names of the colours", "the most of the picture first"),
    PHASH,
    Measure("sharpness", FLOAT, "sharpness", "0 blurred to 1 sharp", absent=OLDER),
    Measure("exposure", FLOAT, "exposure", "-1 crushed to black, 0 neither, 1 blown out to white"),
    Measure("blockiness", FLOAT, "blockiness", "1 no grid of a codec, 2 a plain one", absent=OLDER),
    Measure("bar_top", INTEGER, "height of the black bar at the top", "pixels"),
    Measure("bar_bottom", INTEGER, "height of the black bar at the bottom", "pixels"),
    Measure("bar_left", INTEGER, "width of the black bar on the left", "pixels"),
    Measure("bar_right", INTEGER, "width of the black bar on the right", "pixels"),
    Measure("crop", TEXT_TYPE, "what removes the bars", "w:h:x:y, null without bars"),
    Measure("combing", FLOAT, "combing of interlaced fields", "0 none, from 0.5 combed", absent=OLDER),
)

MOTION = (
    Measure("motion_score", FLOAT, "motion score", "sides/s"),
    Measure("camera_motion", TEXT_TYPE, "class of the camera's motion"),
    Measure("camera_strength", FLOAT, "speed of the camera's motion", "sides/s"),
    Measure("camera_pan", FLOAT, "speed of the camera's pan", "sides/s, positive to the right"),
    Measure("camera_tilt", FLOAT, "speed of the camera's tilt", "sides/s, positive upwards"),
    Measure("camera_zoom", FLOAT, "speed of the camera's zoom", "ln of magnification per second, positive inwards"),
    Measure("camera_roll", FLOAT, "speed of the camera's roll", "degrees per second, positive clockwise"),
    Measure("object_motion", FLOAT, "motion that is not the camera's", "sides/s"),
)

TEXT = (
    Measure("text_area", FLOAT, "text area", "share of the picture"),
    Measure("text_area_max", FLOAT, "largest text area of a frame", "share of the picture"),
    Measure("text_static_area", FLOAT, "area of text that stays in place", "share of the picture"),
    Measure("text_boxes", INTEGER, "largest number of text boxes of a frame"),
)

CAPTION = (
    Measure("caption", TEXT_TYPE, "caption to train with"),
    Measure("caption_image", TEXT_TYPE, "caption of the middle frame"),
    Measure("caption_video", TEXT_TYPE, "caption of several frames"),
    Measure("caption_engine", TEXT_TYPE, "engine that wrote the caption"),
    Measure("caption_model", TEXT_TYPE, "model that wrote `caption`"),
    Measure("caption_image_model", TEXT_TYPE, "model that wrote `caption_image`"),
    Measure("caption_video_model", TEXT_TYPE, "model that wrote `caption_video`"),
    Measure("caption_note", TEXT_TYPE, "which captions nobody was asked for"),
)

SIMILARITY = (
    Measure("clip_similarity", FLOAT, "likeness of caption and picture", "cosine", absent=NO_WEIGHTS),
    Measure("clip_similarity_image", FLOAT, "likeness of `caption_image` and picture", "cosine"),
    Measure("clip_similarity_video", FLOAT, "likeness of `caption_video` and picture", "cosine"),
    Measure("clip_similarities", FLOATS, "likeness of caption and each frame", "cosines", bulky=True),
    Measure("aesthetic", FLOAT, "aesthetic score", "about 1 to 10", absent=NO_WEIGHTS),
    Measure("similarity_note", TEXT_TYPE, "why likeness or aesthetics were not measured"),
    Measure("clip_model", TEXT_TYPE, "revision of CLIP", bulky=True),
    Measure("embedding", FLOATS, "CLIP's embeddings of the first, middle and last frame", bulky=True),
)

DEDUP = (Measure("dedup_group", TEXT_TYPE, "group of clips that look alike", "the first one's clip_id"),)

STILL_CHANGE = 0.05
"""A frame whose change, 0 to 255, is less shows the same picture as the one before."""

JOIN = (
    Measure("change", FLOAT, "mean change from frame to frame", "0 identical to 255"),
    Measure("frozen_s", FLOAT, "longest freeze", "seconds", absent=OLDER),
    Measure("fineness", FLOAT, "true detail", "0 to 1, of what the pixels can show; low: enlarged", absent=OLDER),
)
"""What `join` works out of the scan's signals."""

JOINED = (
    *JOIN,
    *(each for each in (*LOOK, *MOTION, *TEXT, *CAPTION, *SIMILARITY) if each is not PHASH and not each.bulky),
    PHASH,
    *DEDUP,
)
"""The measured columns of clips.parquet; the hashes stand beside the groups that are made of them."""

MEASURES = {measure.name: measure for measure in (LENGTH, *JOINED)}


def make_step_schema(measures: Sequence[Measure]) -> pa.Schema:
    """Return the schema of a step that measures these columns of each clip."""
    return pa.schema([("clip_id", pa.string()), *(measure.field for measure in measures), *ERROR_FIELDS])


def find_excused(clips: pa.Table) -> NDArray[np.bool_]:
    """Return which clips are too short to be measured, as their `note` says, which older datasets lack."""
    return clips["note"].is_valid().to_numpy() if "note" in clips.column_names else np.zeros(len(clips), bool)
