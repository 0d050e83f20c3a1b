"""Files of clips: they play, say where they come from, need no frames to be kept, and fail one by one."""

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tasks.caching import set_aside
from tasks.generate import encode as step
from tasks.generate.clip_frames import locate_parked, open_parked
from tasks.generate.clip_tags import read_clip, read_tag
from tasks.generate.decode import DecodeConfig, decode_jobs, pair_samples
from tasks.generate.encode import (
    SCHEMA,
    STEP,
    ClipManifests,
    EncodeConfig,
    count_kept_frames,
    encode_jobs,
    pair_measured,
)
from tasks.generate.encode_formats import PLANS
from tasks.generate.job_settings import JobsConfig
from tasks.generate.jobs import read_jobs
from tasks.generate.outputs import make_output_rows
from tasks.generate.sample import SampleConfig, plan_all_batches, sample_jobs
from tasks.manifest import read_manifest, read_rows
from tasks.media import video
from tests.declared import declared
from tests.job_tables import table

Pictures = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def clips_of(root: Path, jobs: Path, model: str, **settings: Any) -> list[ClipManifests]:
    refs = read_jobs.fn(root, JobsConfig(model=model, steps=2, **settings), jobs)
    config = SampleConfig(batch=4)
    samples = sample_jobs.fn(root, config, plan_all_batches(refs, config))
    return pair_measured(refs, samples, decode_jobs.fn(root, DecodeConfig(), pair_samples(refs, samples)))


def encoded(root: Path, items: list[ClipManifests], **settings: Any) -> list[dict[str, Any]]:
    manifests = encode_jobs.fn(root, EncodeConfig(**settings), items)
    assert all(read_manifest(manifest).schema == SCHEMA for manifest in manifests)
    return [row for manifest in manifests for row in read_rows(manifest)]


@pytest.mark.slow
def test_every_clip_is_a_playable_mp4_of_the_models_size_and_rate(tmp_path, pictures, model):
    root = tmp_path / "out"
    rows = encoded(root, clips_of(root, pictures("a.png", "b.png"), model))
    assert len(rows) == 2
    for row in rows:
        with av.open(str(root / row["video"])) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, float(stream.average_rate or 0)) == (32, 32, 7.0)
            assert sum(1 for _ in container.decode(stream)) == 4
        assert (row["frames_kept"], row["error_code"], row["attempt"]) == (4, None, 1)
        assert (row["encode_plan"], row["encode_too_large"]) == (PLANS[0], [])


@pytest.mark.slow
def test_a_clip_is_named_by_its_picture_and_says_all_that_makes_it_again(tmp_path, pictures, model, lora):
    root = tmp_path / "out"
    asked = {"lora": str(lora), "lora_strength": 0.5, "motion_strength": 0.3, "fit": "pad", "background": "black"}
    items = clips_of(root, pictures("my cat (1).png"), model, **asked)
    (row,) = encoded(root, items, crf=20, trim=True)
    assert re.fullmatch(r"my-cat-1-take0-[0-9a-f]{10}\.mp4", Path(row["video"]).name)
    told = json.loads(read_tag(root / row["video"]) or "")
    beside = json.loads((root / row["sidecar"]).read_text())
    assert {name: beside[name] for name in told} == told
    job, sample, clip = (read_rows(ref)[0] for ref in items[0])
    assert beside["measured"]["motion_measured"] == clip["motion_measured"]
    assert (told["image"], told["image_sha256"]) == ("my cat (1).png", job["image_sha256"])
    assert (told["model"], told["model_revision"]) == ("small", job["model_revision"])
    assert (told["lora"], told["lora_sha256"], told["lora_strength"]) == (lora.name, job["lora_sha256"], 0.5)
    assert (told["seed"], told["take"], told["steps"], told["motion"]) == (0, 0, 2, "tilt_up")
    assert (told["motion_strength"], told["fit"], told["background"]) == (0.3, "pad", "black")
    assert (told["format"], told["encoder"], told["crf"], told["trim"]) == ("h264", "libx264", 20, True)
    assert (told["latents_sha256"], told["batch"]) == (sample["latents_sha256"], [job["item_key"]])
    assert (told["sample_version"], told["lineage"]["lora"]["dataset"]) == (1, "beach")
    assert str(tmp_path) not in json.dumps(told), "no path of this machine travels with the clip"


