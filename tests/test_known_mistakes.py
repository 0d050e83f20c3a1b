"""Mistakes that other implementations of the Stable Video Diffusion paper make, each with the right answer.

Those that have a test beside the code they concern: a softmax over one caption (tasks/curate/test_similarity.py),
snapping to a keyframe across the cut (tasks/curate/test_clips.py), boxes of a corner and a size read as two corners
(models/test_text_boxes.py), decoding frames in chunks (models/test_exact_decode.py), ComfyUI's frame rate
(tasks/test_workflow.py), one noise for augmentation and latents (models/test_noise.py).
"""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from models.camera import measure_motion
from models.flow import farneback
from models.noise import item_noise, stack_noise
from models.pictures import prepare_picture
from models.sampling import sample_latents
from models.svd import load_model
from tasks.detectors.cascade import DetectorSettings, find_boundaries
from tasks.footage import Camera, Frames, Scene, dissolve, render_shot
from tasks.signals import Recorder, Signals, signals_of, small_planes

HALF_SECONDS = [0.5 * i for i in range(9)]


def at_two_per_second(frames: Frames) -> Frames:
    """Every twelfth frame of a film at 24 per second."""
    return frames[::12][:9]


def signals(frames: Frames) -> Signals:
    recorder = Recorder()
    for pts, picture in enumerate(frames):
        recorder.add(pts, small_planes(VideoFrame.from_ndarray(picture)))
    return signals_of(recorder.columns(), Fraction(1, 24))


def test_flow_is_averaged_by_length_and_not_by_sign():
    """A camera that goes right and back again moves as much as one that goes on; signed, it would not move at all."""
    there = render_shot(Scene(7), Camera.doing("pan_right", 0.3), 49, size=(96, 64))
    back = np.concatenate([there, there[::-1][1:]])
    score = measure_motion(back[::12][:9], HALF_SECONDS).magnitude
    assert score == pytest.approx(0.3, rel=0.15)


def test_flow_is_measured_before_pictures_are_shrunk_to_16_pixels():
    """Slow camera motions are told apart by their flow; of pictures shrunk first, it is mostly noise."""
    speeds = np.linspace(0.002, 0.03, 12)
    measured, shrunk_first = [], []
    for seed, speed in enumerate(speeds):
        frames = render_shot(Scene(seed, movers=0), Camera.doing("pan_right", float(speed)), 13, size=(192, 128))
        before, after = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (frames[0], frames[12]))
        measured.append(mean_length(farneback(before, after)) / 128)
        small = [cv2.resize(picture, (24, 16), interpolation=cv2.INTER_AREA) for picture in (before, after)]
        shrunk_first.append(mean_length(farneback(small[0], small[1])) / 16)
    right = np.abs(np.array(measured) - speeds / 2).mean()
    assert right < 0.0015
    assert np.abs(np.array(shrunk_first) - speeds / 2).mean() > 2 * right


def mean_length(flow: NDArray[np.floating]) -> float:
    return float(np.hypot(flow[..., 0], flow[..., 1]).mean())


def test_a_cascade_has_several_rates_and_the_slow_ones_find_what_the_fast_one_cannot():
    shots = [render_shot(Scene(seed), Camera.doing("static", 0), 90, size=(96, 64)) for seed in (1, 2)]
    recorded = signals(dissolve(shots[0], shots[1], 48))
    found = find_boundaries(recorded, DetectorSettings())
    assert [boundary.kind for boundary in found] == ["dissolve"]
    assert find_boundaries(recorded, DetectorSettings(detector="adaptive")) == []
    fast_only = DetectorSettings(middle_threshold=1e9, low_threshold=1e9)
    assert find_boundaries(recorded, fast_only) == []


def test_a_batch_pairs_each_picture_with_its_own_noise_and_embedding():
    """diffusers' pipeline orders embeddings A, A, B, B and latents A, B, A, B when two clips of each are asked."""
    model = load_model("tiny")
    shape = model.latent_shape(8, 64, 64)
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    items = [(0, key, take) for key in "AB" for take in range(2)]
    noise = [item_noise(seed, key, take, shape, (64, 64)) for seed, key, take in items]

    def sampled(chosen: list[int]) -> torch.Tensor:
        stacked = stack_noise([noise[i] for i in chosen])
        own = pictures[[i // 2 for i in chosen]]
        return sample_latents(model, own, stacked.latents, stacked.augmentation, [None] * len(chosen), steps=2)

    together = sampled([0, 1, 2, 3])
    for item in range(4):
        assert (together[item] - sampled([item])[0]).abs().max() < 1e-4


def test_a_seed_in_a_batch_is_that_seed_alone_and_each_picture_of_a_folder_has_its_own():
    shape, size = (8, 4, 16, 16), (64, 64)
    first, second = (item_noise(5, key, 0, shape, size) for key in ("a.png", "b.png"))
    assert torch.equal(stack_noise([first, second]).latents[1], item_noise(5, "b.png", 0, shape, size).latents)
    assert not torch.equal(first.latents, second.latents)


def test_the_pictures_augmentation_noise_is_seeded_and_apart_from_the_latents():
    shape, size = (8, 4, 16, 16), (64, 64)
    once, again = (item_noise(5, "a.png", 0, shape, size) for _ in range(2))
    other_length = item_noise(5, "a.png", 0, (9, 4, 16, 16), size)
    assert torch.equal(once.augmentation, again.augmentation)
    assert torch.equal(once.augmentation, other_length.augmentation)


def test_the_rate_told_in_training_is_the_one_told_in_sampling():
    """Public trainers train with the id 7 and sample with 6: here both are the clip's rate less one, as the training's
    examples are told (tasks/test_examples.py)."""
    model = load_model("tiny")
    told: list[float] = []

    def listen(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        told.append(float(inputs[3][0, 0]))

    hook = model.unet.register_forward_pre_hook(listen)
    noise = torch.randn(1, *model.latent_shape(8, 64, 64))
    sample_latents(model, torch.zeros(1, 3, 64, 64), noise, torch.zeros(1, 3, 64, 64), [None], steps=1)
    hook.remove()
    assert set(told) == {model.facts.fps - 1}


def test_a_picture_of_any_size_is_made_to_fit(tmp_path: Path):
    """The official script neither resizes a picture nor bears sides that 64 does not divide."""
    Image.new("RGB", (333, 77), "teal").save(tmp_path / "odd.png")
    assert prepare_picture(tmp_path / "odd.png", 64, 64).shape == (64, 64, 3)
