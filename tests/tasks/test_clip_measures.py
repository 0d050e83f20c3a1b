"""Each measured column is declared once, and everything that judges or joins it finds it there."""

import pyarrow as pa

from tasks.clip_measures import JOINED, LENGTH, LOOK, MEASURES, MOTION, PHASH, SIMILARITY, TEXT, make_step_schema
from tasks.curate import join, look
from tasks.keep_rules import ABSENT, AXES, NEEDS, SelectConfig
from tasks.manifest import ERROR_FIELDS


def test_no_column_is_declared_twice():
    names = [measure.name for measure in JOINED]
    assert len(names) == len(set(names)) == len(MEASURES) - 1
    assert LENGTH.name not in names


def test_a_steps_schema_is_its_measures_between_the_clip_and_the_error():
    assert make_step_schema(LOOK) == look.SCHEMA
    assert look.SCHEMA.names[:3] == ["clip_id", "brightness", "contrast"]
    assert look.SCHEMA.field("phash").type == pa.list_(pa.string())
    assert list(look.SCHEMA)[-3:] == list(ERROR_FIELDS)


def test_what_is_bulky_stays_in_the_manifest_of_its_step_and_the_rest_is_joined_in_order():
    bulky = {measure.name for measure in SIMILARITY if measure.bulky}
    assert bulky == {"clip_similarities", "clip_model", "embedding"}
    assert not bulky & set(join.SCHEMA.names)
    order = [name for name in join.SCHEMA.names if name in {m.name for m in (*LOOK, *MOTION, *TEXT)} - {PHASH.name}]
    assert order == [measure.name for measure in (*LOOK, *MOTION, *TEXT) if measure is not PHASH]
    assert join.SCHEMA.names[-4:] == ["phash", "dedup_group", "error", "note"]


def test_every_rule_judges_a_declared_column_at_settings_that_there_are():
    for axis in AXES:
        assert axis.measure.name == axis.column
        assert axis.column in NEEDS
        for setting in filter(None, (axis.limit, axis.quantile)):
            assert (SelectConfig.model_fields[setting].description or "").startswith(f"{axis.reason}: ")
    assert {"aesthetic", "clip_similarity", "sharpness"} <= ABSENT
    assert "contrast" not in ABSENT
