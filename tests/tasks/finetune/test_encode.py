"""Clips become windows at the right times, latents that do not change, and rows that say what could not be encoded."""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from models.generation.model_cache import get_model
from models.svd import model as model_module
from models.svd.autoencoder import encode_frames
from models.svd.image_encoder import new_image_encoder
from models.svd.model import VideoModel, digest_encoders, embed_pictures, load_model, save_model
from tasks.finetune import encode as encode_step
from tasks.finetune.encode import (
    SCHEMA,
    STEP,
    ClipSpan,
    LatentsConfig,
    SourceClips,
    add_noise,
    encode_clips,
    encode_windows,
    remove_orphans,
)
from tasks.finetune.windows import cover, pick_shown, place_windows
from tasks.footage import Camera, Scene, compute_mean_flow, render_shot
from tasks.ledger import mark
from tasks.manifest import ManifestRef, digest_file, publish, read_manifest, read_rows
from tasks.media.video import write_video
from tests.declared import declared

CONFIG = LatentsConfig()


@pytest.mark.parametrize(
    ("span", "at_most", "starts"),
    [
        ((0.0, 1.0), 4, [0.0]),
        ((2.0, 4.0), 4, [2.0, 3.0]),
        ((2.0, 4.5), 4, [2.125, 3.375]),
        ((0.0, 9.0), 2, [1.75, 6.25]),
        ((0.0, 0.9), 4, [0.0]),
        ((0.0, 0.8), 4, []),
        ((5.0, 5.0), 4, []),
    ],
)
def test_windows_of_a_second_are_spread_over_the_span(span, at_most, starts):
    assert place_windows(*span, frames=4, fps=4.0, at_most=at_most) == pytest.approx(starts)


@given(st.floats(0, 1e4), st.floats(0, 100), st.integers(1, 30), st.floats(1, 60), st.integers(1, 9))
def test_windows_fit_their_span_and_do_not_overlap(start, seconds, frames, fps, at_most):
    length, end = frames / fps, start + seconds
    starts = place_windows(start, end, frames, fps, at_most)
    assert len(starts) <= at_most
    assert all(start <= each <= end - length + 0.5 / fps + 1e-6 for each in starts)
    assert all(after - before >= length - 1e-6 for before, after in pairwise(starts))
    assert bool(starts) == (seconds + 0.5 / fps >= length) or math.isclose(seconds + 0.5 / fps, length, abs_tol=1e-6)


def shown(times: list, wanted: list) -> list[int]:
    """The number of the frame shown at each wanted time."""
    return pick_shown([(time, number) for number, time in enumerate(times)], wanted, lambda number: number)


def test_the_frame_shown_at_a_time_is_the_last_one_until_then():
    assert shown([0, 1, 2], [0.0, 0.5, 0.99, 1.0, 7.0]) == [0, 0, 0, 1, 2]
    assert shown([1.0, 2.0], [0.2]) == [0]
    assert shown([Fraction(1, 3), Fraction(2, 3)], [0.666666, 0.6666666666]) == [1, 1]
    assert shown([], [0.0]) == []


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=30, unique=True), st.lists(st.integers(0, 12_000)))
def test_no_frame_is_shown_before_its_time_nor_after_the_next_ones(times, wanted):
    times, wanted = sorted(times), sorted(wanted)
    for index, time in zip(shown(times, wanted), wanted, strict=True):
        assert times[index] <= time or index == 0
        assert index == len(times) - 1 or time < times[index + 1]


def test_a_picture_covers_the_size_and_loses_the_same_on_both_sides():
    frame = np.zeros((20, 60, 3), np.uint8)
    frame[:, 20:40] = 200
    assert (cover(frame, 20, 20) == 200).all()
    assert (cover(frame.transpose(1, 0, 2).copy(), 20, 20) == 200).all()
    assert (cover(np.full((30, 10, 3), 7, np.uint8), 64, 32) == 7).all()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
def test_a_covered_size_is_the_one_asked_for(height, width, to_width, to_height):
    assert cover(np.zeros((height, width, 3), np.uint8), to_width, to_height).shape == (to_height, to_width, 3)


def test_the_noise_on_a_picture_has_the_deviation_it_says():
    noised, sigmas = add_noise(torch.zeros(2, 3, 64, 64), LatentsConfig(condition_draws=50), seed=1)
    assert torch.allclose(noised.std((2, 3, 4)), sigmas, rtol=0.05)
    assert sigmas.log().mean().item() == pytest.approx(-3.0, abs=0.2)
    assert sigmas.log().std().item() == pytest.approx(0.5, abs=0.15)


