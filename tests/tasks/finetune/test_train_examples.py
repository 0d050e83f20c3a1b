"""What training reads: the clips it asked for, a draw of noise for each batch, and clips kept apart to probe with."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from models.errors import BadInput, BadManifest
from tasks.finetune.buckets import Bucket
from tasks.finetune.encode import SCHEMA as ENCODED
from tasks.finetune.train_examples import Example, ExampleChoice, Examples, gather_examples, hold_out
from tasks.manifest import Lineage, ManifestRef, make_table, write_manifest
from tasks.tiny.render import SCHEMA as CLIPS

MADE = Lineage(step="made", version=1)


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (ExampleChoice(), ["pan_left", "static", "zoom_in", None]),
        (ExampleChoice(motions=("static", "zoom_in")), ["static", "zoom_in"]),
        (ExampleChoice(min_speed=0.3), ["pan_left", "static"]),
        (ExampleChoice(motions=("zoom_in",), min_speed=0.3), []),
    ],
)
def test_clips_are_chosen_by_motion_and_moving_ones_by_speed(choice: ExampleChoice, wanted: list):
    clips = {"pan_left": 0.3, "static": 0.0, "zoom_in": 0.2, None: 0.1}
    assert [motion for motion, speed in clips.items() if choice.wants(motion, speed)] == wanted


def test_a_speed_that_will_be_measured_is_waited_for():
    assert ExampleChoice(min_speed=0.3).wants("pan_left", None)
    assert not ExampleChoice(motions=("static",), min_speed=0.3).wants("pan_left", None)


def dataset(root: Path) -> tuple[list[ManifestRef], ManifestRef]:
    """Two clips of two windows each, one whose motion nobody measured, one that could not be encoded, and one that the
    dataset no longer has."""
    known = (("a", "pan_left", 0.5), ("b", "static", 0.0), ("d", None, None), ("short", "pan_left", 0.5))
    clips = [
        {"clip_id": name, "video_id": f"of {name}", "camera_motion": motion, "motion_score": speed}
        for name, motion, speed in known
    ]
    table = write_manifest(root / "clips.parquet", make_table(clips, CLIPS), MADE)
    shape = {"frames": 4, "width": 32, "height": 32, "fps": 7.0}
    window = shape | {"latents": "latents/x.safetensors", "motion_score": 0.1}
    rows = [window | {"clip_id": clip, "row": i} for i, clip in enumerate("aabbcd")]
    rows.append({"clip_id": "short", "error_code": "bad_media", "error_message": "short: too short."})
    return [write_manifest(root / "encoded.parquet", make_table(rows, ENCODED), MADE)], table


def test_windows_are_gathered_with_what_their_clips_measured_or_else_they_themselves(tmp_path: Path):
    found = gather_examples(tmp_path, *dataset(tmp_path), ExampleChoice())
    assert [(e.clip_id, e.source, e.row, e.shape.fps, e.motion, e.motion_bucket) for e in found] == [
        ("a", "of a", 0, 7.0, "pan_left", 85), ("a", "of a", 1, 7.0, "pan_left", 85),
        ("b", "of b", 2, 7.0, "static", 0), ("b", "of b", 3, 7.0, "static", 0), ("d", "of d", 5, 7.0, "", 17),
    ]  # fmt: skip
    assert {e.latents for e in found} == {tmp_path / "latents/x.safetensors"}


def test_latents_that_a_table_names_outside_of_its_dataset_are_not_read(tmp_path: Path):
    _, clips = dataset(tmp_path)
    row = {"clip_id": "a", "row": 0, "latents": "../x.safetensors", "fps": 7.0, "motion_score": 0.1}
    tampered = write_manifest(tmp_path / "tampered.parquet", make_table([row], ENCODED), MADE)
    with pytest.raises(BadManifest, match=r"'\.\./x\.safetensors': is outside of"):
        gather_examples(tmp_path, [tampered], clips, ExampleChoice())


def test_nothing_to_train_on_is_said_in_a_sentence(tmp_path: Path):
    encoded, clips = dataset(tmp_path)
    with pytest.raises(BadInput, match="no clip of roll, zoom_in is long enough to train on"):
        gather_examples(tmp_path, encoded, clips, ExampleChoice(motions=("roll", "zoom_in")))
    with pytest.raises(BadInput, match="no clip is long enough"):
        gather_examples(tmp_path, [], clips, ExampleChoice())


def test_a_batch_has_the_rows_asked_for_and_one_draw_of_the_noise(tmp_path: Path):
    numbers = torch.arange(3.0)
    draws = numbers[:, None] * 10 + torch.arange(2.0)
    parts = {
        "latents": numbers[:, None, None, None, None].expand(3, 4, 2, 5, 5),
        "pictures": draws[:, :, None, None, None].expand(3, 2, 2, 5, 5),
        "sigmas": draws / 100,
        "embeddings": numbers[:, None].expand(3, 7),
    }
    save_file({name: tensor.half().contiguous() for name, tensor in parts.items()}, tmp_path / "x.safetensors")
    path = tmp_path / "x.safetensors"
    windows = [Example(f"c{i}", "v", path, i, Bucket(4, 5, 5, 7.0 - i), f"m{i}", 10 * i) for i in range(3)]
    examples = Examples(windows, scaling_factor=0.5)
    batch = examples.batch([2, 0], draw=3)
    assert (len(examples), batch.motions) == (3, ["m2", "m0"])
    assert batch.latents[:, 0, 0, 0, 0].tolist() == [1, 0], "the latents are scaled"
    assert batch.pictures[:, 0, 0, 0].tolist() == [21, 1], "the condition is not"
    assert batch.embeddings.shape == (2, 7)
    torch.testing.assert_close(batch.ids, torch.tensor([[4, 20, 0.21], [6, 0, 0.01]]), rtol=1e-3, atol=1e-3)


def examples(sources: int, windows: int = 1) -> list[Example]:
    """Windows of so many sources, each of two clips."""
    named = [(f"video-{i}", f"video-{i}-clip-{j}") for i in range(sources) for j in (0, 1)]
    shape = Bucket(4, 32, 32, 7.0)
    return [Example(clip, video, Path("x"), 0, shape, "static", 0) for video, clip in named for _ in range(windows)]


def test_of_few_sources_none_is_held_out():
    assert hold_out(examples(3)) == ([0, 1, 2, 3, 4, 5], [])


def test_of_four_sources_one_is_held_out_whole():
    every = examples(4)
    train, probe = hold_out(every)
    assert (len(train), len(probe)) == (6, 2)
    assert len({every[i].source for i in probe}) == 1


def split(*sides: tuple[str, str | None]) -> list[Example]:
    """Windows of these sources, each with its side."""
    return [replace(each, source=name, side=side) for each, (name, side) in zip(examples(9), sides, strict=False)]


def test_a_dataset_that_has_a_split_keeps_it():
    every = split(("a", "train"), ("b", "validation"), ("c", None), ("d", "test"), ("a", "train"))
    assert hold_out(every) == ([0, 2, 4], [1, 3])


def test_a_split_that_leaks_is_refused_by_its_source():
    with pytest.raises(BadInput, match=r"^b: clips of this source are to be trained on and held out.*\(1 such"):
        hold_out(split(("a", "train"), ("b", "train"), ("b", "validation")))
    with pytest.raises(BadInput, match="Every clip is held out"):
        hold_out(split(("a", "test"), ("b", "test")))


@given(st.integers(4, 300), st.integers(1, 40))
def test_a_source_is_trained_on_or_held_out_but_never_both(count: int, windows: int):
    every = examples(count, windows)
    train, probe = hold_out(every)
    held = {every[i].source for i in probe}
    assert not {every[i].source for i in train} & held
    assert 1 <= len(probe) <= 48
    assert len(held) == max(1, min(count // 20, -(-24 // windows)))
    assert len(train) == 2 * windows * (count - len(held))


def test_which_sources_are_held_out_depends_on_their_names_alone():
    every = examples(400)
    held = {every[i].source for i in hold_out(every)[1]}
    turned = every[::-1]
    assert {turned[i].source for i in hold_out(turned)[1]} == held
    assert len(held) == 20
