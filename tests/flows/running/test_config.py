"""Settings laid over one another, read from a file; what an outcome prints."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.running.config import FlowConfig, Outcome, dump, order_fields, read_settings
from flows.running.layers import merge_layers
from models.errors import BadInput
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

    assert order_fields(Ordered) == ["zoom", "angle", "workers", "runner", "limits"]
    assert dump(Ordered()).startswith("zoom: 1\nangle: 2\nworkers: null\nrunner: threads\nlimits:\n")


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(FlowConfig) == {
        "": "frozen=True, extra='forbid'",
        "workers": "None, ge=1",
        "runner": "'threads'",
        "limits": "Limits()",
    }


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)

MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.yaml", BOMB, "it has more than 200000 values"),
        ("a.yaml", MERGES, "it has more than 200000 values"),
        ("a.yaml", "a: &a [*a]\n", "what the anchor a names contains itself"),
        ("a.yaml", "[" * 5000, "it is more than 100 levels deep"),
        ("a.yaml", "".join(f"{' ' * n}a:\n" for n in range(150)), "it is more than 100 levels deep"),
        ("a.yaml", "a: " + ", ".join(["x"] * 3) + "\nb: [" + "x," * 200_001 + "]\n", "it has more than 200000 values"),
        ("a.yaml", "a: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
        ("a.yaml", "a: !!timestamp never\n", "a.yaml: not valid YAML: "),
        ("a.yaml", "a: !!int ''\n", "a.yaml: not valid YAML: "),
        ("a.yaml", "a: !!bool maybe\n", "a.yaml: not valid YAML: "),
        ("a.yaml", "a: 2024-13-45\n", "month must be in 1..12"),
        ("a.yaml", "? [a]\n: 1\n", "unhashable key"),
        ("a.toml", "a." * 100_000 + "a = 1\n", "it has a key of more than 32 names"),
        ("a.toml", "x = {" + '"a" . ' * 40 + "a = 1}\n", "it has a key of more than 32 names"),
        ("a.toml", "a = " + "[" * 10_000, "it is more than 100 levels deep"),
        ("a.toml", "a = " + "[" * 120 + "]" * 120, "it is more than 100 levels deep"),
        ("a.toml", "a = " + "1" * 5000, "a.toml: not valid TOML: "),
        ("a.toml", "#" * 600_000, "it is larger than 1 MB"),
    ],
)
def test_settings_past_any_use_are_one_sentence(tmp_path: Path, name: str, text: str, reason: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=re.escape(reason)) as caught:
        read_settings(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_aliases_of_a_few_values_and_dotted_keys_are_read(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: !!str 2}\n")
    assert read_settings(tmp_path / "a.yaml") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": "2"}}
    (tmp_path / "a.toml").write_text('a.b.c = 1\nd = "1.2.3.4.5.6"\n[e."f.g"]\nh = 2\n')
    assert read_settings(tmp_path / "a.toml") == {
        "a": {"b": {"c": 1}},
        "d": "1.2.3.4.5.6",
        "e": {"f.g": {"h": 2}},
    }


@given(st.text(st.sampled_from("ab&*!<:-[]{}, \n'\"#?|>01.=\\"), max_size=60), st.sampled_from(["a.yaml", "a.toml"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_is_settings_or_one_sentence(tmp_path: Path, text: str, name: str):
    (tmp_path / name).write_text(text)
    with suppress(BadInput):
        assert isinstance(read_settings(tmp_path / name), dict)
