"""Every row of a job list becomes a resolved job, or says why it cannot be made; none stops the others."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from models.errors import BadInput
from tasks.asking import JobsConfig, safe_name
from tasks.generate.jobs import SCHEMA, mark_duplicates, read_jobs
from tasks.manifest import read_lineage, read_manifest, read_rows

Pictures = Callable[..., Path]


def jobs_of(root: Path, jobs: Path, model: str, **settings: Any) -> list[dict[str, Any]]:
    return read_rows(read_jobs.fn(root, JobsConfig(model=model, **settings), jobs))


def table(folder: Path, *rows: dict[str, Any], name: str = "jobs.parquet") -> Path:
    pq.write_table(
        pa.Table.from_pylist([dict.fromkeys(k for r in rows for k in r) | row for row in rows]), folder / name
    )
    return folder / name


def test_a_folder_gives_a_job_for_each_picture_with_the_models_own_settings(tmp_path, pictures, model):
    ref = read_jobs.fn(tmp_path / "out", JobsConfig(model=model), pictures("b.png", "a.png"))
    rows = read_rows(ref)
    assert read_manifest(ref).schema == SCHEMA
    assert [(r["job"], r["name"], r["status"], r["error_code"], r["attempt"]) for r in rows] == [
        (0, "a", "ready", None, 1),
        (1, "b", "ready", None, 1),
    ]
    first = rows[0]
    assert (first["frames"], first["width"], first["height"], first["fps"]) == (4, 32, 32, 7.0)
    assert (first["motion_bucket"], first["guidance_min"], first["guidance_max"]) == (127, 1.0, 3.0)
    assert (first["seed"], first["take"], first["steps"], first["noise_aug"]) == (0, 0, 25, 0.02)
    assert first["image"] == str(tmp_path / "pictures" / "a.png")
    assert first["key"] == first["image_sha256"]
    assert first["lineage"] == '{"model": {"dataset": "rendered"}}'
    assert read_lineage(ref.path).model_revision == first["model_revision"]


def test_the_picture_is_written_at_the_models_size(tmp_path, pictures, model):
    row = jobs_of(tmp_path / "out", pictures("a.png"), model)[0]
    with Image.open(tmp_path / "out" / row["picture"]) as picture:
        assert (picture.size, picture.mode) == ((32, 32), "RGB")


def test_a_row_overrides_the_run_and_the_run_overrides_the_model(tmp_path, pictures, model):
    home = pictures("a.png", "b.png")
    asked = {"image": "a.png", "seed": 5, "steps": 3, "fps": 12.0, "motion_bucket": 40, "guidance_max": 2.5}
    rows = jobs_of(tmp_path / "out", table(home, asked, {"image": "b.png"}), model, seed=9, fps=10, guidance=(1.2, 2.0))
    names = ("seed", "steps", "fps", "motion_bucket", "guidance_min", "guidance_max")
    assert [rows[0][n] for n in names] == [5, 3, 12.0, 40, 1.2, 2.5]
    assert [rows[1][n] for n in names] == [9, 25, 10.0, 127, 1.2, 2.0]


def test_bad_rows_say_why_and_leave_the_good_ones(tmp_path, pictures, model):
    home = pictures("good.png", "other.png")
    pictures("secret.png", folder="elsewhere")
    (home / "text.png").write_text("words")
    (home / "empty.png").touch()
    (home / "cut.png").write_bytes((home / "good.png").read_bytes()[:300])
    cases = [
        ({"image": "good.png"}, None, ""),
        ({"image": "gone.png"}, "bad_input", "gone.png: no such file"),
        ({"image": "text.png"}, "bad_media", "text.png: cannot be read as a picture"),
        ({"image": "empty.png"}, "bad_media", "empty.png: cannot be read as a picture"),
        ({"image": "cut.png"}, "bad_media", "cut.png: cannot be read as a picture"),
        ({"image": "../elsewhere/secret.png"}, "bad_input", "lies outside"),
        ({"image": "good.png", "steps": 0}, "bad_input", "column steps: input should be greater than or equal to 1"),
        ({"image": "good.png", "motion": "sideways"}, "bad_input", "motion 'sideways': the model does not know it"),
        ({"image": "good.png", "lora": "gone.safetensors"}, "bad_input", "no LoRA file there"),
        ({"image": "good.png", "lora": "text.png"}, "bad_model", "not a LoRA"),
        ({"image": "good.png"}, "duplicate", "asks for the same clip as job 0"),
        ({"seed": 4}, "bad_input", "column image: field required"),
        ({"image": "other.png"}, None, ""),
    ]
    rows = jobs_of(tmp_path / "out", table(home, *(case[0] for case in cases)), model)
    assert [r["error_code"] for r in rows] == [case[1] for case in cases]
    for row, (_, code, reason) in zip(rows, cases, strict=True):
        assert reason in (row["error_message"] or "")
        assert row["status"] == {None: "ready", "duplicate": "duplicate"}.get(code, "failed")
        assert (row["item_key"] is None) == (row["status"] == "failed")


def test_an_identical_job_has_the_same_key_wherever_it_stands(tmp_path, pictures, model):
    home = pictures("a.png", "b.png")
    alone = jobs_of(tmp_path / "one", table(home, {"image": "a.png"}), model)[0]
    (tmp_path / "moved").mkdir()
    shutil.copy(home / "a.png", tmp_path / "moved" / "z.png")
    shutil.copy(home / "b.png", tmp_path / "moved" / "b.png")
    later = jobs_of(tmp_path / "two", tmp_path / "moved", model)[1]
    assert later["item_key"] == alone["item_key"]
    assert (later["job"], later["name"]) == (1, "z")


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"steps": 24}, {"fps": 8}, {"motion_bucket": 1}, {"noise_aug": 0.1}, {"guidance": (1, 2)},
     {"motion": "pan_left"}, {"fit": "pad"}],
)  # fmt: skip
def test_every_setting_that_matters_changes_the_key(tmp_path, pictures, model, change):
    home = pictures("a.png")
    plain, changed = (jobs_of(tmp_path / "out", home, model, **settings)[0] for settings in ({}, change))
    assert plain["item_key"] != changed["item_key"]
    assert plain["key"] == changed["key"], "the noise belongs to the picture, so that settings can be compared"


def test_takes_are_rows_of_their_own(tmp_path, pictures, model):
    rows = jobs_of(tmp_path / "out", pictures("a.png", "b.png"), model, takes=3)
    assert [(r["job"], r["take"]) for r in rows] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert len({r["item_key"] for r in rows}) == 6
    assert rows[0]["item_key"] == jobs_of(tmp_path / "out", pictures("a.png"), model)[0]["item_key"]


def test_a_key_names_the_noise_and_the_file(tmp_path, pictures, model):
    home = pictures("a.png")
    rows = jobs_of(tmp_path / "out", table(home, {"image": "a.png", "key": "shot 12/B"}, {"image": "a.png"}), model)
    assert [r["status"] for r in rows] == ["ready", "ready"]
    assert (rows[0]["key"], rows[0]["name"]) == ("shot 12/B", "shot-12-B")


def test_a_motion_lora_is_asked_for_its_motion_without_a_word(tmp_path, pictures, model, lora):
    home = pictures("a.png")
    table_path = table(
        home,
        {"image": "a.png", "lora": None, "motion": None},
        {"image": "a.png", "lora": str(lora)},
        {"image": "a.png", "lora": str(lora), "motion": "pan_left"},
        {"image": "a.png", "lora": str(lora), "motion": "tilt_down"},
    )
    plain, own, told, unknown = jobs_of(tmp_path / "out", table_path, model, lora_strength=0.5)
    assert (plain["motion"], plain["word"], plain["lora"]) == (None, None, None)
    assert (own["motion"], own["word"], own["lora_strength"]) == ("tilt_up", None, 0.5)
    assert (told["motion"], told["word"]) == ("pan_left", "pan_left")
    assert unknown["status"] == "failed"
    assert len({plain["item_key"], own["item_key"], told["item_key"]}) == 3
    assert '"dataset": "beach"' in own["lineage"]
    assert '"clips": 40' in own["lineage"], "long lists are counted, not repeated in every row"


def test_a_changed_lora_is_another_clip(tmp_path, pictures, model, lora):
    home = pictures("a.png")
    before = jobs_of(tmp_path / "out", home, model, lora=str(lora))[0]
    changed = tmp_path / "other.safetensors"
    content = bytearray(lora.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    assert jobs_of(tmp_path / "out", home, model, lora=str(changed))[0]["item_key"] != before["item_key"]


def test_a_second_reading_finds_the_first_and_changed_pictures_are_seen(tmp_path, pictures, model):
    home, config = pictures("a.png", "b.png"), JobsConfig(model=model)
    first = read_jobs.fn(tmp_path / "out", config, home)
    assert read_jobs.fn(tmp_path / "out", config, home).cached
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(home / "a.png")
    second = read_jobs.fn(tmp_path / "out", config, home)
    assert not second.cached
    old, new = read_rows(first), read_rows(second)
    assert old[0]["item_key"] != new[0]["item_key"]
    assert old[1] == new[1]


def test_a_deleted_prepared_picture_is_made_again(tmp_path, pictures, model):
    home, config = pictures("a.png"), JobsConfig(model=model)
    first = read_jobs.fn(tmp_path / "out", config, home)
    picture = tmp_path / "out" / read_rows(first)[0]["picture"]
    content = picture.read_bytes()
    picture.unlink()
    second = read_jobs.fn(tmp_path / "out", config, home)
    assert not second.cached
    assert second.digest == first.digest
    assert picture.read_bytes() == content


def test_two_output_folders_get_the_same_manifest(tmp_path, pictures, model):
    home, config = pictures("a.png"), JobsConfig(model=model)
    one, two = (read_jobs.fn(tmp_path / name, config, home).path.read_bytes() for name in ("one", "two"))
    assert one == two


def test_what_no_job_can_be_made_of_is_refused(tmp_path, pictures, model):
    home = pictures("a.png")
    with pytest.raises(BadInput, match="no such folder or file"):
        jobs_of(tmp_path / "out", tmp_path / "gone", model)
    with pytest.raises(BadInput, match="unknown column colour"):
        jobs_of(tmp_path / "out", table(home, {"image": "a.png", "colour": "red"}), model)
    with pytest.raises(BadInput, match="no model there"):
        jobs_of(tmp_path / "out", home, str(home))
    with pytest.raises(ValidationError, match="takes"):
        JobsConfig(takes=0)


def test_names_are_safe_in_a_file_name():
    assert safe_name("../../etc/passwd") == "etc-passwd"
    assert safe_name("caf\u00e9 au lait (2).x") == "caf-au-lait-2-.x"
    assert safe_name("...") == safe_name("\u7321") == "item"
    assert len(safe_name("a" * 300)) == 60


def test_only_the_first_of_equal_jobs_is_made():
    rows = [
        {"job": n, "name": "x", "item_key": key, "status": "ready"} for n, key in enumerate(("a", "b", "a", None, None))
    ]
    assert [row["status"] for row in mark_duplicates(rows)] == ["ready", "ready", "duplicate", "ready", "ready"]