def test_the_noise_on_a_picture_depends_on_the_seed_alone():
    pictures = torch.zeros(1, 3, 8, 8)
    first, again, other = (add_noise(pictures, CONFIG, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_training_reads_is_the_models_own_encoding(model: str):
    loaded = load_model(model)
    windows = [render_shot(Scene(seed), Camera(pan=0.3), 4, 7, (32, 32)) for seed in (1, 2)]
    encoded = encode_windows(loaded, windows, LatentsConfig(noise_log_mean=-30.0), seed=3)
    assert {name: tuple(t.shape) for name, t in encoded.items()} == {
        "latents": (2, 4, 4, 8, 8), "pictures": (2, 4, 4, 8, 8), "sigmas": (2, 4), "embeddings": (2, 64)
    }  # fmt: skip
    assert {t.dtype for t in encoded.values()} == {torch.float16}
    frames = torch.from_numpy(windows[1]).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert_close(encoded["latents"][1], encode_frames(loaded.vae, frames))
    assert_close(encoded["pictures"][1, 2], encode_frames(loaded.vae, frames[:1])[0])
    assert_close(encoded["embeddings"][1], embed_pictures(loaded, frames[:1])[0])


def assert_close(half: Tensor, whole: Tensor) -> None:
    torch.testing.assert_close(half.float(), whole, rtol=2e-3, atol=2e-3)


def encode(root: Path, *sources: SourceClips, config: LatentsConfig = CONFIG) -> list[ManifestRef]:
    return encode_clips.fn(root, config, list(sources))


def test_a_clip_becomes_a_row_for_each_window_and_a_tensor_for_each_row(tmp_path: Path, films):
    one, other = encode(tmp_path, films(tmp_path, spans=((0.0, 0.6), (0.8, 2.0))))
    assert read_manifest(one).schema == SCHEMA
    rows = [*read_rows(one), *read_rows(other)]
    found = [(r["clip_id"], r["window"], round(r["start_s"], 3), r["fps"], r["row"], r["attempt"]) for r in rows]
    assert found == [
        ("pan_left-0-0", 0, 0.014, 7.0, 0, 1),
        ("pan_left-0-1", 0, 0.814, 7.0, 0, 1),
        ("pan_left-0-1", 1, 1.414, 7.0, 1, 1),
    ]
    assert len({row["latents"] for row in rows}) == 2, "a file for each clip"
    assert len(load_file(tmp_path / rows[2]["latents"])["latents"]) == 2


def test_the_motion_of_each_window_is_measured(tmp_path: Path, films):
    moving, still = (read_rows(encode(tmp_path, films(tmp_path, motion=m))[0]) for m in ("pan_left", "static"))
    assert [row["motion_score"] for row in moving] == pytest.approx([compute_mean_flow("pan_left", 0.5)] * 3, rel=0.2)
    assert max(row["motion_score"] for row in still) < 0.05


def test_a_clip_more_or_less_encodes_no_other(tmp_path: Path, films):
    both = films(tmp_path, spans=((0.0, 0.6), (0.8, 1.4)))
    encode(tmp_path, both)
    fewer = replace(both, clips=both.clips[1:])
    assert [made.cached for made in encode(tmp_path, fewer)] == [True]
    more = replace(both, clips=(*both.clips, ClipSpan("new", 1.3, 2.0)))
    assert [made.cached for made in encode(tmp_path, more)] == [True, True, False]


def test_windows_are_the_same_however_many_are_read_at_once(tmp_path: Path, films, monkeypatch: pytest.MonkeyPatch):
    source = films(tmp_path)
    (whole,) = encode(tmp_path / "whole", source)
    monkeypatch.setattr(encode_step, "WINDOWS_AT_ONCE", 1)
    (one_by_one,) = encode(tmp_path / "single", source)
    assert whole.digest == one_by_one.digest
    (name,) = {row["latents"] for row in read_rows(whole)}
    one, other = (load_file(tmp_path / root / name) for root in ("whole", "single"))
    assert len(one["latents"]) == 3
    assert all(torch.equal(tensor, other[part]) for part, tensor in one.items())


def test_a_source_slower_than_the_model_is_read_at_its_own_rate_without_held_frames(tmp_path: Path, films):
    source = films(tmp_path)
    path = tmp_path / "slow.mp4"
    write_video(path, render_shot(Scene(5, movers=0), Camera.doing("pan_left"), 8, 3.5, (48, 36)), 3.5, crf=10)
    slow = replace(source, source=path, digest=digest_file(path), clips=(ClipSpan("slow", 0.0, 8 / 3.5, fps=3.5),))
    (made,) = encode(tmp_path, slow)
    first, *_ = rows = read_rows(made)
    assert [(row["fps"], row["error_code"]) for row in rows] == [(3.5, None)] * 2
    latents = load_file(tmp_path / first["latents"])["latents"][0].float()
    steps = (latents[1:] - latents[:-1]).abs().amax((1, 2, 3))
    assert steps.min() > 0.05, "no frame is shown twice"


def test_latents_that_no_manifest_names_are_removed_and_foreign_files_stay(tmp_path: Path, films):
    mark(tmp_path, "curate", "1")
    (made,) = encode(tmp_path, films(tmp_path))
    (tmp_path / "latents/mine.safetensors").write_text("mine")
    kept = tmp_path / read_rows(made)[0]["latents"]
    with publish(tmp_path / "latents/orphan.safetensors") as aside:
        aside.write_text("left by a killed run")
    assert remove_orphans(tmp_path) == [tmp_path / "latents/orphan.safetensors"]
    assert sorted(path.name for path in (tmp_path / "latents").iterdir()) == sorted([kept.name, "mine.safetensors"])


def test_a_clip_shorter_than_the_models_frames_is_a_row_with_the_reason_and_stops_no_other(tmp_path: Path, films):
    short, good = encode(tmp_path, films(tmp_path, spans=((0.0, 0.2), (0.8, 2.0))))
    (row,) = read_rows(short)
    assert (row["clip_id"], row["error_code"], row["latents"]) == ("pan_left-0-0", "bad_media", None)
    assert row["error_message"] == (
        "pan_left-0.mp4, 0.00 to 0.20 s: 0.20 s is too short: 4 frames take 0.57 s. --encode.frames asks for shorter "
        "windows."
    )
    assert {row["error_code"] for row in read_rows(good)} == {None}


def test_a_clip_has_the_longest_windows_that_fit_and_none_is_too_short_by_a_rounding(tmp_path: Path, films):
    """diffusion-pipe 113: clips of exactly a window's length were dropped as too short."""
    source = films(tmp_path, spans=((0.0, 4 / 7), (0.0, 0.5714), (0.7, 1.0), (0.0, 2.0)))
    made = encode(tmp_path, source, config=LatentsConfig(frames=(2, 4, 9)))
    assert [{row["frames"] for row in read_rows(one)} for one in made] == [{4}, {4}, {2}, {9}]
    (latents,) = {row["latents"] for row in read_rows(made[2])}
    assert load_file(tmp_path / latents)["latents"].shape[:2] == (1, 2)


def test_a_portrait_film_goes_to_a_portrait_bucket_whole(tmp_path: Path, films):
    source, path = films(tmp_path), tmp_path / "tall.mp4"
    write_video(path, render_shot(Scene(5, movers=0), Camera.doing("pan_left"), 7, 7.0, (36, 60)), 7.0, crf=10)
    tall = ClipSpan("tall", 0.0, 1.0, fps=7.0, size=(36, 60))
    (made,) = encode(tmp_path, replace(source, source=path, digest=digest_file(path), clips=(tall,)))
    (row,) = read_rows(made)
    assert (row["width"], row["height"]) == (24, 40)
    assert load_file(tmp_path / row["latents"])["latents"].shape[-2:] == (10, 6)


def test_a_picture_is_a_window_of_one_frame_that_does_not_move(tmp_path: Path, films):
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "teal").save(path)
    picture = SourceClips(
        path, digest_file(path), (ClipSpan("p", 0.0, 0.0, size=(64, 64)),), films(tmp_path).encoders, "png_pipe"
    )
    (made,) = encode(tmp_path, picture)
    (row,) = read_rows(made)
    assert (row["frames"], row["width"], row["motion_score"], row["error_code"]) == (1, 32, 0.0, None)
    assert load_file(tmp_path / row["latents"])["latents"].shape == (1, 1, 4, 8, 8)


def test_the_encoders_are_read_once_for_a_revision(monkeypatch, model):
    loaded, asked = load_model(model), []
    whole = model_module._digest_encoders
    monkeypatch.setattr(model_module, "_ENCODERS", {})
    monkeypatch.setattr(model_module, "_digest_encoders", lambda each: asked.append(each) or whole(each))
    assert len({digest_encoders(loaded), digest_encoders(loaded)}) == 1
    assert len(asked) == 1
    digest_encoders(replace(loaded, revision="another"))
    assert len(asked) == 2


def test_a_film_that_cannot_be_read_is_rows_with_the_reason_and_stops_no_other(tmp_path: Path, films):
    good = films(tmp_path, seed=1)
    (tmp_path / "bad.mp4").write_text("no film")
    bad = SourceClips(
        tmp_path / "bad.mp4", digest_file(tmp_path / "bad.mp4"), (ClipSpan("bad-0", 0.0, 2.0),), good.encoders
    )
    failed, made = encode(tmp_path, bad, good)
    (row,) = read_rows(failed)
    assert (row["error_code"], row["latents"]) == ("bad_media", None)
    assert "bad.mp4" in row["error_message"]
    assert [row["error_code"] for row in read_rows(made)] == [None] * 3


def test_a_film_is_read_by_the_demuxer_that_its_probe_found(tmp_path: Path, films):
    (made,) = encode(tmp_path, replace(films(tmp_path), container="matroska,webm"))
    assert {"cannot be read as a video" in row["error_message"] for row in read_rows(made)} == {True}


def test_a_film_that_changed_since_its_digest_was_taken_is_rows_that_say_so(tmp_path: Path, films):
    source = films(tmp_path)
    source.source.write_bytes(source.source.read_bytes() + b"0")
    (made,) = encode(tmp_path, source)
    assert {row["error_code"] for row in read_rows(made)} == {"source_changed"}
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_second_call_computes_nothing_until_the_latents_are_gone(tmp_path: Path, films):
    source = films(tmp_path)
    (first,) = encode(tmp_path, source)
    (again,) = encode(tmp_path, source)
    assert [first.cached, again.cached] == [False, True]
    path = tmp_path / read_rows(first)[0]["latents"]
    content = path.read_bytes()
    path.unlink()
    (anew,) = encode(tmp_path, source)
    assert (anew.cached, anew.digest) == (False, first.digest)
    assert path.read_bytes() == content


def changed(model: str, folder: Path, **parts) -> str:
    """The model with other parts, in a folder of its own."""
    loaded = load_model(model)
    save_model(VideoModel(**{**vars(loaded), **parts}), folder)
    return str(folder)


def encoded_again(root: Path, source: SourceClips, encoders: str) -> bool:
    """Whether another model's encoders find what was encoded before."""
    (manifest,) = encode(root, SourceClips(source.source, source.digest, source.clips, encoders))
    return not manifest.cached


@pytest.mark.slow
def test_other_encoders_encode_again_and_another_unet_does_not(tmp_path: Path, films, model: str):
    source = films(tmp_path)
    encode(tmp_path, source)
    unet = load_model(model).unet
    with torch.no_grad():
        unet.conv_in.weight += 1
    assert not encoded_again(tmp_path, source, changed(model, tmp_path / "unet", unet=unet))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoder = new_image_encoder()
    assert encoded_again(tmp_path, source, changed(model, tmp_path / "encoder", image_encoder=encoder))
    longer = get_model(model).facts.model_copy(update={"frames": 6})
    assert encoded_again(tmp_path, source, changed(model, tmp_path / "longer", facts=longer))


def test_a_clip_past_the_end_of_its_film_is_a_row_with_the_reason(tmp_path: Path, films):
    good, past = (read_rows(made)[0] for made in encode(tmp_path, films(tmp_path, spans=((0.0, 0.6), (50.0, 52.0)))))
    assert (good["error_code"], past["error_code"]) == (None, "bad_media")
    assert past["error_message"] == "pan_left-0.mp4, 50.00 to 52.00 s: no frame is shown there."


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(LatentsConfig) == {
        "": "frozen=True, extra='forbid'",
        "windows_per_clip": "4, ge=1",
        "frames": "None, min_length=1, ge=2",
        "condition_draws": "4, ge=1",
        "noise_log_mean": "-3.0",
        "noise_log_deviation": "0.5, ge=0",
    }


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert encode_clips.name == "encode"
    assert STEP.files == ("latents",)
