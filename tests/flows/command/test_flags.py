"""Flags, files, presets: what wins, what is understood, and what a mistake says."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from flows.command.flags import Interface, find_nearest, list_options, parse_command_line
from flows.curate import CurateConfig
from flows.running.config import FlowConfig, dump
from flows.running.layers import find_preset
from models.errors import BadInput


class Split(BaseModel):
    """How shots become clips."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_clip_s: float = Field(default=2.0, ge=0, description="Shortest clip, in seconds.")
    threshold: float = Field(default=27.0, description="Least change of a cut: 50 % means half.")
    words: tuple[str, ...] = Field(default=("pan",), description="Motions.")
    detector: Literal["plain", "adaptive"] = Field(default="plain", description="How cuts are found.")


class Train(BaseModel):
    """How long to train."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=100, description="Optimiser steps.")


class Config(FlowConfig):
    """Sources in, clips out."""

    sources: tuple[str, ...] = Field(description="Files or folders.")
    out: Path = Field(description="The dataset's folder.")
    split: Split = Split()
    train: Train = Train()
    limit_s: float | None = Field(default=10.0, description="Time limit.")
    keep: bool = Field(default=False, description="Keep what was made on the way.")
    preset: Literal["strict"] | None = Field(default=None, description="Named settings to start from: strict.")

    @classmethod
    def list_layers(cls, given: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        return [find_preset({"strict": strict}, given.get("preset"))]


def strict() -> Mapping[str, Any]:
    return {"split": Split(min_clip_s=4.0, words=("tilt", "roll")), "limit_s": 5.0}


class Stored(Config):
    """With settings that the first source has."""

    @classmethod
    def list_layers(cls, given: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        stored = {"split": {"min_clip_s": 9, "detector": "adaptive"}, "out": f"of {given['sources'][0]}"}
        return [stored, *super().list_layers(given)]


INTERFACE = Interface("reelmill cut", Config, "sources", shortcuts={"train.steps": "steps"})


def parse(*argv: str, interface: Interface = INTERFACE) -> Config:
    config = parse_command_line(interface, argv).config
    assert isinstance(config, Config)
    return config


def mistake(*argv: str) -> str:
    with pytest.raises(BadInput) as caught:
        parse(*argv)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_field_has_a_dotted_flag_in_kebab_case():
    config = parse(
        "a", "--out", "d", "--split.min-clip-s", "1.5", "--split.detector=adaptive", "--keep", "--workers", "3"
    )
    assert (config.split.min_clip_s, config.split.detector, config.keep, config.workers) == (1.5, "adaptive", True, 3)
    assert config.split.threshold == 27.0


def test_positional_arguments_may_stand_on_both_sides_of_flags():
    assert parse("a", "b", "--out", "d", "c").sources == ("a", "b", "c")


@pytest.mark.parametrize("name", ["a,b.mp4", "[1].mp4", '{"x": 1}.mp4', "naïve film.mp4", "*.mp4", "1"])
def test_a_source_is_taken_as_it_is_written(name: str):
    assert parse(name, "--out", "d").sources == (name,)


def test_a_list_flag_can_be_given_again_or_with_commas():
    assert parse("a", "--out", "d", "--split.words", "x", "--split.words", "y").split.words == ("x", "y")
    assert parse("a", "--out", "d", "--split.words", "x,y").split.words == ("x", "y")


def test_none_switches_a_limit_off():
    assert parse("a", "--out", "d", "--limit-s", "none").limit_s is None


def test_a_shortcut_is_the_dotted_flag_by_a_short_name():
    assert parse("a", "--out", "d", "--steps", "7").train.steps == 7
    assert parse("a", "--out", "d", "--train.steps", "8").train.steps == 8


def test_flags_win_over_the_file_which_wins_over_the_preset_which_wins_over_stored_settings(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("split: {min_clip_s: 3, threshold: 9}\nlimit_s: 6\n")
    stored = Interface("reelmill cut", Stored, "sources")
    config = parse("a", "--preset", "strict", "--config", str(file), "--split.threshold", "1", interface=stored)
    assert config.split == Split(min_clip_s=3, threshold=1, words=("tilt", "roll"), detector="adaptive")
    assert (config.limit_s, config.out) == (6, Path("of a"))


def test_a_config_file_can_give_everything_in_yaml_or_toml(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("sources: [x, y]\nout: d\nsplit:\n  words: [roll]\n")
    (tmp_path / "a.toml").write_text('sources = ["x", "y"]\nout = "d"\n[split]\nwords = ["roll"]\n')
    from_yaml, from_toml = (parse("--config", str(tmp_path / name)) for name in ("a.yaml", "a.toml"))
    assert from_yaml == from_toml == Config(sources=("x", "y"), out=Path("d"), split=Split(words=("roll",)))


def test_the_dumped_configuration_is_a_config_file(tmp_path: Path):
    config = parse("ä", "--out", "d", "--limit-s", "none", "--split.words", "x,y")
    (tmp_path / "dump.yaml").write_text(dump(config), encoding="utf-8")
    assert parse("--config", str(tmp_path / "dump.yaml")) == config


def test_dry_run_and_debug_are_known_to_every_command():
    asked = parse_command_line(INTERFACE, ["a", "--out", "d", "--dry-run", "--debug"])
    assert (asked.dry_run, asked.debug) == (True, True)


def test_an_unknown_flag_names_the_near_one():
    assert mistake("a", "--out", "d", "--split.tresh", "3") == (
        "Unknown option --split.tresh: did you mean --split.threshold? See `reelmill cut --help`."
    )
    assert "did you mean --split.min-clip-s?" in mistake("a", "--out", "d", "--min-clip-s", "3")
    assert "did you mean" not in mistake("a", "--out", "d", "--qqq")


def test_an_abbreviated_flag_is_no_flag():
    assert "did you mean --limits?" in mistake("a", "--out", "d", "--limit", "3")


def test_a_flag_without_its_value_says_which():
    assert mistake("a", "--out") == "Argument --out: expected one argument. See `reelmill cut --help`."


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--split.min-clip-s", "soon", "--split.min-clip-s: input should be a valid number"),
        ("--split.min-clip-s", "-1", "--split.min-clip-s: input should be greater than or equal to 0, not '-1'."),
        ("--workers", "0", "--workers: input should be greater than or equal to 1"),
        ("--split.words", "[1", "split.words: Missing end delimiter"),
    ],
)
def test_a_wrong_value_names_its_flag(flag: str, value: str, says: str):
    assert says in mistake("a", "--out", "d", flag, value)


def test_a_pair_of_which_one_is_given_is_no_missing_flag():
    class Pair(FlowConfig):
        """A pair."""

        guidance: tuple[float, float] = (1.0, 3.0)

    with pytest.raises(BadInput, match=r"--guidance: 1 has too few values; give all of them, separated by commas"):
        parse_command_line(Interface("reelmill pair", Pair), ["--guidance", "1"])


def test_a_value_outside_the_choices_lists_them():
    message = mistake("a", "--out", "d", "--split.detector", "magic")
    assert message == "--split.detector: input should be 'plain' or 'adaptive', not 'magic'."


def test_what_is_missing_is_named_as_the_flag_that_gives_it():
    assert mistake("a") == "--out OUT is missing. See `reelmill cut --help`."
    assert mistake("--out", "d") == "SOURCE is missing. See `reelmill cut --help`."


def test_an_unknown_preset_lists_the_known_ones():
    assert (
        mistake("a", "--out", "d", "--preset", "strikt")
        == "Unknown preset 'strikt': did you mean strict? Known: strict."
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("split: {min_clip: 3}", "unknown setting 'split.min_clip': did you mean 'split.min_clip_s'?"),
        ("spilt: {min_clip_s: 3}", "unknown setting 'spilt'"),
        ("split: {min_clip_s: soon}", "split.min_clip_s: input should be a valid number"),
        ("split: 3", "split: input should be a valid dictionary or instance of Split"),
        ("- a\n- b", "a config file has `name: value` lines, this one has a list."),
        ("split: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_config_file_names_the_file_and_the_setting(tmp_path: Path, text: str, says: str):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    message = mistake("a", "--out", "d", "--config", str(file))
    assert message.startswith(f"{file}: ")
    assert says in message


def test_a_missing_config_file_is_named(tmp_path: Path):
    assert mistake("a", "--config", str(tmp_path / "no.yaml")).endswith(
        "the config file cannot be read (No such file or directory)."
    )


def test_bad_toml_is_called_toml(tmp_path: Path):
    (tmp_path / "bad.toml").write_text("a = = 3")
    assert "not valid TOML" in mistake("a", "--config", str(tmp_path / "bad.toml"))


def test_help_lists_every_field_with_its_description_and_default(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for name in list_options(Config):
        assert f"--{name.replace('_', '-')}" in text or name == "sources", name
    assert "usage: reelmill cut SOURCE... --out OUT [options]" in text
    assert "Shortest clip, in seconds. (default: 2.0)" in text
    assert "50 % means half. (default: 27.0)" in text
    assert "How shots become clips." in text
    assert "Named settings to start from: strict." in text
    assert "default: none" not in text


def test_a_config_field_may_not_hide_an_option_of_every_command():
    class Hiding(FlowConfig):
        sources: tuple[str, ...]
        debug: int = 3

    with pytest.raises(TypeError, match="hides the option --debug"):
        parse_command_line(Interface("reelmill x", Hiding, "sources"), ["a"])


@given(st.sampled_from(["--split.threshold", "--split.min-clip-s", "--out", "--workers"]))
def test_a_known_name_is_its_own_nearest(name: str):
    assert find_nearest(name, ["--split.threshold", "--split.min-clip-s", "--out", "--workers"]) == name


def test_yaml_of_a_config_reads_as_prose_for_a_person():
    assert yaml.safe_load(dump(parse("a", "--out", "d")))["split"]["words"] == ["pan"]


def numbers_of(config: type[BaseModel], *above: str) -> list[tuple[str, ...]]:
    """The settings of a config and of its groups that are fractions, each with the groups above it."""
    found = []
    for name, info in config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += numbers_of(info.annotation, *above, name)
        elif info.annotation in (float, float | None):
            found.append((*above, name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_no_setting_of_curation_is_endless_or_no_number(number: str):
    settings = numbers_of(CurateConfig)
    assert ("scan", "frames_per_s") in settings
    for setting in settings:
        flag = f"--{'.'.join(setting).replace('_', '-')}"
        with pytest.raises(BadInput, match=re.escape(f"{flag}: input should be ")):
            parse_command_line(Interface("reelmill curate", CurateConfig, "sources"), ["a", "--out", "b", flag, number])
