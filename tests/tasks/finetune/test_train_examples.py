"""What training reads: the clips it asked for, a draw of noise for each batch, and clips kept apart to probe with."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from models.errors import BadInput
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
    clips = {"pan_left": 0.3, "static": 0.0, "zoom_in": 0.2, None: None}
    assert [motion for motion, speed in clips.items() if choice.wants(motion, speed)] == wanted


def dataset(root: Path) -> ManifestRef:
    """Two clips of two windows each, a third that could not be encoded, and one that the dataset no longer has."""
    clips = [
        {"clip_id": name, "camera_motion": motion, "motion_score": speed}
        for name, motion, speed in (("a", "pan_left", 0.5), ("b", "static", 0.0), ("short", "pan_left", 0.5))
    ]
    write_manifest(root / "clips.parquet", make_table(clips, CLIPS), MADE)
    rows = [{"clip_id": c, "latents": "latents/x.safetensors", "row": i} for i, c in enumerate("aabbc")]
    rows.append({"clip_id": "short", "error_code": "bad_media", "error_message": "short: too short."})
    return write_manifest(root / "encoded.parquet", make_table(rows, ENCODED), MADE)


def test_windows_are_gathered_with_what_their_clips_measured(tmp_path: Path):
    found = gather_examples(tmp_path, [dataset(tmp_path)], ExampleChoice())
    assert [(e.clip_id, e.row, e.motion, e.bucket) for e in found] == [
        ("a", 0, "pan_left", 85), ("a", 1, "pan_left", 85), ("b", 2, "static", 0), ("b", 3, "static", 0)
    ]  # fmt: skip
    assert {e.latents for e in found} == {tmp_path / "latents/x.safetensors"}


def test_nothing_to_train_on_is_said_in_a_sentence(tmp_path: Path):
    encoded = dataset(tmp_path)
    with pytest.raises(BadInput, match="no clip of roll, zoom_in is long enough to train on"):
        gather_examples(tmp_path, [encoded], ExampleChoice(motions=("roll", "zoom_in")))
    with pytest.raises(BadInput, match="no clip is long enough"):
        gather_examples(tmp_path, [], ExampleChoice())


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
    examples = Examples([Example(f"c{i}", tmp_path / "x.safetensors", i, f"m{i}", 10 * i) for i in range(3)], fps=7.0)
    batch = examples.batch([2, 0], draw=3)
    assert (len(examples), batch.motions) == (3, ["m2", "m0"])
    assert batch.latents[:, 0, 0, 0, 0].tolist() == [2, 0]
    assert batch.pictures[:, 0, 0, 0].tolist() == [21, 1]
    assert batch.embeddings.shape == (2, 7)
    torch.testing.assert_close(batch.ids, torch.tensor([[6, 20, 0.21], [6, 0, 0.01]]), rtol=1e-3, atol=1e-3)


def examples(count: int, windows: int = 1) -> list[Example]:
    return [Example(f"clip-{i // windows}", Path("x"), i, "static", 0) for i in range(count)]


def test_of_few_examples_none_is_held_out():
    assert hold_out(examples(99)) == (list(range(99)), [])


@pytest.mark.slow
@given(st.integers(100, 3000), st.integers(1, 4))
def test_a_clip_is_trained_on_or_held_out_but_never_both(count: int, windows: int):
    all_of_them = examples(count, windows)
    train, probe = hold_out(all_of_them)
    assert not {all_of_them[i].clip_id for i in train} & {all_of_them[i].clip_id for i in probe}
    assert len(probe) <= 48
    assert 0.9 * count < len(train) <= count


def test_which_clips_are_held_out_depends_on_their_names_alone():
    every = examples(400)
    held = {every[i].clip_id for i in hold_out(every)[1]}
    turned = every[::-1]
    assert {turned[i].clip_id for i in hold_out(turned)[1]} == held
    assert len(held) > 10
