"""A training is judged by clips that it does not learn, with noise that depends on the clip alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from models.svd.model import load_model
from models.svd.training import Network
from tasks.finetune.train_examples import ExampleChoice, Examples, gather_examples
from tasks.finetune.train_judging import SAMPLE_COLUMNS, SIGMAS, Judge

STILL, LEFT = "static", "pan_left"


@pytest.fixture(scope="module")
def examples(trainable) -> Examples:
    chosen = gather_examples(trainable.root, trainable.encoded, trainable.clips, ExampleChoice())
    return Examples(chosen, 1.0)


@pytest.fixture(scope="module")
def network(trainable) -> Network:
    model = load_model(trainable.base)
    return Network(model.unet, model.words)


def of_motion(examples: Examples, *motions: str) -> list[int]:
    return [i for i, example in enumerate(examples.all) if example.motion in motions]


class Silent(nn.Module):
    """A network that answers with what it was shown."""

    def forward(self, noisy, sigma, batch, motions=None):
        return noisy


def test_the_error_of_a_network_that_removes_no_noise_is_the_noise_in_every_band(examples):
    found = Judge(examples, of_motion(examples, LEFT), [], batch=8).measure(Silent(), told=False)
    assert {name for name in found if name.startswith("right")} == {f"right_{sigma:g}" for sigma in SIGMAS}
    for sigma in SIGMAS:
        assert found[f"right_{sigma:g}"] == pytest.approx(sigma**2, rel=0.05)
    assert found["held_out"] == pytest.approx(sum(1 + sigma**2 for sigma in SIGMAS) / 4, rel=0.05)


def test_a_look_is_the_same_number_whatever_was_drawn_before_and_however_it_is_batched(examples, network):
    held = of_motion(examples, STILL, LEFT)
    torch.manual_seed(1)
    one = Judge(examples, held, [], batch=4).measure(network, told=True)
    torch.manual_seed(2)
    assert Judge(examples, held, [], batch=4).measure(network, told=True) == one
    other = Judge(examples, held[::-1], [], batch=3).measure(network, told=True)
    assert other == {name: pytest.approx(value, rel=1e-4) for name, value in one.items()}


def test_the_opposite_word_of_a_still_clip_is_its_own(examples, network):
    still = Judge(examples, of_motion(examples, STILL), [], batch=4).measure(network, told=True)
    moving = Judge(examples, of_motion(examples, LEFT), [], batch=4).measure(network, told=True)
    assert all(still[f"right_{sigma:g}"] == still[f"opposite_{sigma:g}"] for sigma in SIGMAS)
    assert all(moving[f"right_{sigma:g}"] != moving[f"opposite_{sigma:g}"] for sigma in SIGMAS)
    assert still["copy"] < 0.2 * moving["copy"], "a copy of the picture is right where nothing moves"


def test_nothing_is_measured_where_nothing_is_held_out(examples, network):
    assert Judge(examples, [], [0], batch=4).measure(network, told=False) == {}


def test_clips_are_generated_of_different_sources_first_and_measured(examples, network, trainable, tmp_path: Path):
    held = of_motion(examples, STILL, LEFT)
    judge = Judge(examples, held, [], batch=4)
    assert len({examples.all[i].source for i in judge.shown[:3]}) == 3
    model = replace(load_model(trainable.base), unet=network.unet)
    made = judge.sample(model, network, True, 2, tmp_path / "step-000000")
    again = judge.sample(model, network, True, 2, tmp_path / "again")
    assert set(made) == set(SAMPLE_COLUMNS)
    assert made == again
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mp4"))
    assert files == ["again/0.mp4", "again/1.mp4", "step-000000/0.mp4", "step-000000/1.mp4", "true/0.mp4", "true/1.mp4"]
    assert (tmp_path / "again/0.mp4").read_bytes() == (tmp_path / "step-000000/0.mp4").read_bytes()


def test_motion_that_dies_and_a_first_frame_of_another_colour_are_seen(
    examples, network, trainable, tmp_path, monkeypatch
):
    """SVD_Xtend 73: after a finetuning nothing moves; others: the first frame's colours are off."""
    from tasks.finetune import train_judging

    judge = Judge(examples, of_motion(examples, LEFT), [], batch=4)
    model = load_model(trainable.base)
    decode = train_judging.decode_latents
    truth = examples.batch([judge.shown[0]], draw=0).latents

    def sampled(shown: torch.Tensor):
        monkeypatch.setattr(train_judging, "sample_conditioned", lambda *_: shown)
        return judge.sample(model, network, False, 1, tmp_path / "a")

    def still(model, latents):
        frames = decode(model, latents)
        return frames if not torch.equal(latents, dead[0]) else frames[:1].repeat(len(frames), 0)

    def brighter(model, latents):
        frames = still(model, latents)
        return frames if not torch.equal(latents, dead[0]) else frames.clip(0, 200) + 40

    dead = truth[:, :1].expand_as(truth).clone()
    monkeypatch.setattr(train_judging, "decode_latents", still)
    alive, died = sampled(truth), sampled(dead)
    assert alive["motion"] == pytest.approx(alive["true_motion"])
    assert alive["first_colour"] == pytest.approx(0, abs=1e-3)
    assert died["frozen_share"] == 1.0
    assert died["motion"] == pytest.approx(0, abs=1e-4)
    monkeypatch.setattr(train_judging, "decode_latents", brighter)
    assert sampled(dead)["first_colour"] > 20
