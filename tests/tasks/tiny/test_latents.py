"""The encoded footage: a row for each shot, latents that decode to it, and files that are made once."""

from pathlib import Path

import pytest
import torch

from models.pictures import from_pixels
from models.svd.autoencoder import encode_frames
from models.svd.model import load_model
from tasks.manifest import read_rows
from tasks.tiny.latents import STEP, FootageConfig, encode_files, encode_shots
from tasks.tiny.render import FRAMES, SIDE, film_scene
from tests.declared import declared

torch.set_num_threads(1)

CONFIG = FootageConfig(scenes=3, scenes_per_file=2, shots=2)


def test_a_shots_latents_are_those_of_its_frames_and_its_ends_are_noised(model: str):
    loaded = load_model(model)
    shots = list(film_scene(0, CONFIG))
    parts = encode_shots(loaded, shots, seed=1)
    frames = from_pixels(torch.from_numpy(shots[1].frames).permute(0, 3, 1, 2))
    true = encode_frames(loaded.vae, frames)
    cells = SIDE // loaded.latent_scale
    assert parts["latents"].shape == (2, FRAMES, 4, cells, cells)
    assert parts["latents"].dtype == torch.float16
    # In bfloat16, where the processor has it.
    assert (parts["latents"][1] - true).abs().mean() < 0.02 * true.std()
    off = [(parts["pictures"][1, i] - true[at]).std() for i, at in ((0, 0), (1, -1))]
    swapped = (parts["pictures"][1, 0] - true[-1]).std()
    assert max(off) < swapped or shots[1].forwards == "static"
    assert parts["sigmas"].shape == (2, 2)
    assert parts["embeddings"].shape == (2, 2, 64)
    assert torch.equal(encode_shots(loaded, shots, seed=1)["pictures"], parts["pictures"])
    assert not torch.equal(encode_shots(loaded, shots, seed=2)["pictures"], parts["pictures"])


def test_files_have_a_row_for_each_shot_and_are_made_once(tmp_path: Path, model: str):
    asked = [(Path(model), 0), (Path(model), 2)]
    made = encode_files.fn(tmp_path, CONFIG, asked)
    rows = [read_rows(manifest) for manifest in made]
    assert [[row["scene"] for row in part] for part in rows] == [[0, 0, 1, 1], [2, 2]]
    assert [row["row"] for row in rows[0]] == [0, 1, 2, 3]
    told = [(shot.forwards, shot.backwards, shot.flow) for shot in film_scene(1, CONFIG)]
    assert [(row["forwards"], row["backwards"], row["flow"]) for row in rows[0][2:]] == told
    assert (tmp_path / rows[0][0]["latents"]).is_file()
    assert all(again.cached for again in encode_files.fn(tmp_path, CONFIG, asked))
    (tmp_path / rows[1][0]["latents"]).unlink()
    assert [again.cached for again in encode_files.fn(tmp_path, CONFIG, asked)] == [True, False]


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(FootageConfig) == {
        "": "frozen=True, extra='forbid'",
        "scenes": "2500, ge=1",
        "scenes_per_file": "25, ge=1",
    }


@pytest.mark.parametrize("name", ["latents"])
def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes(name: str):
    assert encode_files.name == STEP.name == name
    assert STEP.files == ("latents",)