def test_files_of_one_clip_share_its_latents_and_play_at_their_own_rates(tmp_path, pictures, model):
    root, home = tmp_path / "out", pictures("a.png")
    asked = table(home, {"image": "a.png", "playback_fps": None}, {"image": "a.png", "playback_fps": 12.5})
    items = clips_of(root, asked, model)
    assert len(items) == 1
    rows = encoded(root, items)
    assert [row["playback_fps"] for row in rows] == [None, 12.5]
    jobs = read_rows(items[0][0])
    made = make_output_rows(jobs, read_rows(items[0][1]), read_rows(items[0][2]), reversed(rows))
    for job, row, rate in zip(made, rows, (7.0, 12.5), strict=True):
        assert (job["video"], job["playback_fps"], job["status"]) == (row["video"], rate, "ok")
        with av.open(str(root / row["video"])) as container:
            assert container.streams.video[0].average_rate == rate
        assert json.loads(read_tag(root / row["video"]) or "")["playback_fps"] == rate
        assert json.loads((root / row["sidecar"]).read_text())["fps"] == 7.0


def test_rows_that_differ_in_their_prefix_are_sampled_once_and_delivered_each(tmp_path, pictures, model):
    root, home = tmp_path / "out", pictures("犬.png")
    prefixes = ("Night", "night", "Größe", None)
    asked = table(home, *({"image": "犬.png", "prefix": prefix} for prefix in prefixes))
    items = clips_of(root, asked, model, takes=2)
    assert len(items) == 2, "the two takes, each sampled once"
    rows = encoded(root, items)
    names = [Path(row["video"]).stem.rsplit("-", 1)[0] for row in rows]
    expected = ("Night-犬", "night-犬", "Größe-犬", "犬")
    assert sorted(names) == sorted(f"{name}-take{take}" for name in expected for take in (0, 1))
    assert len({Path(row["video"]).name.casefold() for row in rows}) == 8
    assert all((root / row["video"]).is_file() for row in rows)
    made = make_output_rows(read_rows(items[0][0]), _rows(items, 1), _rows(items, 2), rows)
    assert [job["status"] for job in made] == ["ok"] * 8
    assert len({job["video"] for job in made}) == 8


def test_prefixes_that_are_one_name_are_one_delivery(tmp_path, pictures, model):
    home = pictures("a.png")
    same = ({"image": "a.png", "prefix": prefix} for prefix in ("Größe", "Gro\u0308ße"))
    asked = table(home, *same, {"image": "a.png", "prefix": "a"}, {"image": "a.png"})
    refs = read_jobs.fn(tmp_path / "out", JobsConfig(model=model, steps=2), asked)
    assert [row["status"] for row in read_rows(refs)] == ["ready", "duplicate", "ready", "duplicate"]


def _rows(items: list[ClipManifests], place: int) -> list[dict[str, Any]]:
    return [row for item in items for row in read_rows(item[place])]


def test_parked_frames_are_taken_and_removed_and_what_is_done_is_found(tmp_path, pictures, model, monkeypatch):
    root = tmp_path / "out"
    items = clips_of(root, pictures("a.png"), model)
    assert len(list(root.glob("frames/*"))) == 1
    monkeypatch.setattr(step, "decode_clip", lambda *_: pytest.fail("decoded again"))
    (first,) = encode_jobs.fn(root, EncodeConfig(), items)
    assert list(root.glob("frames/*")) == []
    (again,) = encode_jobs.fn(root, EncodeConfig(), items)
    assert again.cached
    assert again.digest == first.digest


