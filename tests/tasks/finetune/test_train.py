"""Training: the same seed gives the same weights, however often it was killed; what it writes knows its origin."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.errors import BadInput, TrainingDiverged
from models.svd.lora import load_lora, lora_applied
from models.svd.model import load_model, save_model
from models.weights.names import compute_weights_digest
from tasks.finetune import training_run
from tasks.finetune.encode import LatentsConfig, encode_source
from tasks.finetune.train import SCHEMA, STEP, find_or_train, train_model
from tasks.finetune.train_config import HardwareConfig, TrainConfig, settle
from tasks.finetune.train_examples import ExampleChoice, Examples, gather_examples
from tasks.finetune.train_process import train as train_here
from tasks.finetune.training_run import Places, Training, has_grown
from tasks.manifest import Lineage, ManifestRef, make_table, read_manifest, read_rows, write_manifest
from tasks.stopping import ask_to_stop, forget_to_stop
from tests.hub_cache import COMMIT, cached
from tests.small_svd import CLIPS

CONFIG = TrainConfig(steps=11, batch=1, rank=2, checkpoint_every=3, ema=0.9, samples=0)

CPU = HardwareConfig(device="cpu")

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tasks.finetune.train import find_or_train
from tasks.finetune.train_config import HardwareConfig, TrainConfig
from tasks.finetune.train_process import train
from tasks.manifest import ManifestRef
run, config, root, base, clips, *encoded = sys.argv[1:]
references = [ManifestRef.model_validate_json(each) for each in (clips, *encoded)]
asked = TrainConfig.model_validate_json(config), HardwareConfig(device="cpu")
find_or_train(Path(run), *asked, Path(root), base, references[1:], references[0], train)
"""

Train = Callable[..., ManifestRef]


@pytest.fixture(scope="module")
def train(trainable) -> Train:
    """Trains on the small dataset, below a folder."""

    def run(folder: Path, config: TrainConfig = CONFIG) -> ManifestRef:
        data = (trainable.root, trainable.base, trainable.encoded, trainable.clips)
        return find_or_train(folder, config, CPU, *data, train_here)

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
    data = (trainable.root, "org/svd@main", trainable.encoded, trainable.clips)
    log = find_or_train(tmp_path / "run", config, CPU, *data, train_here)
    lineage = load_lora(weights_of(tmp_path / "run", log))[1].lineage
    assert (lineage["base"], lineage["base_revision"]) == (f"org/svd@{COMMIT}",) * 2


def test_a_lora_is_written_that_knows_its_origin_and_changes_the_model_it_is_put_on(tmp_path, train, trainable):
    log = train(tmp_path, CONFIG.model_copy(update={"motions": ("pan_left",)}))
    weights, facts = load_lora(weights_of(tmp_path, log))
    assert (facts.rank, facts.alpha) == (2, 16.0)
    every = {f"pan_left-{seed}-0" for seed in range(4)}
    assert len(facts.lineage["held_out"]) == 1
    assert {*facts.lineage["clips"], *facts.lineage["held_out"]} == every
    assert len(facts.lineage["clips"]) == 3, "what was held out was not learned"
    assert facts.lineage["dataset_digest"] == trainable.clips.digest
    assert facts.lineage["base_revision"] == compute_weights_digest(Path(trainable.base))
    assert facts.lineage["train"]["motions"] == ["pan_left"]
    assert any(w.abs().max() > 0 for name, w in weights.items() if "lora_B" in name)
    model = load_model(trainable.base)
    before = model.unet.state_dict().keys()
    with lora_applied(model, weights_of(tmp_path, log)):
        assert {name for name in model.unet.state_dict() if "lora_B" in name}
    assert model.unet.state_dict().keys() == before


