"""The demo's page shows what the manifests say: clips kept, loss, videos side by side, motion asked and measured."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.demo.page import (
    Asked,
    Trial,
    compare_motions,
    count_confusion,
    describe_training,
    draw_frame_psnr,
    list_links,
    list_training_figures,
    make_picture_rows,
    read_trials,
    write_page,
)
from tasks.finetune.train import SCHEMA as TRAIN
from tasks.generate.outputs import SCHEMA as OUTPUTS
from tasks.manifest import Lineage, ManifestRef, make_table, write_manifest
from tasks.pages.dataset import read_dataset

EVALUATION = {
    "pictures": 42, "clips": 84, "autoencoder_psnr_db": 26.51, "first_frame_psnr_db": 24.2, "last_frame_psnr_db": 14.7,
    "copy": {"last_frame_psnr_db": 13.1}, "frame_psnr_db": [24.2, 18.0, 14.7], "copy_frame_psnr_db": [99.0, 16.0, 13.1],
    "by_motion": {
        "static": {"asked": 42, "right": 42, "measured": {"static": 42}, "speed_asked": 0.0, "speed_measured": 0.02},
        "pan_left": {"asked": 42, "right": 21, "measured": {"complex": 14, "pan_left": 21, "static": 7},
                     "speed_asked": 0.5, "speed_measured": 0.21},
    },
}  # fmt: skip

SETTINGS = {"steps": 150, "batch": 8, "rank": 16, "motions": ["pan_right"]}


def output(number: int, **changes: Any) -> dict[str, Any]:
    made = {
        "job": number, "take": 0, "name": f"picture-{number:02d}", "status": "ok", "picture": "p.png", "video": "v.mp4",
        "motion_asked": "pan_right", "motion_measured": "pan_right", "camera_strength": 0.25,
    }  # fmt: skip
    return made | changes


@pytest.fixture
def run(tmp_path: Path):
    """Writes a run of generate: its table, with the same picture and video behind each row."""

    def write(name: str, rows: list[dict[str, Any]]) -> ManifestRef:
        root = tmp_path / name
        root.mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "p.png")
        (root / "v.mp4").write_bytes(f"video of {name}".encode())
        made = Lineage(step="outputs", version=1)
        return write_manifest(root / "outputs.parquet", make_table(rows, OUTPUTS), made)

    return write


@pytest.fixture
def log(tmp_path: Path) -> ManifestRef:
    rows = [{"step": 10 * (i + 1), "loss": 1.0 / (i + 1)} for i in range(5)]
    made = Lineage(step="train", version=1, parameters=SETTINGS)
    return write_manifest(tmp_path / "run/manifests/train/k.parquet", make_table(rows, TRAIN), made)


@pytest.fixture
def page(curated, run, log, tmp_path):
    """The page of a demo whose LoRA failed on one of two pictures."""
    clips = curated([{}, {"text_area": 0.3}, {"camera_motion": "roll"}])
    plain = run("plain", [output(i, motion_asked=None, motion_measured="static") for i in (1, 2)])
    bad = {"status": "failed", "video": None, "error_message": "picture-02: <out> of memory."}
    lora = run("lora", [output(1), output(2, **bad)])

    def write(evaluation: dict[str, Any]) -> str:
        path = write_page.fn(tmp_path, clips, log, {"plain": plain, "LoRA": lora}, evaluation)
        assert path == tmp_path / "index.html"
        return path.read_text(encoding="utf-8")

    return write


def test_each_picture_has_a_video_of_every_trial(page):
    html = page(EVALUATION)
    assert len(re.findall(r"<article class=\"trial\"", html)) == 2
    videos = re.findall(r"<video[^>]*>", html)
    assert len(videos) == 3
    assert all(word in video for video in videos for word in ("autoplay", "loop", "muted", "playsinline", "data:video"))
    assert html.count('<img src="data:image/png;base64,') == 2


def test_a_video_that_was_not_made_says_why(page):
    assert "picture-02: &lt;out&gt; of memory." in page(EVALUATION)


def test_the_page_loads_nothing_and_links_what_lies_beside_it(page):
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page(EVALUATION))
    beside = {address for address in addresses if not address.startswith(("data:", "#"))}
    assert beside == {"films/report/index.html", "plain/report/index.html", "lora/report/index.html"}


@pytest.mark.slow
def test_the_same_manifests_give_the_same_bytes(page):
    assert page(EVALUATION) == page(EVALUATION)


def test_the_headline_and_the_funnel_are_as_measured(page):
    html = page(EVALUATION)
    assert "1 clip that curation labelled pan right" in html
    assert re.search(r"<dt>clips kept</dt><dd>2 <small>of 3</small>", html)
    assert re.search(r"<dt>moved as asked</dt><dd>1 <small>of 1</small>", html)
    assert "over 7% of the picture" in html


def test_the_models_figures_stand_on_the_page(page):
    html = page(EVALUATION)
    assert "84 clips from 42 pictures" in html
    for name, value in (("reconstruction", 26.5), ("first frame", 24.2), ("last frame, picture repeated", 13.1)):
        assert f"<dt>{name}</dt><dd>{value} dB</dd>" in html
    assert "21 of 42" in html


def test_without_figures_the_page_says_how_to_get_them(page):
    html = page({})
    assert "make tiny-eval" in html
    assert "reconstruction" not in html


def test_motion_is_counted_by_what_was_asked():
    rows = [
        output(1),
        output(2, motion_measured="static", camera_strength=0.75),
        output(3, motion_measured=None, camera_strength=None),
        output(4, motion_asked="roll", motion_measured="roll", camera_strength=1.0),
        output(5, status="failed"),
    ]
    assert compare_motions(Trial("LoRA", Path(), rows)) == [
        Asked("LoRA", "pan_right", 3, 1, [("not measured", 1), ("static", 1)], 0.5),
        Asked("LoRA", "roll", 1, 1, [], 1.0),
    ]


def test_where_nothing_was_asked_nothing_was_met():
    rows = [output(i, motion_asked=None, motion_measured=m) for i, m in enumerate(("static", "static", "roll"))]
    assert compare_motions(Trial("Plain", Path(), rows))[0][1:5] == (None, 3, 0, [("static", 2), ("roll", 1)])


def test_confusion_has_a_column_for_each_class_and_shares_of_what_was_asked():
    columns, rows = count_confusion(EVALUATION)
    assert columns == ["static", "pan_left", "complex"]
    assert [row["motion"] for row in rows] == ["static", "pan_left"]
    assert rows[0]["cells"] == [(True, 1.0), (False, 0.0), (False, 0.0)]
    assert rows[1]["cells"] == [(False, pytest.approx(1 / 6)), (True, 0.5), (False, pytest.approx(1 / 3))]


def test_pictures_are_in_order_first_takes_only_and_bounded(run):
    rows = [output(3), output(1), output(1, take=1, video="gone.mp4"), output(2)]
    trials = read_trials({"plain": run("plain", rows), "other": run("other", [output(2)])})
    assert [trial.name for trial in trials] == ["Plain", "Other"]
    shown = make_picture_rows(trials)
    assert [row["name"] for row in shown] == ["picture-01", "picture-02", "picture-03"]
    assert [cell["video"] is None for row in shown for cell in row["cells"]] == [False, True, False, False, False, True]
    assert shown[0]["cells"][1]["reason"] == "not asked for"
    assert len(make_picture_rows(trials, cap=2)) == 2


def test_videos_are_those_of_their_own_trial(run):
    trials = read_trials({"plain": run("plain", [output(1)]), "LoRA": run("lora", [output(1)])})
    plain, lora = make_picture_rows(trials)[0]["cells"]
    assert plain["video"] != lora["video"]
    assert plain["met"]
    assert plain["speed"] == 0.25


def test_the_training_is_told_from_its_manifest(log):
    assert list_training_figures(log, SETTINGS) == [
        ("steps", "150", ""),
        ("clips per step", "8", ""),
        ("rank", "16", ""),
        ("loss at the end", "0.200", "from 1.000"),
    ]
    assert list_training_figures(log, {}) == [("loss at the end", "0.200", "from 1.000")]


def test_a_training_on_everything_counts_all_kept_clips(curated):
    dataset = read_dataset(curated([{}, {"camera_motion": "roll"}, {"text_area": 0.5}]))
    assert describe_training(dataset, {"motions": None}) == "2 clips"
    assert (
        describe_training(dataset, {"motions": ["roll", "pan_left"]})
        == "1 clip that curation labelled roll or pan left"
    )
    said = describe_training(dataset, {"motions": None}, held_out=True)
    assert said == "2 clips (but for those of one source in twenty, at least one, by which it was measured)"


def test_the_copys_perfect_first_frame_does_not_squeeze_the_chart():
    chart = draw_frame_psnr(EVALUATION)
    assert chart
    ticks = [float(text) for text in re.findall(r">(\d+\.?\d*)</text>", chart)]
    assert max(ticks) < 30
    assert draw_frame_psnr({}) is None


def test_addresses_are_relative_and_quoted(tmp_path):
    clips = ManifestRef(path=tmp_path / "my films" / "clips.parquet", digest="", rows=0)
    assert list_links(tmp_path / "pages", clips, [Trial("A", tmp_path / "v#1", [])]) == [
        ("The dataset's report", "../my%20films/report/index.html"),
        ("Gallery: A", "../v%231/report/index.html"),
    ]


def test_the_step_goes_by_its_name():
    assert write_page.name == "demo page"