def test_frames_of_a_run_that_was_killed_after_encoding_are_removed(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = clips_of(root, pictures("a.png"), model)
    path = next(root.glob("frames/*"))
    frames = path.read_bytes()
    encode_jobs.fn(root, EncodeConfig(), items)
    path.write_bytes(frames)
    assert encode_jobs.fn(root, EncodeConfig(), items)[0].cached
    assert not path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("column", ["video", "sidecar"])
def test_a_deleted_file_is_made_again_with_the_same_bytes(tmp_path, pictures, model, column):
    root = tmp_path / "out"
    items = clips_of(root, pictures("a.png"), model)
    path = root / encoded(root, items)[0][column]
    content = path.read_bytes()
    path.unlink()
    encoded(root, items)
    assert path.read_bytes() == content


def test_a_clip_or_a_picture_of_one_that_was_cut_or_lost_is_made_again(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = clips_of(root, pictures("a.png"), model)
    folder, film = (root / encoded(root, items, format=name)[0]["video"] for name in ("png", "h264"))
    for lost, left in ((folder / "0003.png", None), (folder / "0002.png", 0), (film, 100)):
        content = lost.read_bytes()
        lost.unlink() if left is None else os.truncate(lost, left)
        encoded(root, items, format="png")
        encoded(root, items)
        assert lost.read_bytes() == content


def test_another_quality_or_format_is_another_file_of_the_same_frames_and_all_stay(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = clips_of(root, pictures("a.png"), model)
    frames = np.array(open_parked(locate_parked(root, items[0][2].path.stem)))
    fine, coarse, png, gif = (
        encoded(root, items, **asked)[0]["video"]
        for asked in ({"crf": 10}, {"crf": 40}, {"format": "png"}, {"format": "gif"})
    )
    assert (root / fine).stat().st_size > (root / coarse).stat().st_size
    assert np.array_equal(read_clip(root / png), frames)
    assert read_clip(root / gif).shape == frames.shape
    assert len(list((root / "videos").glob("*.json"))) == len({fine, coarse, png, gif}) == 4


def test_the_default_quality_is_the_same_file_as_that_quality_asked_for(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = clips_of(root, pictures("a.png"), model)
    assert encoded(root, items) == encoded(root, items, crf=16)


def test_a_trimmed_clip_ends_where_it_stops_being_good_and_says_so(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = clips_of(root, pictures("a.png"), model)
    whole, trimmed = (encoded(root, items, trim=trim)[0] for trim in (False, True))
    good = read_rows(items[0][2])[0]["good_until"]
    assert whole["video"] != trimmed["video"]
    assert (whole["frames_kept"], trimmed["frames_kept"]) == (4, max(2, good))
    assert len(read_clip(root / trimmed["video"])) == max(2, good)


@pytest.mark.parametrize(("good", "trim", "kept"), [(5, True, 5), (0, True, 2), (8, True, 8), (3, False, 8)])
def test_only_good_frames_are_kept_but_two_at_least(good, trim, kept):
    assert count_kept_frames(8, good, trim) == kept


def test_clips_that_were_not_decoded_are_not_encoded(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = clips_of(root, pictures("a.png", "b.png"), model)
    sample = read_rows(items[0][1])[0]
    set_aside(items[0][2].path)
    (root / sample["latents"]).write_bytes(b"junk")
    refs, samples = items[0][0], [item[1] for item in items]
    clips = decode_jobs.fn(root, DecodeConfig(), pair_samples(refs, samples))
    assert [item[1:] for item in pair_measured(refs, samples, clips)] == [(items[1][1], clips[1])]


def killing_ffmpeg(folder: Path, times: int) -> str:
    """A command that is ffmpeg, but for the first `times` encodings: those the kernel kills."""
    path = folder / "ffmpeg"
    kills = " || ".join(f"mkdir {folder}/killed-{n} 2>/dev/null" for n in range(times))
    path.write_text(f'#!/bin/sh\nif [ "$2" != -encoders ]; then if {kills}; then kill -9 $$; fi; fi\n')
    path.write_text(path.read_text() + f'exec {video.find_ffmpeg()} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


def disturbed(
    monkeypatch: pytest.MonkeyPatch, folder: Path, kills: int, root: Path, items: list[ClipManifests], **asked: Any
):
    """The rows of clips whose first encodings, so many, are killed."""
    exe = killing_ffmpeg(folder, kills)
    with monkeypatch.context() as patch:
        patch.setattr(video, "find_ffmpeg", lambda: exe)
        return encoded(root, items, **asked)


@pytest.mark.slow
@pytest.mark.parametrize("written", ["h264", "gif", "png"])
def test_after_memory_ran_out_once_the_clip_is_the_undisturbed_one_to_the_byte(
    tmp_path, pictures, model, monkeypatch, written
):
    home, calm, root = pictures("a.png", "b.png"), tmp_path / "calm", tmp_path / "disturbed"
    expected = encoded(calm, clips_of(calm, home, model), format=written)
    made = disturbed(monkeypatch, tmp_path, 1, root, clips_of(root, home, model), format=written)
    assert [row["encode_too_large"] for row in made] == [[PLANS[0]], []]
    assert [row["encode_plan"] for row in made] == [PLANS[1], PLANS[0]]
    names = ("video", "video_sha256", "sidecar", "frames_kept")
    assert [[row[name] for name in names] for row in made] == [[row[name] for name in names] for row in expected]


@pytest.mark.slow
def test_after_it_ran_out_twice_the_clip_is_as_near_to_the_frames_as_the_undisturbed_one(
    tmp_path, pictures, model, monkeypatch
):
    calm, root, home = tmp_path / "calm", tmp_path / "disturbed", pictures("a.png")
    items = clips_of(calm, home, model)
    frames = np.array(open_parked(locate_parked(calm, items[0][2].path.stem)))
    (expected,) = encoded(calm, items)
    (made,) = disturbed(monkeypatch, tmp_path, 2, root, clips_of(root, home, model))
    assert (made["encode_plan"], made["encode_too_large"]) == (PLANS[2], list(PLANS[:2]))
    distances = [
        np.square(read_clip(p) - frames.astype(float)).mean() for p in (calm / expected["video"], root / made["video"])
    ]
    assert distances[1] == pytest.approx(distances[0], rel=0.1)


@pytest.mark.slow
def test_where_no_plan_is_small_enough_the_clip_fails_and_the_next_run_makes_it(tmp_path, pictures, model, monkeypatch):
    root = tmp_path / "out"
    items = clips_of(root, pictures("a.png", "b.png"), model)
    bad, good = disturbed(monkeypatch, tmp_path, 3, root, items)
    assert (bad["error_code"], bad["attempt"], bad["video"]) == ("out_of_memory", 1, None)
    assert "ffmpeg ran out of memory" in bad["error_message"]
    assert good["error_code"] is None
    assert encoded(root, items)[0]["error_code"] is None


def test_what_stands_in_the_way_is_a_failure_with_a_reason(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = clips_of(root, pictures("a.png"), model)
    (root / "videos").write_text("in the way")
    attempts = [encoded(root, items)[0] for _ in range(2)]
    assert [(row["error_code"], row["attempt"]) for row in attempts] == [("encoding_failed", 1), ("encoding_failed", 2)]
    assert attempts[0]["error_message"].startswith("a: encoding failed (")
    (root / "videos").unlink()
    assert encoded(root, items)[0]["error_code"] is None
    assert list(root.glob("manifests/encode_failed/*")) == [], "what was mended is no failure any more"


def test_the_first_of_the_pictures_shows_the_first_frame(tmp_path, pictures, model):
    root = tmp_path / "out"
    items = clips_of(root, pictures("a.png"), model)
    frames = np.array(open_parked(locate_parked(root, items[0][2].path.stem)))
    folder = root / encoded(root, items, format="png")[0]["video"]
    assert [path.name for path in sorted(folder.iterdir())] == [f"{n:04}.png" for n in range(1, 5)]
    with Image.open(folder / "0001.png") as picture:
        assert np.array_equal(np.asarray(picture), frames[0])
        assert json.loads(picture.info["reelmill"])["format"] == "png"


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(EncodeConfig) == {
        "": "frozen=True, extra='forbid'",
        "format": "'h264'",
        "crf": "None, ge=0, le=63",
        "trim": "False",
        "device": "'auto'",
    }


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert encode_jobs.name == "encode"
    assert STEP.files == ("video", "sidecar")
