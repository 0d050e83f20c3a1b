"""The embedded model's training as a step: its curve, the model it ends in, and how it goes on elsewhere."""

from pathlib import Path

import pytest
import torch

from models.svd.model import load_model
from tasks.manifest import ManifestRef, read_rows
from tasks.tiny import train
from tasks.tiny.latents import FootageConfig, encode_files
from tasks.tiny.sitting import MOTIONS, SittingConfig
from tasks.tiny.train import STEP, count_steps, measure, read_files, train_unet

torch.set_num_threads(1)

FOOTAGE = FootageConfig(scenes=2, scenes_per_file=1, shots=2)

CONFIG = SittingConfig(steps=2, batch=1, fall=1, measure_every=2)

FIGURES = {"first_frame_psnr_db": 9.0, "last_frame_psnr_db": 8.0, "obeyed": 0.25}


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory, model: str) -> tuple[Path, list[ManifestRef]]:
    root = tmp_path_factory.mktemp("latents")
    return root, encode_files.fn(root, FOOTAGE, [(Path(model), 0), (Path(model), 1)])


@pytest.fixture(autouse=True)
def _quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "measure", lambda _: FIGURES)


def test_files_are_read_when_they_are_asked_for(latents):
    root, manifests = latents
    files = read_files(root, [manifests[0], manifests[0].model_copy(update={"path": root / "gone.parquet"})])
    rows = read_rows(manifests[0])
    assert len(next(files)) == sum(row[way] is not None for row in rows for way in ("forwards", "backwards"))


@pytest.mark.training
def test_a_sitting_ends_in_a_model_with_words_and_its_curve_and_is_held_once(latents, tmp_path: Path, model: str):
    root, manifests = latents
    state = tmp_path / "state"
    made = train_unet.fn(root, CONFIG, Path(model), manifests, state, 0)
    (row,) = read_rows(made)
    assert (row["step"], row["obeyed"], row["last_frame_psnr_db"]) == (2, 0.25, 8.0)
    assert count_steps(Path(model), state) == 2
    folder = (root / row["model"]).parent
    loaded = load_model(str(folder))
    assert set(loaded.words) == set(MOTIONS)
    assert loaded.facts.lineage["curve"][-1]["step"] == 2
    assert loaded.facts.lineage["sitting"]["batch"] == 1
    assert train_unet.fn(root, CONFIG, Path(model), manifests, state, 0).cached

    elsewhere = tmp_path / "elsewhere"
    assert count_steps(folder, elsewhere) == 2
    more = CONFIG.model_copy(update={"steps": 3})
    rows = read_rows(train_unet.fn(root, more, folder, manifests, elsewhere, 2))
    assert [each["step"] for each in rows] == [2, 3]
    assert rows[1]["hours"] > rows[0]["hours"]


@pytest.mark.slow
@pytest.mark.usefixtures("model")
def test_the_curve_is_measured_on_pictures_without_movers(model: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "MOTIONS", ("static", "pan_left"))
    monkeypatch.setattr(train, "SAMPLING_STEPS", 1)
    monkeypatch.setattr(train, "SCENES", 1)
    figures = measure(load_model(model))
    assert set(figures) == set(FIGURES)
    assert 3 < figures["last_frame_psnr_db"] < 25
    assert figures["obeyed"] in (0.0, 0.5, 1.0)


def test_a_model_that_had_no_sitting_has_had_no_steps(tmp_path: Path, model: str):
    assert count_steps(Path(model), tmp_path) == 0


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert train_unet.name == STEP.name == "train"
    assert STEP.files == ("model",)
