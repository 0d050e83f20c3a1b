"""Sittings: one that is stopped and resumed equals one that is not, the rate rises and falls, and others' state is
refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.errors import BadInput
from models.svd.autoencoder import new_autoencoder
from models.svd.model import VideoModel, load_model
from tasks import stopping
from tasks.tiny.shots import Item
from tasks.tiny.sitting import MOTIONS, STATE, Curve, Sitting, SittingConfig, count_files
from tests.declared import declared

torch.set_num_threads(1)

CONFIG = SittingConfig(steps=4, batch=2, fall=2, measure_every=2, save_every=1, widen_every=2)


def make_items(seed: int, count: int = 3) -> list[Item]:
    generator = torch.Generator().manual_seed(seed)
    parts = {
        "latents": torch.randn(count, 4, 4, 8, 8, generator=generator),
        "pictures": torch.randn(count, 2, 4, 8, 8, generator=generator),
        "sigmas": torch.full((count, 2), 0.02),
        "embeddings": torch.randn(count, 2, 64, generator=generator),
    }
    return [Item(parts, row, bool(row % 2), MOTIONS[row], 50) for row in range(count)]


FILES = [make_items(0), make_items(1)]


def hold(folder: Path, model: str, config: SittingConfig = CONFIG, curve: Curve | None = None) -> Sitting:
    sitting = Sitting(load_model(model), FILES, config, curve or Curve())
    sitting.run(folder, lambda _: {"last_frame_psnr_db": 1.0})
    return sitting


def weights(sitting: Sitting) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in sitting.state.parameters.items()}


@pytest.mark.training
def test_a_sitting_that_is_stopped_goes_on_to_the_same_weights_and_curve(tmp_path: Path, model: str):
    whole = hold(tmp_path / "whole", model)
    stopped = Sitting(load_model(model), FILES, CONFIG, Curve())

    def step_and_stop() -> float:
        stopping.ask_to_stop()
        return Sitting.step(stopped)

    stopped.step = step_and_stop
    try:
        with pytest.raises(KeyboardInterrupt):
            stopped.run(tmp_path / "parts", lambda _: {"last_frame_psnr_db": 1.0})
    finally:
        stopping.forget_to_stop()
    assert stopped.state.step == 1
    resumed = hold(tmp_path / "parts", model)
    known = weights(whole)
    assert all(torch.equal(value, known[name]) for name, value in weights(resumed).items())
    assert all(torch.equal(value, whole.state.average[name]) for name, value in resumed.state.average.items())
    curves = [[(row["step"], row["loss"]) for row in each.curve.rows] for each in (whole, resumed)]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == [2, 4]


@pytest.mark.training
def test_another_sitting_goes_on_from_the_state_and_its_hours_add_up(tmp_path: Path, model: str):
    first = hold(tmp_path, model)
    more = hold(tmp_path, model, CONFIG.model_copy(update={"steps": 6}))
    assert [row["step"] for row in more.curve.rows] == [2, 4, 6]
    assert more.curve.rows[:2] == first.curve.rows
    assert more.curve.hours > first.curve.hours > 0
    again = hold(tmp_path, model, CONFIG.model_copy(update={"steps": 6}))
    assert again.curve == more.curve
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(more).items())


@pytest.mark.training
def test_a_sitting_learns_and_changes_every_weight_and_the_words_it_used(tmp_path: Path, model: str):
    config = CONFIG.model_copy(update={"steps": 12, "fall": 1, "drop_word": 0.0, "drop_picture": 0.0})
    before = {name: p.detach().clone() for name, p in load_model(model).unet.named_parameters()}
    sitting = hold(tmp_path, model, config)
    after = weights(sitting)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    # A context of one token would leave queries and keys alone; with a word there are two.
    assert changed == set(before)
    average = sitting.average()
    assert set(average.words) == set(MOTIONS)
    assert torch.equal(average.words["static"], sitting.state.average["word.static"])
    assert torch.equal(average.unet.conv_in.weight, sitting.state.average["conv_in.weight"])
    assert not any(p.requires_grad for p in average.unet.parameters())


def test_the_rate_rises_stays_and_falls(model: str):
    sitting = Sitting(load_model(model), FILES, SittingConfig(steps=1000, fall=100), Curve())
    shares = [sitting._choose_share(number) for number in (0, 24, 49, 500, 900, 950, 999)]
    assert shares == pytest.approx([0.02, 0.5, 1.0, 1.0, 1.0, 0.5, 0.02])
    later = Sitting(load_model(model), FILES, SittingConfig(steps=1000), Curve([{"step": 500}]))
    assert later._choose_share(500) == pytest.approx(0.02), "it rises again in the next sitting"


def test_the_fall_begins_when_the_time_left_is_what_it_takes(model: str):
    sitting = Sitting(load_model(model), FILES, SittingConfig(steps=1000, fall=100, hours=1.0), Curve())
    sitting.state.step = 270
    sitting._times.extend([0.0, 10.0])
    sitting._plan_the_fall(seconds=3600.0)
    assert sitting._end() == 1000, "two moments are no pace"
    sitting._times.extend(range(20, 220, 10))
    sitting._plan_the_fall(seconds=2590.0)
    assert sitting._end() == 1000
    sitting._plan_the_fall(seconds=2600.0)
    assert sitting._end() == 370


def test_the_pool_widens_by_a_file_at_a_time(model: str):
    opened: list[int] = []

    def files():
        for number, items in enumerate(FILES):
            opened.append(number)
            yield items

    sitting = Sitting(load_model(model), files(), CONFIG, Curve())
    assert [len(sitting._open_pool(number)) for number in (0, 1)] == [3, 3]
    assert opened == [0]
    assert [len(sitting._open_pool(number)) for number in (2, 9)] == [6, 6]
    assert [count_files(steps, CONFIG) for steps in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 3]


def test_a_state_of_another_autoencoder_is_refused(tmp_path: Path, model: str):
    config = CONFIG.model_copy(update={"steps": 1})
    hold(tmp_path, model, config)
    other = load_model(model)
    stranger = VideoModel(**{**vars(other), "vae": new_autoencoder((32, 32, 32)), "revision": "another"})
    with pytest.raises(BadInput, match="of another autoencoder"):
        Sitting(stranger, FILES, config, Curve()).run(tmp_path, lambda _: {})
    assert (tmp_path / STATE).is_file()


def test_a_model_trained_elsewhere_goes_on_at_its_step(tmp_path: Path, model: str):
    curve = Curve([{"step": 3, "hours": 2.0, "loss": 0.5}], 2.0)
    sitting = hold(tmp_path, model, curve=curve)
    assert [row["step"] for row in sitting.curve.rows] == [3, 4]
    assert sitting.curve.hours > 2.0


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(SittingConfig) == {
        "": "frozen=True, extra='forbid'",
        "steps": "30000, ge=1",
        "hours": "None, gt=0",
        "batch": "8, ge=1",
        "learning_rate": "0.0015, gt=0",
        "fall": "300, ge=1",
        "log_sigma_mean": "1.0",
        "log_sigma_deviation": "1.4, ge=0",
        "drop_picture": "0.05, ge=0, le=1",
        "drop_word": "0.1, ge=0, le=1",
        "ema": "0.999, ge=0, lt=1",
        "widen_every": "40, ge=1",
        "measure_every": "500, ge=1",
        "save_every": "100, ge=1",
        "seed": "0, ge=0",
    }
