"""The form is the command: Prefect's form untouched, the quick run and no flags are the same settings."""

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel, TypeAdapter, ValidationError

from flows.command.flags import parse_command_line
from flows.command.main import COMMANDS, find_command, make_interface
from flows.pipeline import PipelineConfig, make_curate_config, make_finetune_config
from flows.running.layers import merge_layers
from tasks.curate.split import SplitConfig

NEEDED: Mapping[str, dict[str, Any]] = {
    "curate": {"sources": ["footage"], "out": "dataset"},
    "select": {"dataset": "dataset"},
    "export": {"dataset": "dataset", "out": "shards"},
    "finetune": {"dataset": "dataset", "out": "run"},
    "generate": {"jobs": "pictures", "out": "videos"},
    "calibrate": {"model": "tiny", "out": "calibration"},
    "evaluate": {},
    "tiny": {},
    "pipeline": {"sources": ["footage"], "jobs": "pictures", "out": "pipeline"},
    "demo": {},
}
"""What each flow needs."""

CHOICES: Mapping[str, list[dict[str, Any]]] = {
    "curate": [{}, {"preset": "paper-offline"}, {"preset": "svd"}, {"split": {"min_clip_s": 2.5}}, {"workers": 3}],
    "select": [{}, {"preset": "paper"}, {"min_motion": 0.5}],
    "export": [{}, {"to": "csv"}, {"split": {"test": 0.3}}],
    "finetune": [{}, {"recipe": "image-to-video"}, {"train": {"steps": 40}}, {"train": {"rank": 4}}],
    "generate": [{}, {"takes": 2}, {"gate": {"extra_takes": 1}}, {"until": "06:00"}],
    "calibrate": [{}],
    "evaluate": [{}],
    "tiny": [{}, {"train": {"batch": 4}}],
    "pipeline": [{}, {"recipe": "image-to-video"}, {"train": {"steps": 40}}, {"split": {"min_clip_s": 2.5}}],
    "demo": [{}, {"train": {"steps": 40}}],
}
"""What else a person may have chosen."""


def find_flow(name: str) -> Flow[..., Any]:
    module = "flows.reselect" if name == "select" else find_command(name).module
    return getattr(importlib.import_module(module), name)


def config_of(name: str) -> type[BaseModel]:
    command = find_command(name)
    return make_interface(command, importlib.import_module(command.module)).config


@cache
def form(name: str) -> dict[str, Any]:
    """The schema of a flow's form, with every reference in its place."""
    schema = parameter_schema(find_flow(name)).model_dump()
    assert list(schema["properties"]) == ["config"], "no parameter of our own is shown"

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(each) for each in part]
        if not isinstance(part, dict):
            return part
        found = part
        if "$ref" in part:
            own = {key: value for key, value in part.items() if key != "$ref"}
            found = schema["definitions"][part["$ref"].rpartition("/")[2]] | own
        return {key: resolve(value) for key, value in found.items()}

    return resolve(schema["properties"]["config"])


