"""Settings laid over one another, read from a file; what an outcome prints."""

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flows.running.config import FlowConfig, Outcome, dump, merge_layers, order_fields, read_settings
from tests.declared import declared


def test_an_empty_config_file_sets_nothing(tmp_path: Path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_settings(tmp_path / "empty.yaml") == {}


def test_an_outcome_prints_a_line_for_each_field_and_failures_only_when_there_are_any():
    class Clips(Outcome):
        kept_clips: int

    assert str(Clips(kept_clips=3)) == "kept clips: 3"
    assert str(Clips(kept_clips=3, failed=1)) == "failed: 1\nkept clips: 3"


NESTED = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)
LAYER = st.dictionaries(st.sampled_from("abc"), NESTED, max_size=3)


@given(LAYER, LAYER, LAYER)
def test_merging_settings_does_not_depend_on_the_grouping(a: dict, b: dict, c: dict):
    assert merge_layers([merge_layers([a, b]), c]) == merge_layers([a, b, c])


@given(LAYER, LAYER)
def test_the_upper_layer_keeps_all_it_sets(below: dict, above: dict):
    def covers(whole: Any, part: Any) -> bool:
        if isinstance(part, dict) and isinstance(whole, dict):
            return all(name in whole and covers(whole[name], part[name]) for name in part)
        return whole == part

    assert covers(merge_layers([below, above]), above)


def test_a_configs_own_settings_come_before_those_that_every_flow_has():
    class Ordered(FlowConfig):
        zoom: int = 1
        angle: int = 2

    assert order_fields(Ordered) == ["zoom", "angle", "workers", "runner"]
    assert dump(Ordered()) == "zoom: 1\nangle: 2\nworkers: null\nrunner: threads\n"


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(FlowConfig) == {"": "frozen=True, extra='forbid'", "workers": "None, ge=1", "runner": "'threads'"}
