"""Latents: an item's are its own in any batch, and come out the same after any interruption."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.generation.model_cache import get_model
from models.noise import draw_item_noise
from models.svd.model import load_model
from tasks.generate import sample_batch
from tasks.generate.jobs import SCHEMA as JOBS
from tasks.generate.sample import (
    SCHEMA,
    STEP,
    SampleConfig,
    digest_latents,
    plan_all_batches,
    sample_jobs,
)
from tasks.manifest import Lineage, ManifestRef, make_table, read_lineage, read_manifest, read_rows, write_manifest
from tests.declared import declared
from tests.job_tables import table
from tests.sampled_jobs import NAMES, latents_of, read, rows_of, run


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.slow
def test_every_job_gets_its_latents_with_their_digest_and_their_settings(tmp_path, pictures, model):
    jobs = read(tmp_path / "out", pictures(*NAMES[:3]), model)
    manifests = run(tmp_path / "out", jobs, batch=2)
    assert [row["item_key"] for m in manifests for row in read_rows(m)] == [r["item_key"] for r in read_rows(jobs)]
    assert read_manifest(manifests[0]).schema == SCHEMA
    for key, row in rows_of(manifests).items():
        path = tmp_path / "out" / row["latents"]
        latents = load_file(path)["latents"]
        assert latents.shape == (4, 4, 8, 8)
        assert latents.dtype == torch.float32
        assert row["latents_sha256"] == digest_latents(latents)
        assert (row["error_code"], row["attempt"], row["device"]) == (None, 1, "cpu")
        with safe_open(path, "pt") as file:
            assert f'"item_key": "{key}"' in file.metadata()["reelmill"]
    lineage = read_lineage(manifests[0].path)
    assert lineage.parameters["steps"] == 2
    assert lineage.model_revision == load_model(model).revision


def test_a_picture_that_a_table_of_jobs_names_outside_of_its_folder_is_not_read(tmp_path, pictures, model):
    root = tmp_path / "out"
    jobs = read(root, pictures("a.png"), model)
    rows = read_rows(jobs)
    shutil.copy(root / rows[0]["picture"], tmp_path / "secret.png")
    rows[0] |= {"picture": "../secret.png"}
    tampered = write_manifest(root / "tampered.parquet", make_table(rows, JOBS), Lineage(step="jobs", version=1))
    (row,) = rows_of(run(root, tampered, 1)).values()
    assert (row["latents"], row["error_code"]) == (None, "bad_manifest")
    assert "'../secret.png': is outside of" in row["error_message"]


@pytest.mark.slow
def test_batch_size_and_order_change_latents_by_rounding_only(tmp_path, pictures, model):
    home = pictures(*NAMES)
    backwards = tmp_path / "pictures" / "backwards.csv"
    backwards.write_text("image\n" + "\n".join(reversed(NAMES)) + "\n")
    made = {
        batch: latents_of(root, run(root, read(root, home, model), batch))
        for batch in (1, 2, 4)
        for root in [tmp_path / f"out-{batch}"]
    }
    root = tmp_path / "out-backwards"
    made[0] = latents_of(root, run(root, read(root, backwards, model), 2))
    for batch in (0, 2, 4):
        assert made[batch].keys() == made[1].keys()
        assert max((made[batch][k] - made[1][k]).abs().max().item() for k in made[1]) < 1e-4


def test_motions_by_a_word_by_regions_and_none_are_sampled_apart(tmp_path, pictures):
    home = pictures("a.png")
    asked = (None, "roll", "pan_left", "zoom_in", "static")
    lines = [f"a.png,{motion or ''}" for motion in asked]
    (home / "jobs.csv").write_text("image,motion\n" + "\n".join(lines) + "\n")
    jobs = read(tmp_path / "out", home / "jobs.csv", "tiny")
    names = {row["item_key"]: row["motion"] for row in read_rows(jobs)}
    batches = [[names[key] for key in keys] for _, keys in plan_all_batches(jobs, SampleConfig(batch=4))]
    assert batches == [[None], ["roll", "zoom_in"], ["pan_left", "static"]]


@pytest.mark.slow
def test_alone_latents_are_the_same_bits_in_any_order(tmp_path, pictures, model):
    home = pictures(*NAMES[:3])
    (home / "jobs.csv").write_text("image\nc.png\na.png\n")
    every = rows_of(run(tmp_path / "one", read(tmp_path / "one", home, model), 1))
    some = rows_of(run(tmp_path / "two", read(tmp_path / "two", home / "jobs.csv", model), 1))
    assert len(some) == 2
    assert all(every[key]["latents_sha256"] == row["latents_sha256"] for key, row in some.items())


@pytest.mark.slow
def test_the_same_batch_gives_the_same_files(tmp_path, pictures, model):
    home = pictures(*NAMES[:2])
    for name in ("one", "two"):
        run(tmp_path / name, read(tmp_path / name, home, model), 2)
    files = [sorted((tmp_path / name / "latents").iterdir()) for name in ("one", "two")]
    assert [f.name for f in files[0]] == [f.name for f in files[1]]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


@pytest.mark.slow
def test_takes_and_seeds_draw_other_noise(tmp_path, pictures, model):
    home = pictures("a.png")
    takes = rows_of(run(tmp_path / "out", read(tmp_path / "out", home, model, takes=2), 2))
    other = rows_of(run(tmp_path / "out", read(tmp_path / "out", home, model, seed=1), 1))
    assert len({row["latents_sha256"] for row in (*takes.values(), *other.values())}) == 3


@pytest.mark.slow
def test_a_word_and_a_lora_change_the_clip_and_leave_the_model_as_it_was(tmp_path, pictures, model, lora):
    home, root = pictures("a.png"), tmp_path / "out"
    settings: list[dict[str, Any]] = [
        {},
        {"motion": "pan_left"},
        {"lora": str(lora)},
        {"lora": str(lora), "lora_strength": 0.0},
    ]
    plain, told, adapted, weak = (
        next(iter(latents_of(root, run(root, read(root, home, model, **s), 1)).values())) for s in settings
    )
    assert (plain - told).abs().max() > 1e-3
    assert (plain - adapted).abs().max() > 1e-3
    assert torch.allclose(plain, weak, atol=1e-5), "a LoRA of no strength does nothing"
    again = latents_of(tmp_path / "again", run(tmp_path / "again", read(tmp_path / "again", home, model), 1))
    assert torch.equal(next(iter(again.values())), plain)


def test_a_lora_that_changed_since_its_job_was_read_is_a_row_that_says_so(tmp_path, pictures, model, lora):
    own = tmp_path / "own.safetensors"
    shutil.copy(lora, own)
    jobs = read(tmp_path / "out", table(pictures("a.png"), {"image": "a.png", "lora": str(own)}), model)
    own.write_bytes(lora.read_bytes()[:-4] + bytes(4))
    (row,) = rows_of(run(tmp_path / "out", jobs, 1)).values()
    assert (row["error_code"], row["latents"]) == ("source_changed", None)


@pytest.mark.slow
def test_jobs_of_different_kinds_in_one_table_are_batched_apart(tmp_path, pictures, model, lora):
    home = pictures("a.png", "b.png")
    rows = [
        {"image": "a.png", "motion": None, "steps": None, "lora": None},
        {"image": "a.png", "motion": "pan_left"},
        {"image": "b.png", "motion": "static"},
        {"image": "b.png"},
        {"image": "a.png", "steps": 1},
        {"image": "a.png", "lora": str(lora)},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(dict.fromkeys(("image", "motion", "lora"), pa.string()) | {"steps": pa.int64()})), home / "jobs.parquet")  # fmt: skip  # noqa: E501
    jobs = read(tmp_path / "out", home / "jobs.parquet", model)
    keys = [row["item_key"] for row in read_rows(jobs)]
    planned = [[keys.index(key) for key in batch] for _, batch in plan_all_batches(jobs, SampleConfig(batch=4))]
    assert planned == [[0, 3], [1, 2], [4], [5]]
    made = rows_of(run(tmp_path / "out", jobs, batch=4))
    assert all(row["latents"] for row in made.values())


@pytest.mark.slow
def test_what_is_there_is_not_sampled_again_whatever_the_batch(tmp_path, pictures, model, monkeypatch):
    root = tmp_path / "out"
    first = run(root, read(root, pictures(*NAMES[:3]), model), 2)
    sampled: list[list[str]] = []
    real = sample_batch.sample_batch

    def counting(root: Path, model, items, plan, *noise):
        sampled.append([item.name for item in items])
        return real(root, model, items, plan, *noise)

    monkeypatch.setattr(sample_batch, "sample_batch", counting)
    again = run(root, read(root, pictures(*NAMES[:3]), model), 4)
    assert sampled == []
    assert all(manifest.cached for manifest in again)
    assert [m.digest for m in again] == [m.digest for m in first]
    run(root, read(root, pictures(*NAMES), model), 4)
    assert sampled == [["d", "e"]], "only the new pictures are sampled"


@pytest.mark.slow
def test_a_lost_file_is_sampled_again_in_the_batch_it_was_made_in(tmp_path, pictures, model):
    root = tmp_path / "out"
    jobs = read(root, pictures(*NAMES), model)
    before = rows_of(run(root, jobs, 4))
    files = {path: path.read_bytes() for path in (root / "latents").iterdir()}
    lost = [root / before[read_rows(jobs)[n]["item_key"]]["latents"] for n in (1, 4)]
    for path in lost:
        path.unlink()
    assert rows_of(run(root, jobs, 4)) == before
    assert {path: path.read_bytes() for path in (root / "latents").iterdir()} == files


@pytest.mark.slow
def test_a_clip_that_cannot_be_sampled_is_a_row_and_its_neighbours_are_made(tmp_path, pictures, model, monkeypatch):
    root = tmp_path / "out"
    jobs = read(root, pictures(*NAMES[:3]), model)
    real = sample_batch.sample_batch

    def failing(root: Path, model, items, plan, *noise):
        if any(item.name == "b" for item in items):
            raise torch.OutOfMemoryError("out of memory")
        return real(root, model, items, plan, *noise)

    monkeypatch.setattr(sample_batch, "sample_batch", failing)
    states = [next(iter(rows_of([m]).values())) for m in run(root, jobs, 4)]
    assert [(s["error_code"], s["latents"] is None, s["attempt"]) for s in states] == [
        (None, False, 1),
        ("out_of_memory", True, 1),
        (None, False, 1),
    ]
    assert states[1]["error_message"].startswith("b: sampling ran out of memory, however little it took at a time; ask")
    assert rows_of(run(root, jobs, 4)[1:2]).popitem()[1]["attempt"] == 2, "the next run tries again and counts"
    monkeypatch.setattr(sample_batch, "sample_batch", real)
    assert rows_of(run(root, jobs, 4)[1:2]).popitem()[1]["error_code"] is None
    assert not list(root.glob("manifests/sample_failed/*.parquet")), "what was made since did not fail"


def test_latents_that_are_not_numbers_are_a_failure_of_their_own_item(tmp_path, pictures, model, monkeypatch):
    real = sample_batch.sample_batch

    def spoiled(root: Path, model, items, plan, *noise):
        latents = real(root, model, items, plan, *noise)
        latents[0, 0] = float("nan")
        return latents

    monkeypatch.setattr(sample_batch, "sample_batch", spoiled)
    root = tmp_path / "out"
    states = rows_of(run(root, read(root, pictures("a.png", "b.png"), model), 2))
    assert [row["error_code"] for row in states.values()] == ["not_finite", None]


def test_damaged_weights_are_named_as_what_is_likely(tmp_path, pictures, model):
    root, broken = tmp_path / "out", tmp_path / "broken"
    shutil.copytree(model, broken)
    for file in (broken / "unet").glob("*.safetensors"):
        weights = load_file(file)
        weights["conv_out.weight"].fill_(float("nan"))
        save_file(weights, file)
    (row,) = rows_of(run(root, read(root, pictures("a.png"), str(broken)), 1)).values()
    assert (row["error_code"], row["latents"]) == ("not_finite", None)
    assert row["error_message"].startswith(
        "a: the latents are not finite numbers: the weights of the model or the LoRA"
    )
    assert "probably damaged; fetch them again" in row["error_message"]


def test_a_model_that_changed_since_the_jobs_were_read_is_refused(tmp_path, pictures, model):
    root = tmp_path / "out"
    jobs = read(root, pictures("a.png"), model)
    rows = read_manifest(jobs)
    place = rows.column_names.index("model_revision")
    rows = rows.set_column(place, "model_revision", pa.array(["0" * 64]))
    pq.write_table(rows, tmp_path / "stale.parquet")
    stale = ManifestRef(path=tmp_path / "stale.parquet", digest="", rows=1)
    row = rows_of(run(root, stale, 1)).popitem()[1]
    assert row["error_code"] == "bad_model"
    assert "files changed while it was in use" in row["error_message"]


def test_the_noise_handed_to_the_sampler_is_the_items_own(tmp_path, pictures, model, monkeypatch):
    seen: list[Tensor] = []
    real = sample_batch.sample_latents

    def looking(model, pictures, noise, augmentation, motions, **settings):
        seen.append(noise)
        return real(model, pictures, noise, augmentation, motions, **settings)

    monkeypatch.setattr(sample_batch, "sample_latents", looking)
    root = tmp_path / "out"
    jobs = read(root, pictures(*NAMES[:3]), model, seed=3)
    run(root, jobs, 3)
    shape = get_model(model).latent_shape(4, 32, 32)
    for row, noise in zip(read_rows(jobs), seen[0], strict=True):
        assert torch.equal(noise, draw_item_noise(3, row["image_sha256"], 0, shape, (32, 32)).latents)


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(SampleConfig) == {"": "frozen=True, extra='forbid'", "batch": "1, ge=1, le=256", "device": "'auto'"}


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert sample_jobs.name == "sample"
    assert STEP.files == ("latents",)
