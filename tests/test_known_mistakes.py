"""Mistakes that other implementations of the Stable Video Diffusion paper make, each with the right answer.

Those that have a test beside the code they concern: a softmax over one caption (tasks/curate/test_similarity.py),
snapping to a keyframe across the cut (tasks/curate/test_clips.py), boxes of a corner and a size read as two corners
(models/test_text_boxes.py), decoding frames in chunks, whatever memory is free (models/test_exact_decode.py), ComfyUI's
frame rate (tasks/test_workflow.py), one noise for augmentation and latents (models/test_noise.py), clips encoded anew
for each training (tasks/finetune/test_encode.py), LoRAs that do not load (models/test_lora.py).
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
from safetensors.torch import save_file

from models.measures.camera import measure_motion
from models.measures.flow import farneback
from models.noise import draw_item_noise, stack_noise
from models.pictures import Frames, prepare_picture
from models.svd.model import load_model, motion_bucket
from models.svd.sampling import sample_latents
from models.svd.training import Network, TrainingBatch, measure_errors
from tasks.detectors.cascade import DetectorSettings, find_boundaries
from tasks.finetune.encode import SCHEMA as ENCODED
from tasks.finetune.encode import LatentsConfig, add_noise
from tasks.finetune.train_examples import ExampleChoice, Examples, gather_examples
from tasks.footage import Camera, Scene, dissolve, render_shot
from tasks.manifest import Lineage, make_table, write_manifest
from tasks.media.signals import Recorder, Signals, make_signals, shrink_frame
from tasks.tiny.render import SCHEMA as CLIPS

HALF_SECONDS = [0.5 * i for i in range(9)]


def at_two_per_second(frames: Frames) -> Frames:
    """Every twelfth frame of a film at 24 per second."""
    return frames[::12][:9]


def signals(frames: Frames) -> Signals:
    recorder = Recorder()
    for pts, picture in enumerate(frames):
        recorder.add(pts, shrink_frame(VideoFrame.from_ndarray(picture)))
    return make_signals(recorder.columns(), Fraction(1, 24))


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
    fast_only = DetectorSettings(middle_threshold=1e9, low_threshold=1e9, slow_threshold=1e9)
    assert find_boundaries(recorded, fast_only) == []


@pytest.mark.slow
def test_a_batch_pairs_each_picture_with_its_own_noise_and_embedding():
    """diffusers' pipeline orders embeddings A, A, B, B and latents A, B, A, B when two clips of each are asked."""
    model = load_model("tiny")
    shape = model.latent_shape(8, 64, 64)
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    items = [(0, key, take) for key in "AB" for take in range(2)]
    noise = [draw_item_noise(seed, key, take, shape, (64, 64)) for seed, key, take in items]

    def sampled(chosen: list[int]) -> torch.Tensor:
        stacked = stack_noise([noise[i] for i in chosen])
        own = pictures[[i // 2 for i in chosen]]
        return sample_latents(model, own, stacked.latents, stacked.augmentation, [None] * len(chosen), steps=2)

    together = sampled([0, 1, 2, 3])
    for item in range(4):
        assert (together[item] - sampled([item])[0]).abs().max() < 1e-4


def test_a_seed_in_a_batch_is_that_seed_alone_and_each_picture_of_a_folder_has_its_own():
    shape, size = (8, 4, 16, 16), (64, 64)
    first, second = (draw_item_noise(5, key, 0, shape, size) for key in ("a.png", "b.png"))
    assert torch.equal(stack_noise([first, second]).latents[1], draw_item_noise(5, "b.png", 0, shape, size).latents)
    assert not torch.equal(first.latents, second.latents)


def test_the_pictures_augmentation_noise_is_seeded_and_apart_from_the_latents():
    shape, size = (8, 4, 16, 16), (64, 64)
    once, again = (draw_item_noise(5, "a.png", 0, shape, size) for _ in range(2))
    other_length = draw_item_noise(5, "a.png", 0, (9, 4, 16, 16), size)
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


def test_the_motion_bucket_told_in_training_is_the_clips_own_and_not_fixed(tmp_path: Path):
    """Public trainers tell every clip 127; the model then unlearns what the number means."""
    speeds = {"still": 0.0, "slow": 0.1, "fast": 0.6}
    clips = [{"clip_id": n, "camera_motion": "pan_left", "motion_score": speed} for n, speed in speeds.items()]
    made = Lineage(step="made", version=1)
    table = write_manifest(tmp_path / "clips.parquet", make_table(clips, CLIPS), made)
    shape = {"fps": 7.0, "frames": 4, "width": 32, "height": 32, "latents": "x.safetensors"}
    windows = [shape | {"clip_id": n, "row": row} for row, n in enumerate(speeds)]
    encoded = write_manifest(tmp_path / "encoded.parquet", make_table(windows, ENCODED), made)
    save_file(
        {
            "latents": torch.zeros(3, 4, 4, 4, 4),
            "pictures": torch.zeros(3, 1, 4, 4, 4),
            "sigmas": torch.zeros(3, 1),
            "embeddings": torch.zeros(3, 8),
        },
        tmp_path / "x.safetensors",
    )
    examples = Examples(gather_examples(tmp_path, [encoded], table, ExampleChoice()), 1.0)
    told = examples.batch([0, 1, 2], draw=0).ids[:, 1]
    assert told.tolist() == [motion_bucket(speed) for speed in speeds.values()]
    assert len(set(told.tolist())) == 3


def test_each_picture_of_a_batch_is_augmented_with_a_sigma_of_its_own():
    """Public trainers draw one sigma for the whole batch."""
    config = LatentsConfig(condition_draws=2)
    noised, sigmas = add_noise(torch.zeros(4, 3, 32, 32), config, seed=0)
    assert len(set(sigmas.flatten().tolist())) == 8
    torch.testing.assert_close(noised.std(dim=(2, 3, 4)), sigmas, rtol=0.06, atol=0)


def test_a_validation_is_the_same_number_whatever_was_drawn_before():
    """Public trainers validate without a seed, so that two checkpoints are compared by luck."""
    model = load_model("tiny")
    fixed = torch.Generator().manual_seed(3)
    cells = (model.facts.height // 8, model.facts.width // 8)
    latents = torch.randn(1, 2, 4, *cells, generator=fixed)
    width = next(iter(model.words.values())).shape[0]
    embeddings, ids = torch.randn(1, width, generator=fixed), torch.tensor([[6.0, 127.0, 0.02]])
    batch = TrainingBatch(latents, latents[:, 0], embeddings, ids, motions=[])

    def validated(global_seed: int) -> float:
        torch.manual_seed(global_seed)
        return measure_errors(Network(model.unet, {}), batch, torch.ones_like(latents), 2.0, None).item()

    assert validated(1) == validated(2)


def test_a_picture_of_any_size_is_made_to_fit(tmp_path: Path):
    """The official script neither resizes a picture nor bears sides that 64 does not divide."""
    Image.new("RGB", (333, 77), "teal").save(tmp_path / "odd.png")
    assert prepare_picture(tmp_path / "odd.png", 64, 64).shape == (64, 64, 3)
