"""Every row of a job list becomes a resolved job, or says why it cannot be made; none stops the others."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from models.errors import BadInput
from models.svd.lora import load_lora, save_lora
from tasks.generate.comfyui_jobs import make_workflow
from tasks.generate.job_columns import KEYED, file_key, item_key
from tasks.generate.job_settings import JobsConfig
from tasks.generate.jobs import PLACES, SCHEMA, STEP, make_take_rows, mark_duplicates, read_jobs
from tasks.manifest import read_lineage, read_manifest, read_rows
from tests.job_tables import jobs_of, table
from tests.models.test_picture_colours import P3, make_rgb_profile

Pictures = Callable[..., Path]

KNOWN_ITEM_KEY = "2ae8d7e0bcd941cfbb7ad7af8e1fe2c8"


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
        ({"image": "../elsewhere/secret.png"}, "bad_input", "is outside"),
        ({"image": "good.png", "steps": 0}, "bad_input", "column steps: input should be greater than or equal to 1"),
        ({"image": "good.png", "motion": "sideways"}, "bad_input", "motion 'sideways': the model does not know it"),
        ({"image": "good.png", "lora": "gone.safetensors"}, "bad_input", "no LoRA file there"),
        ({"image": "good.png", "lora": "text.png"}, "bad_model", "not a LoRA"),
        ({"image": "good.png"}, "duplicate", "asks for the same clip as job 0"),
        ({"seed": 4}, "bad_input", "Stable Video Diffusion needs a picture: give one in the column image."),
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


def test_rows_that_differ_in_their_playback_alone_are_two_files_of_one_clip(tmp_path, pictures, model):
    asked = ({"image": "a.png", **own} for own in ({}, {"playback_fps": 12}, {"playback_fps": 7}, {"playback_fps": 24}))
    rows = jobs_of(tmp_path / "out", table(pictures("a.png"), *asked), model)
    assert [(r["fps"], r["playback_fps"]) for r in rows] == [(7.0, 7.0), (7.0, 12.0), (7.0, 7.0), (7.0, 24.0)]
    assert [r["status"] for r in rows] == ["ready", "ready", "duplicate", "ready"], "7 is what it is anyway"
    assert len({r["item_key"] for r in rows}) == 1
    assert [r["playback_fps"] for r in jobs_of(tmp_path / "run", pictures("a.png"), model, playback_fps=9)] == [9.0]


def test_the_keys_of_clips_are_what_they_were(tmp_path, pictures):
    """Pinned: an upgrade that changed them would make every clip again."""
    row = {name: n for n, name in enumerate(KEYED)}
    assert item_key(row) == KNOWN_ITEM_KEY
    assert file_key(row | {"item_key": "k", "fps": 7.0, "playback_fps": 7.0}) == "k"
    assert file_key(row | {"item_key": "k", "fps": 7.0, "playback_fps": 8.0}) not in ("k", "")


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


def test_the_embedded_model_is_told_zooms_and_rolls_by_regions_but_for_a_lora_that_makes_them(tmp_path, pictures, lora):
    home = pictures("a.png")
    motions = ("pan_left", "zoom_in", "zoom_out", "roll")
    rows = jobs_of(tmp_path / "out", table(home, *({"image": "a.png", "motion": m} for m in motions)), "tiny")
    assert [row["word"] for row in rows] == ["pan_left", "regions:zoom_in", "regions:zoom_out", "regions:roll"]
    assert [row["motion"] for row in rows] == list(motions)
    assert len({row["item_key"] for row in rows}) == 4
    weights, facts = load_lora(lora)
    zooming = tmp_path / "zoom.safetensors"
    save_lora(zooming, weights, replace(facts, lineage={"train": {"motions": ["zoom_in"]}}))
    (by_lora,) = jobs_of(tmp_path / "by-lora", home, "tiny", lora=str(zooming))
    assert (by_lora["motion"], by_lora["word"]) == ("zoom_in", None)


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


def test_a_key_knows_no_path_and_the_rows_say_where_files_lie_now(tmp_path, pictures, model, lora):
    home, out = pictures("a.png"), tmp_path / "out"
    lora = Path(shutil.copy(lora, tmp_path))
    here = read_jobs.fn(out, JobsConfig(model=model, lora=str(lora)), home)
    assert read_jobs.fn(out, JobsConfig(model=model, lora=str(lora)), home).cached
    before = read_rows(here)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in (lora, home):
        path.rename(elsewhere / path.name)
    moved = read_jobs.fn(out, JobsConfig(model=model, lora=str(elsewhere / lora.name)), elsewhere / home.name)
    assert (moved.path, moved.cached) == (here.path, False)
    (old,), (new,) = before, read_rows(moved)
    assert (new["lora"], new["image"]) == (str(elsewhere / lora.name), str(elsewhere / home.name / "a.png"))
    assert {k: v for k, v in old.items() if k not in PLACES} == {k: v for k, v in new.items() if k not in PLACES}


def test_what_no_job_can_be_made_of_is_refused(tmp_path, pictures, model):
    home = pictures("a.png")
    with pytest.raises(BadInput, match="no such folder or file"):
        jobs_of(tmp_path / "out", tmp_path / "gone", model)
    with pytest.raises(BadInput, match="unknown column promt"):
        jobs_of(tmp_path / "out", table(home, {"image": "a.png", "promt": "red"}), model)
    with pytest.raises(BadInput, match="no model there"):
        jobs_of(tmp_path / "out", home, str(home))
    with pytest.raises(ValidationError, match="takes"):
        JobsConfig(takes=0)


def test_only_the_first_of_equal_jobs_is_made():
    rows = [
        {"job": n, "name": "x", "item_key": key, "status": "ready"} for n, key in enumerate(("a", "b", "a", None, None))
    ]
    assert [row["status"] for row in mark_duplicates(rows)] == ["ready", "ready", "duplicate", "ready", "ready"]


def test_sizes_are_rounded_to_what_the_model_takes_and_it_is_said(pictures, tmp_path, model):
    home = pictures("a.png")
    row = jobs_of(tmp_path / "out", table(home, {"image": "a.png", "width": 43, "height": 9, "frames": 6}), model)[0]
    assert (row["width"], row["height"], row["frames"]) == (40, 8, 6)
    assert row["ignored"] == ["size 43x9: made as 40x8, because sides must be multiples of 8."]
    with Image.open(tmp_path / "out" / row["picture"]) as picture:
        assert picture.size == (40, 8)


def test_the_rest_of_an_animation_is_said_to_be_left_out(pictures, tmp_path, model):
    home = pictures("a.png")
    frames = [Image.new("RGB", (16, 16), (n, 0, 0)) for n in (10, 120, 240)]
    frames[0].save(home / "b.gif", save_all=True, append_images=frames[1:])
    still, moving = jobs_of(tmp_path / "out", home, model)
    assert still["ignored"] is None
    assert moving["ignored"] == ["b: all but the first of its 3 pictures."]


def test_a_row_says_how_the_colours_of_its_picture_were_converted(pictures, tmp_path, model):
    home = pictures("a.png", "b.png")
    with Image.open(home / "b.png") as picture:
        picture.convert("RGB").save(home / "b.png", icc_profile=make_rgb_profile("Display P3", P3, 2.2))
    for _ in range(2):
        plain, wide = jobs_of(tmp_path / "out", home, model)
        assert plain["converted"] is None
        assert wide["converted"] == ["colours: profile 'Display P3' to sRGB."]


def test_each_row_may_have_a_model_of_its_own_and_an_unknown_one_is_a_row(pictures, tmp_path, model):
    home = pictures("a.png", "b.png")
    shutil.copytree(model, home / "mine")
    asked = table(home, {"image": "a.png", "model": "mine"}, {"image": "a.png", "model": "gone"}, {"image": "b.png"})
    own, gone, plain = jobs_of(tmp_path / "out", asked, "tiny", frames=2)
    assert (own["model"], plain["model"]) == (str(home / "mine"), "tiny")
    assert own["model_revision"] != plain["model_revision"]
    assert (gone["status"], gone["error_code"]) == ("failed", "bad_input")
    assert "there is no folder of that model" in gone["error_message"]


def test_higher_priority_goes_first_and_keeps_the_jobs_number(pictures, tmp_path, model):
    home = pictures("a.png", "b.png", "c.png")
    asked = [{"image": f"{n}.png", "priority": p} for n, p in (("a", None), ("b", -2), ("c", 7))]
    assert [r["job"] for r in jobs_of(tmp_path / "out", table(home, *asked), model)] == [2, 0, 1]


def test_both_formats_of_a_workflow_give_the_same_jobs_and_a_flag_overrides_it(pictures, tmp_path, model):
    home = pictures("a.png")
    row = {"model": "svd", "image": "a.png", "width": 32, "height": 32, "frames": 3, "fps": 7.0, "motion_bucket": 90,
           "playback_fps": 12.0,
           "noise_aug": 0.0, "guidance_min": 1.0, "guidance_max": 2.5, "seed": 7, "steps": 2, "lora": None,
           "name": "n"}  # fmt: skip
    (home / "w.json").write_text(json.dumps(make_workflow(row)))
    (plain,) = jobs_of(tmp_path / "out", home / "w.json", model)
    (flagged,) = jobs_of(tmp_path / "out", home / "w.json", model, steps=3, guidance=(1.0, 2.0))
    assert {n: plain[n] for n in ("seed", "steps", "fps", "playback_fps", "guidance_max")} == {
        n: row[n] for n in ("seed", "steps", "fps", "playback_fps", "guidance_max")
    }
    assert (flagged["steps"], flagged["guidance_max"], flagged["seed"]) == (3, 2.0, 7)
    assert plain["model"] == model, "--model goes before the workflow's checkpoint"


@pytest.mark.parametrize("guidance", [(float("nan"), 1), (1, float("inf")), (-5, 1)])
def test_guidance_for_all_has_the_limits_of_a_rows(guidance):
    with pytest.raises(ValidationError, match="guidance"):
        JobsConfig(guidance=guidance)


def test_a_damaged_prepared_picture_is_made_again(pictures, tmp_path, model):
    home, out = pictures("a.png"), tmp_path / "out"
    before = jobs_of(out, home, model)[0]
    (out / before["picture"]).write_bytes(b"")
    pictures("b.png")
    after = jobs_of(out, home, model)[0]
    assert (after["status"], after["item_key"]) == ("ready", before["item_key"])
    with Image.open(out / before["picture"]) as picture:
        assert picture.size == (before["width"], before["height"])


def test_a_clips_key_is_the_same_in_every_version_so_that_an_upgrade_samples_nothing_again():
    """The first 32 digits that `sha256sum` gives of the values as JSON without spaces: ["k","p",7,0,null ... null], of
    which 7 is the seed, then the take, and 7.0 the frames per second."""
    row = {"status": "ready", "key": "k", "picture_sha256": "p", "seed": 7, "fps": 7.0}
    keys = [each["item_key"] for each in make_take_rows(row, 2)]
    assert keys == ["ccf0c599117b129007367f265311b133", "4fce25d6403344d8ad2fb0501857960a"]


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert read_jobs.name == "read jobs"
    assert STEP.files == ("picture",)
