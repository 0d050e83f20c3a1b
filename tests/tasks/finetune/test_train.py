"""Training: the same seed gives the same weights, however often it was killed; what it writes knows its origin."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.errors import BadInput
from models.svd.lora import load_lora, lora_applied
from models.svd.model import load_model
from models.weights.names import compute_weights_digest
from tasks.finetune.train import SCHEMA, STEP, TrainConfig, Training, train_model
from tasks.finetune.train_examples import ExampleChoice, Examples, gather_examples
from tasks.manifest import ManifestRef, read_manifest, read_rows
from tests.declared import declared
from tests.hub_cache import COMMIT, cached

CONFIG = TrainConfig(steps=11, batch=1, rank=2, checkpoint_every=3, ema=0.9)

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tasks.finetune.train import TrainConfig, train_model
from tasks.manifest import ManifestRef
run, config, root, base, clips, *encoded = sys.argv[1:]
references = [ManifestRef.model_validate_json(each) for each in (clips, *encoded)]
train_model.fn(Path(run), TrainConfig.model_validate_json(config), Path(root), base, references[1:], references[0])
"""

Train = Callable[..., ManifestRef]


@pytest.fixture(scope="module")
def train(trainable) -> Train:
    """Trains on the small dataset, below a folder."""

    def run(folder: Path, config: TrainConfig = CONFIG) -> ManifestRef:
        return train_model.fn(folder, config, trainable.root, trainable.base, trainable.encoded, trainable.clips)

    return run