def list_defaults(shown: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The defaults that a form fills in, each with its place: those of a group's fields where it shows fields."""
    for name, field in shown["properties"].items():
        if "properties" in field:
            yield from list_defaults(field, (*above, name))
        elif "default" in field:
            yield (*above, name), field["default"]


def nest(sent: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    nested: list[dict[str, Any]] = []
    for place, value in sent.items():
        inner = value
        for name in reversed(place):
            inner = {name: inner}
        nested.append(inner)
    return merge_layers(nested)


@pytest.fixture(autouse=True, scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A dataset with what it was last decided and cut with, in the current folder."""
    folder = tmp_path_factory.mktemp("forms")
    (folder / "dataset").mkdir()
    kept = {"select": {"min_motion": 0.3, "max_text_area": None}, "clips": {"mode": "copy", "crf": 20}}
    (folder / "dataset" / "curate.yaml").write_text(yaml.safe_dump(kept))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def test_every_flow_of_the_table_is_looked_at():
    assert set(NEEDED) == {command.name for command in COMMANDS if command.watched or command.name == "select"} - {
        "retry"
    }


@pytest.mark.parametrize("name", NEEDED)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_sending_any_default_changes_nothing(name: str, data: st.DataObject):
    config, defaults = config_of(name), dict(list_defaults(form(name)))
    chosen = NEEDED[name] | data.draw(st.sampled_from(CHOICES[name]))
    sent = data.draw(st.one_of(st.just(list(defaults)), st.lists(st.sampled_from(sorted(defaults)), unique=True)))
    full = merge_layers([nest({place: defaults[place] for place in sent}), chosen])
    assert config.model_validate(full) == config.model_validate(chosen)


@pytest.mark.parametrize("name", NEEDED)
def test_no_flags_are_the_quick_run_and_the_untouched_form(name: str):
    command, config = find_command(name), config_of(name)
    interface = make_interface(command, importlib.import_module(command.module))
    place = command.positional
    words = [str(each) for each in NEEDED[name].get(place or "", [])] if place == "sources" else []
    words = words or ([str(NEEDED[name][place])] if place and place in NEEDED[name] else [])
    flags = [part for key, value in NEEDED[name].items() if key != place for part in (f"--{key}", str(value))]
    typed = parse_command_line(interface, [*words, *flags]).config
    untouched = merge_layers([nest(dict(list_defaults(form(name)))), NEEDED[name]])
    sent = find_flow(name).validate_parameters({"config": untouched})["config"]
    quick = find_flow(name).validate_parameters({"config": NEEDED[name]})["config"]
    assert typed == quick == sent == config.model_validate(NEEDED[name])


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_needed_comes_first_and_groups_come_last(name: str):
    shown = form(name)
    fields, needed = shown["properties"], shown.get("required", [])
    assert list(fields)[: len(needed)] == needed
    folded = ["properties" in field for field in fields.values()]
    assert folded == sorted(folded)
    assert [field["position"] for field in fields.values()] == list(range(len(fields)))


def test_presets_and_recipes_are_words_of_the_form():
    assert form("curate")["properties"]["preset"]["enum"] == ["offline", "paper-offline", "svd"]
    for name in ("finetune", "pipeline"):
        assert form(name)["properties"]["recipe"]["enum"] == ["motion-lora", "image-to-video"]


def test_what_a_recipe_sets_holds_under_a_part_of_its_group():
    trained = make_finetune_config(
        PipelineConfig.model_validate(NEEDED["pipeline"] | {"recipe": "image-to-video", "train": {"rank": 4}})
    ).train
    assert (trained.parameters, trained.steps, trained.ema, trained.rank) == ("all", 400, 0.998, 4)
    demo = config_of("demo").model_validate({"train": {"steps": 40}})
    assert (demo.train.steps, demo.train.crop) == (40, 8)  # pyright: ignore[reportAttributeAccessIssue]


def test_one_shortest_length_holds_in_the_pipeline_as_in_curation():
    chosen = NEEDED["pipeline"] | {"split": {"min_clip_s": 2.5}}
    assert make_curate_config(PipelineConfig.model_validate(chosen)).select.min_clip_s == 2.5
    whole = PipelineConfig.model_validate(NEEDED["pipeline"] | {"split": SplitConfig(min_clip_s=2.5)})
    assert whole.select.min_clip_s == 2.5


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("curate", {"split": {"min_clip_s": -1}}),
        ("curate", {"preset": "svdd"}),
        ("finetune", {"train": {"steps": 0}}),
        ("generate", {"crf": 99}),
        ("generate", {"stpes": 3}),
        ("pipeline", {"recipe": "none"}),
        ("curate", {"sources": []}),
    ],
)
def test_what_the_command_refuses_the_form_refuses_when_it_is_sent(name: str, wrong: dict[str, Any]):
    from prefect.utilities.schema_tools.validation import is_valid_schema, validate

    schema = parameter_schema(find_flow(name)).model_dump()
    is_valid_schema(schema, preprocess=False)
    assert validate({"config": NEEDED[name]}, schema, raise_on_error=False, preprocess=False) == []
    assert validate({"config": NEEDED[name] | wrong}, schema, raise_on_error=False, preprocess=False) != []
    with pytest.raises(ValidationError):
        TypeAdapter(config_of(name)).validate_python(NEEDED[name] | wrong)


def test_the_deployed_flows_have_no_other_parameter(repository: Path):
    for each in yaml.safe_load((repository / "prefect.yaml").read_text())["deployments"]:
        flow = load_flow_from_entrypoint(f"{repository}/{each['entrypoint']}")
        assert list(parameter_schema(flow).properties) == ["config"]
        assert flow.validate_parameters(each["parameters"])
