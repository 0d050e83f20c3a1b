"""The settings of a training: what they are where nothing else is asked."""

from models.svd.model import ModelFacts
from tasks.finetune.train_config import HardwareConfig, TrainConfig, settle
from tests.declared import declared


def test_what_is_left_to_the_model_is_as_models_of_its_size_need():
    small, large = ModelFacts(width=64, height=64), ModelFacts()
    lora, whole = TrainConfig(), TrainConfig(parameters="all", learning_rate=7e-6)
    assert settle(lora, small).learning_rate == 4e-3
    assert settle(lora, large).learning_rate == 1e-4
    assert (settle(whole, large).learning_rate, settle(whole, large).log_sigma_mean) == (7e-6, 0.7)
    assert settle(settle(lora, large), small) == settle(lora, large)


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(TrainConfig) == {
        "": "frozen=True, extra='forbid'",
        "parameters": "'lora'",
        "motions": "None",
        "min_speed": "0.0, ge=0",
        "steps": "200, ge=1",
        "batch": "8, ge=1",
        "learning_rate": "None, gt=0",
        "schedule": "'cosine'",
        "warm_up": "30, ge=0",
        "optimiser": "'adamw'",
        "clip_norm": "1.0, gt=0",
        "precision": "'auto'",
        "log_sigma_mean": "None",
        "log_sigma_deviation": "None, ge=0",
        "drop_picture": "0.1, ge=0, le=1",
        "drop_word": "0.25, ge=0, le=1",
        "words": "False",
        "crop": "None, ge=4",
        "rank": "16, ge=1",
        "alpha": "16.0, gt=0",
        "ema": "0.99, ge=0, lt=1",
        "checkpoint_every": "200, ge=1",
        "judge_every": "100, ge=1",
        "samples": "2, ge=0",
        "seed": "0, ge=0",
    }
    assert declared(HardwareConfig) == {
        "": "frozen=True, extra='forbid'",
        "device": "'auto'",
        "processes": "1, ge=1",
        "accumulation": "1, ge=1",
        "accelerate": "None",
    }