@pytest.fixture(scope="module")
def trained(train: Train, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ManifestRef]:
    """A folder in which CONFIG was trained, for those who only read, and the log."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, train(folder)


def weights_of(run: Path, log: ManifestRef) -> Path:
    (name,) = {row["weights"] for row in read_rows(log)}
    return run / name


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


@pytest.mark.slow
def test_a_base_of_the_hub_stands_in_the_lineage_by_its_commit(tmp_path, hub_cache, trainable):
    cached(hub_cache, Path(trainable.base), "org/svd")
    config = CONFIG.model_copy(update={"steps": 1})
    log = train_model.fn(tmp_path / "run", config, trainable.root, "org/svd@main", trainable.encoded, trainable.clips)
    lineage = load_lora(weights_of(tmp_path / "run", log))[1].lineage
    assert (lineage["base"], lineage["base_revision"]) == (f"org/svd@{COMMIT}",) * 2


def test_a_lora_is_written_that_knows_its_origin_and_changes_the_model_it_is_put_on(tmp_path, train, trainable):
    log = train(tmp_path, CONFIG.model_copy(update={"motions": ("pan_left",)}))
    weights, facts = load_lora(weights_of(tmp_path, log))
    assert (facts.rank, facts.alpha) == (2, 16.0)
    assert facts.lineage["clips"] == [f"pan_left-{seed}-0" for seed in range(4)]
    assert facts.lineage["dataset_digest"] == trainable.clips.digest
    assert facts.lineage["base_revision"] == compute_weights_digest(Path(trainable.base))
    assert facts.lineage["train"]["motions"] == ["pan_left"]
    assert any(w.abs().max() > 0 for name, w in weights.items() if "lora_B" in name)
    model = load_model(trainable.base)
    before = model.unet.state_dict().keys()
    with lora_applied(model, weights_of(tmp_path, log)):
        assert {name for name in model.unet.state_dict() if "lora_B" in name}
    assert model.unet.state_dict().keys() == before


def test_the_log_has_a_row_every_ten_steps_and_for_the_last(trained):
    _, log = trained
    rows = read_rows(log)
    assert read_manifest(log).schema == SCHEMA
    assert [row["step"] for row in rows] == [10, 11]
    assert all(row["loss"] > 0 and row["right_8"] is None for row in rows)


def set_up(trainable, **changes) -> Training:
    examples = Examples(gather_examples(trainable.root, trainable.encoded, ExampleChoice()), 7.0)
    return Training(load_model(trainable.base), examples, CONFIG.model_copy(update=changes))


@pytest.mark.training
def test_the_log_ends_with_the_errors_on_the_clips_that_were_held_out(tmp_path, trainable):
    training = set_up(trainable, parameters="all", words=True, steps=1)
    still, pan = (
        [i for i, example in enumerate(training.examples.all) if example.motion == motion]
        for motion in ("static", "pan_right")
    )
    training.probe_on = still
    (row,) = training.run(tmp_path / "checkpoint.safetensors")
    assert all(row[f"right_{sigma}"] == row[f"opposite_{sigma}"] > 0 for sigma in (2, 8, 30)), "a still is its opposite"
    training.probe_on = pan
    moving = training.probe()
    assert all(moving[f"right_{sigma}"] != moving[f"opposite_{sigma}"] for sigma in (2, 8, 30))
    assert row["copy"] < 0.2 * moving["copy"], "a copy of the picture is right where nothing moves"


@pytest.mark.slow
def test_a_lora_begins_at_the_base_with_factors_of_unit_gain(trainable):
    weights = dict(set_up(trainable, rank=16).model.unet.named_parameters())
    first = [w for name, w in weights.items() if ".lora_A." in name]
    assert torch.cat([(w * w.shape[1] ** 0.5).flatten() for w in first]).std().item() == pytest.approx(1, abs=0.05)
    assert all((w == 0).all() for name, w in weights.items() if ".lora_B." in name)


def test_a_second_call_trains_nothing_until_the_weights_are_gone(tmp_path, train, trained):
    folder, first = shutil.copytree(trained[0], tmp_path / "run"), trained[1]
    assert [first.cached, train(folder).cached] == [False, True]
    path = weights_of(folder, first)
    content = path.read_bytes()
    path.unlink()
    again = train(folder)
    assert (again.cached, again.digest) == (False, first.digest)
    assert path.read_bytes() == content


def test_the_weights_depend_on_the_seed_and_on_nothing_else(tmp_path, train, trained):
    folder, one = trained
    again, other = (
        train(tmp_path / n, CONFIG.model_copy(update={"seed": CONFIG.seed + s}))
        for n, s in zip("bc", (0, 1), strict=True)
    )
    first, second, third = (
        weights_of(run, log) for run, log in ((folder, one), (tmp_path / "b", again), (tmp_path / "c", other))
    )
    assert first.read_bytes() == second.read_bytes()
    assert (one.digest, again.cached) == (again.digest, False)
    assert any(not torch.equal(w, load_file(third)[name]) for name, w in load_file(first).items())


def killed_after_a_checkpoint(run: Path, trainable, repository: Path, config: TrainConfig) -> None:
    references = [each.model_dump_json() for each in (trainable.clips, *trainable.encoded)]
    arguments = [str(run), config.model_dump_json(), str(trainable.root), trainable.base, *references]
    with subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], cwd=repository) as process:
        until = time.monotonic() + 120
        while not list(run.glob("checkpoints/[!.]*.safetensors")):
            assert process.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("parameters", ["lora", "all"])
def test_a_training_killed_on_the_way_ends_in_the_very_weights_and_log_of_an_undisturbed_one(
    tmp_path, train, trainable, repository, caplog, parameters
):
    changes = {"parameters": parameters, "steps": 11, "checkpoint_every": 5, "words": parameters == "all"}
    config = CONFIG.model_copy(update=changes)
    straight = train(tmp_path / "straight", config)
    killed_after_a_checkpoint(tmp_path / "killed", trainable, repository, config)
    (checkpoint,) = (tmp_path / "killed").glob("checkpoints/[!.]*.safetensors")
    done = int(load_file(checkpoint)["step"])
    assert 0 < done < 11
    assert done % 5 == 0
    assert not (tmp_path / "killed/weights").exists()
    with caplog.at_level("INFO", logger="reelmill"):
        resumed = train(tmp_path / "killed", config)
    assert f"train: resumes from step {done}" in caplog.text
    assert resumed.digest == straight.digest
    assert contents(tmp_path / "killed/weights") == contents(tmp_path / "straight/weights")
    assert not list((tmp_path / "killed").glob("checkpoints/[!.]*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stop_half_way_leaves_whole_checkpoints_alone(tmp_path, train, monkeypatch):
    class Stopped(Exception):
        pass

    def stop_at_a_later_write(state, path: Path) -> None:
        save(state, path)
        if state.step > 3:
            raise Stopped

    from models.svd.training import TrainingState

    save = TrainingState.save
    monkeypatch.setattr(TrainingState, "save", stop_at_a_later_write)
    with pytest.raises(Stopped):
        train(tmp_path)
    assert not hidden(tmp_path)
    (checkpoint,) = tmp_path.rglob("*.safetensors")
    assert int(load_file(checkpoint)["step"]) == 3
    monkeypatch.undo()
    assert [row["step"] for row in read_rows(train(tmp_path))] == [10, 11]


def test_all_of_a_model_and_its_words_are_trained_to_a_model_that_loads(tmp_path, train, trainable):
    config = CONFIG.model_copy(update={"parameters": "all", "words": True, "steps": 3})
    index = weights_of(tmp_path, train(tmp_path, config))
    assert index.name == "model_index.json"
    made, base = load_model(str(index.parent)), load_model(trainable.base)
    assert sorted(made.words) == ["pan_left", "pan_right", "static"]
    assert made.facts.lineage["clips"]
    assert made.facts.frames == base.facts.frames
    assert not torch.equal(made.unet.conv_in.weight, base.unet.conv_in.weight)
    assert torch.equal(made.vae.quant_conv.weight, base.vae.quant_conv.weight)


@pytest.mark.parametrize(
    "changes", [{"motions": ("zoom_out",)}, {"motions": ("sideways",)}, {"motions": ("pan_left",), "min_speed": 9.0}]
)
def test_motions_that_no_clip_shows_are_named_in_one_sentence(tmp_path, train, changes):
    with pytest.raises(BadInput) as caught:
        train(tmp_path, CONFIG.model_copy(update=changes))
    assert f"no clip of {changes['motions'][0]} is long enough to train on" in str(caught.value)
    assert not (tmp_path / "weights").exists()


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(TrainConfig) == {
        "": "frozen=True, extra='forbid'",
        "parameters": "'lora'",
        "motions": "None",
        "min_speed": "0.0, ge=0",
        "steps": "200, ge=1",
        "batch": "8, ge=1",
        "learning_rate": "0.002, gt=0",
        "log_sigma_mean": "0.7",
        "log_sigma_deviation": "1.6, ge=0",
        "drop_picture": "0.1, ge=0, le=1",
        "drop_word": "0.25, ge=0, le=1",
        "words": "False",
        "crop": "None, ge=4",
        "rank": "16, ge=1",
        "alpha": "16.0, gt=0",
        "ema": "0.99, ge=0, lt=1",
        "checkpoint_every": "200, ge=1",
        "seed": "0, ge=0",
    }


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert train_model.name == "train"
    assert STEP.files == ("weights",)