def test_the_log_has_a_row_for_the_base_every_ten_steps_and_for_the_last(trained):
    _, log = trained
    rows = read_rows(log)
    assert read_manifest(log).schema == SCHEMA
    assert [row["step"] for row in rows] == [0, 10, 11]
    assert [row["loss"] is None for row in rows] == [True, False, False]
    assert all(row["opposite_8"] is None for row in rows)
    assert [row["right_8"] is None for row in rows] == [False, True, False], "a LoRA is measured on held-out sources"
    assert [row["kept"] for row in rows] == [False, False, True]


def set_up(trainable, **changes) -> Training:
    chosen = gather_examples(trainable.root, trainable.encoded, trainable.clips, ExampleChoice())
    examples = Examples(chosen, 1.0)
    model = load_model(trainable.base)
    return Training(model, examples, settle(CONFIG.model_copy(update=changes), model.facts))


@pytest.mark.training
def test_the_log_ends_with_the_errors_on_the_clips_that_were_held_out(tmp_path, trainable):
    training = set_up(trainable, parameters="all", words=True, steps=1)
    still, pan = (
        [i for i, example in enumerate(training.examples.all) if example.motion == motion]
        for motion in ("static", "pan_right")
    )
    training.judge.held_out = still
    so_far = training.run(Places(tmp_path / "checkpoint.safetensors", tmp_path / "samples"), {"steps": 1})
    row = so_far.rows[-1]
    sigmas = ("0.5", "2", "8", "30")
    assert all(row[f"right_{sigma}"] == row[f"opposite_{sigma}"] > 0 for sigma in sigmas), "a still is its opposite"
    training.judge.held_out = pan
    places = Places(tmp_path / "checkpoint.safetensors", tmp_path / "samples")
    moving = training.look(places)
    assert all(moving[f"right_{sigma}"] != moving[f"opposite_{sigma}"] for sigma in sigmas)
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
    assert f"train: goes on from step {done}" in caplog.text
    assert resumed.digest == straight.digest
    assert contents(tmp_path / "killed/weights") == contents(tmp_path / "straight/weights")
    assert contents(tmp_path / "killed/checkpoints") == contents(tmp_path / "straight/checkpoints")


def test_more_steps_go_on_from_where_a_training_ended(tmp_path, train, trained, caplog):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    with caplog.at_level("INFO", logger="reelmill"):
        more = train(folder, CONFIG.model_copy(update={"steps": 15}))
    assert "train: goes on from step 11" in caplog.text
    assert [row["step"] for row in read_rows(more)] == [0, 10, 11, 15]
    (checkpoint,) = folder.glob("checkpoints/[!.]*.safetensors")
    assert int(load_file(checkpoint)["step"]) == 15


def test_a_stopped_training_is_not_begun_again_with_something_else_without_a_word(tmp_path, train):
    def stop(state, path: Path) -> None:
        save(state, path)
        ask_to_stop()

    from models.svd.training_state import TrainingState

    save = TrainingState.save
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingState, "save", stop)
        train(tmp_path)
    forget_to_stop()
    said = r"stopped here after 3 steps, and not the same is asked for now: learning_rate was 0\.004, is 0\.1\."
    with pytest.raises(BadInput, match=said):
        train(tmp_path, CONFIG.model_copy(update={"learning_rate": 0.1}))
    assert [row["step"] for row in read_rows(train(tmp_path))] == [0, 10, 11]


def test_a_wish_to_stop_finishes_the_step_and_saves_it(tmp_path, train, monkeypatch):
    step = Training.step

    def stop_in_the_seventh(training: Training) -> tuple[float, float]:
        done = step(training)
        if training.state.step == 7:
            ask_to_stop()
        return done

    monkeypatch.setattr(Training, "step", stop_in_the_seventh)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped")
    monkeypatch.undo()
    forget_to_stop()
    (checkpoint,) = tmp_path.rglob("checkpoints/[!.]*.safetensors")
    assert int(load_file(checkpoint)["step"]) == 7
    assert train(tmp_path / "stopped").digest == train(tmp_path / "straight").digest


def test_a_loss_that_is_not_a_number_ends_the_training_at_the_last_good_state(tmp_path, train, monkeypatch):
    loss, seen = training_run.clip_losses, []

    def spoil_the_fifth(*arguments):
        seen.append(0)
        return loss(*arguments) * (float("nan") if len(seen) == 5 else 1.0)

    monkeypatch.setattr(training_run, "clip_losses", spoil_the_fifth)
    with pytest.raises(TrainingDiverged, match=r"at step 5 of 11 the loss is not a number.*rate, 0\.004: lower"):
        train(tmp_path)
    assert not list(tmp_path.glob("weights/*"))
    (checkpoint,) = tmp_path.rglob("checkpoints/[!.]*.safetensors")
    state = load_file(checkpoint)
    assert int(state["step"]) == 4
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    monkeypatch.undo()
    gentler = train(tmp_path, CONFIG.model_copy(update={"learning_rate": 1e-4}))
    assert [row["step"] for row in read_rows(gentler)] == [0, 10, 11], "what diverged is begun again"


def test_a_loss_that_grows_to_many_times_what_it_was_has_diverged():
    assert not has_grown([1.0] * 59)
    assert not has_grown([1.0] * 30 + [9.9] * 30)
    assert has_grown([1.0] * 30 + [10.1] * 30)
    assert not has_grown([1.0] * 30 + [1.0, 1000.0] * 7 + [1.0] * 16), "single steps at high noise are no divergence"


def test_two_models_that_are_the_same_function_have_the_same_loss_whatever_their_scaling_factor(tmp_path, films, model):
    """Latents of the one are the other's times 5.49, and its layers take them so: only the factor tells them apart."""
    twin, factor = load_model(model), 0.18215
    channels = twin.vae.quant_conv.weight.shape[0] // 2
    with torch.no_grad():
        twin.vae.quant_conv.weight[:channels] /= factor
        bias = twin.vae.quant_conv.bias
        assert bias is not None
        bias[:channels] /= factor
        twin.unet.conv_in.weight[:, channels:] *= factor
    twin.vae.register_to_config(scaling_factor=factor)
    save_model(twin, tmp_path / "twin")
    losses = []
    for base in (model, str(tmp_path / "twin")):
        root = tmp_path / Path(base).name
        source = replace(films(tmp_path), encoders=base)
        encoded = encode_source(root, LatentsConfig(), source)
        row = {"clip_id": source.clips[0].clip_id, "video_id": "v", "camera_motion": "pan_left", "motion_score": 0.5}
        clips = write_manifest(root / "clips.parquet", make_table([row], CLIPS), Lineage(step="made", version=1))
        config = CONFIG.model_copy(update={"steps": 1})
        log = find_or_train(root, config, CPU, root, base, encoded, clips, train_here)
        losses.append(read_rows(log)[1]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[1] == pytest.approx(losses[0], abs=2e-3)


def test_a_crop_larger_than_the_latents_is_a_sentence(tmp_path, train):
    with pytest.raises(BadInput, match=r"--train.crop 9: latents of 32x32 have 8 x 8 cells\. Ask for at most 8"):
        train(tmp_path, CONFIG.model_copy(update={"crop": 9}))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stop_half_way_leaves_whole_checkpoints_alone(tmp_path, train, monkeypatch):
    class Stopped(Exception):
        pass

    def stop_at_a_later_write(state, path: Path) -> None:
        save(state, path)
        if state.step > 3:
            raise Stopped

    from models.svd.training_state import TrainingState

    save = TrainingState.save
    monkeypatch.setattr(TrainingState, "save", stop_at_a_later_write)
    with pytest.raises(Stopped):
        train(tmp_path)
    assert not hidden(tmp_path)
    (checkpoint,) = tmp_path.rglob("checkpoints/[!.]*.safetensors")
    assert int(load_file(checkpoint)["step"]) == 3
    monkeypatch.undo()
    assert [row["step"] for row in read_rows(train(tmp_path))] == [0, 10, 11]


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


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert train_model.name == "train"
    assert STEP.files == ("weights",)
