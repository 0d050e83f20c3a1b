"""The tuning panel decides as `reelmill select` does: in a real browser, by mouse-less hands, and in a shell."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, sync_playwright

from models.measures.camera import MOTIONS
from tasks.clip_columns import measure_seconds
from tasks.curate.report import ReportConfig, write_report
from tasks.keep_rules import PRESETS, REASONS, SelectConfig, judge_clips, paper
from tasks.keep_verdicts import count_funnel
from tasks.manifest import read_manifest_ref
from tasks.pages.dataset import make_funnel as pages_funnel_of
from tasks.pages.dataset import read_dataset
from tasks.pages.sheets import Reel
from tasks.pages.tuning import UNMEASURED, describe_panel, make_arrays, pack

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="Chromium is not installed: the panel is not tried in it."
)

FLAGS = ("no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update")


PICTURED = [{"start_pts": 1000 * i, "end_pts": 1000 * (i + 1)} for i in range(10)]
"""The stretches of a video for which the fixture stores frames."""


def clips(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Clips with every column that the rules read, some of it missing, in few shots and groups."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        scores = rng.random(5).astype(np.float32).tolist()
        clip: dict[str, Any] = dict(
            zip(("motion_score", "change", "aesthetic", "clip_similarity", "contrast"), scores, strict=True)
        )
        # Few different values, so that there are ties at the limits.
        clip |= {"text_area": float(np.float32(round(rng.random() * 20) / 100)), "contrast": clip["contrast"] * 60}
        clip |= {"camera_motion": MOTIONS[int(rng.integers(0, len(MOTIONS)))], "shot_start_pts": i // 2}
        clip |= {"width": [640, 1280][i % 2], "height": 360, "dedup_group": [None, None, f"g{i % 7}"][i % 3]}
        clip |= PICTURED[i % 10] | {"start_s": 0.0, "end_s": 0.4 + round(float(rng.gamma(2.0, 1.0)), 3)}
        clip |= {"frozen_s": float(np.float32(round(float(rng.random()) * 8) / 4))}
        clip |= {"sharpness": float(np.float32(round(0.3 + 0.05 * (i % 9), 2)))}
        clip |= {"fineness": [0.5, 0.49, 0.3, None][i % 4], "blockiness": [1.0, 1.04, 1.3][i % 5 % 3]}
        missing = rng.choice(["motion_score", "text_area", "camera_motion", ""], p=[0.03, 0.03, 0.03, 0.91])
        made.append(clip | ({missing: None} if missing else {}))
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS])
        yield launched
        launched.close()


@pytest.fixture
def dataset(curated) -> Path:
    """A dataset in a folder with a difficult name, with its report."""
    root = curated(clips(300)).path.parent
    root = root.rename(root.with_name("films of Ana's, 50% & more"))
    write_report.fn(root, ReportConfig(previews=8), read_manifest_ref(root / "clips.parquet"))
    return root


@pytest.fixture
def page(browser: Browser, dataset: Path) -> Iterator[Page]:
    """The report, opened from disk; whatever goes wrong in it, or leaves it, fails the test."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
    )
    opened.goto((dataset / "report/index.html").as_uri())
    yield opened
    assert wrong == []
    opened.close()


def shown(page: Page) -> int:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return int(page.locator("#kept-count").inner_text().replace(",", ""))


def ran(command: str, repository: Path) -> int:
    """The number of kept clips that a command prints, run by a shell."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(repository)}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"clips: \d+, (\d+) kept", done.stdout)
    assert found
    return int(found[1])


@needs_chromium
def test_moving_a_slider_changes_the_count_and_the_copied_command_gives_exactly_that(page: Page, repository: Path):
    counts = [shown(page)]
    for card, key, times in (("too-much-text", "ArrowLeft", 6), ("low-motion", "ArrowRight", 40)):
        page.focus(f"#{card}-slider")
        for _ in range(times):
            page.keyboard.press(key)
        counts.append(shown(page))
    assert counts == sorted(set(counts), reverse=True)
    page.get_by_role("button", name="Aesthetic score: drop the lowest 25 %").click()
    counts.append(shown(page))
    assert counts[-1] < counts[-2]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.focus("#copy")
    page.keyboard.press("Enter")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == page.input_value("#command")
    assert "--min-motion 0." in command
    assert "--aesthetic-quantile 0.25" in command
    assert ran(command, repository) == counts[-1]


@needs_chromium
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_of_the_panel_is_that_of_the_command(page: Page, dataset: Path, preset: str):
    page.select_option("#preset", preset)
    found = judge_clips(read_dataset(read_manifest_ref(dataset / "clips.parquet")).clips, PRESETS[preset]())
    assert shown(page) == int((found.bits == 0).sum())
    assert page.input_value("#command").endswith(f"--preset {preset}")


share = st.none() | st.sampled_from([0.125, 0.25, 0.29, 0.5]) | st.floats(0, 0.9)
number = st.none() | st.floats(0, 1) | st.floats(0, 1, width=32)
configs = st.builds(
    SelectConfig,
    min_clip_s=st.none() | st.floats(0, 4),
    min_contrast=st.none() | st.floats(0, 40),
    max_text_area=st.none() | st.sampled_from([0.0, 0.05, 0.07, 0.1, 0.2]),
    max_still_motion=number,
    max_still_change=st.floats(0, 1),
    min_motion=number,
    max_motion=st.none() | st.floats(0.5, 1),
    max_frozen_s=st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 2),
    min_aesthetic=number,
    min_sharpness=number,
    text_area_quantile=share,
    motion_quantile=share,
    aesthetic_quantile=share,
    clip_similarity_quantile=share,
    sharpness_quantile=share,
    drop_motions=st.lists(st.sampled_from(MOTIONS), max_size=3, unique=True).map(tuple),
    drop_duplicates=st.booleans(),
)


@needs_chromium
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=configs)
def test_the_page_judges_every_clip_as_the_rules_do(page: Page, dataset: Path, config: SelectConfig):
    clips = read_dataset(read_manifest_ref(dataset / "clips.parquet")).clips
    expected = judge_clips(clips, config)
    script = (
        "(c) => { const v = verdictOf(model, c); return [[...v.bits], v.limits, countsOf(v.bits, tuning.reasons)] }"
    )
    bits, limits, counts = page.evaluate(script, config.model_dump(mode="json"))
    assert bits == expected.bits.tolist()
    assert limits == pytest.approx(expected.limits)
    reasons = count_funnel(expected, measure_seconds(clips)).reasons
    assert counts == {"failing": [r.failing for r in reasons], "only": [r.only for r in reasons]}


@needs_chromium
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=configs)
def test_any_settings_of_the_panel_are_those_of_its_command(
    page: Page, dataset: Path, repository: Path, config: SelectConfig
):
    page.evaluate("(c) => set(c)", config.model_dump(mode="json"))
    kept = shown(page)
    assert ran(page.input_value("#command"), repository) == kept


@needs_chromium
def test_both_sides_of_a_threshold_are_pictured(page: Page):
    page.fill("#low-motion-number", "0.5")
    shown(page)
    values = [float(text) for text in page.locator("#axis-low-motion figcaption").all_inner_texts()]
    assert len(values) == 6
    assert values == sorted(values)
    assert sum(value < 0.5 for value in values) == 3
    labels = page.locator("#axis-low-motion .thumb").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert all("dropped (" in label and "little motion" in label for label in labels[:3])
    assert page.locator("#axis-low-motion .effect").inner_text().startswith("Under 0.5: drops ")


@needs_chromium
def test_everything_can_be_reached_and_named_without_a_mouse(page: Page):
    unnamed = page.evaluate(
        "[...document.querySelectorAll('#tuning :is(input, select, button, textarea)')].filter((one) =>"
        " !(one.labels?.length || one.ariaLabel || one.textContent.trim())).map((one) => one.outerHTML)"
    )
    assert unnamed == []
    page.focus("#preset")
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert reached[:3] == ["copy", "too-short-slider", "too-short-number"]


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_desk(page: Page, width: int):
    page.set_viewport_size({"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = page.evaluate(
        "[...document.querySelectorAll('#tuning *')].filter((one) =>"
        " one.getBoundingClientRect().right > innerWidth).map((one) => one.outerHTML.slice(0, 80))"
    )
    assert beyond == []


def test_arrays_come_back_as_they_were():
    for values in (np.array([0.1, np.nan], np.float32), np.array([1 / 3]), np.array([-1, 7], np.int32)):
        found = pack(values)
        back = np.frombuffer(base64.b64decode(found["bytes"]), found["type"])
        np.testing.assert_array_equal(back, values)


def test_what_is_null_has_its_sign(curated):
    rows = [{"camera_motion": None, "dedup_group": None, "motion_score": None}, {"dedup_group": "g"}]
    arrays = make_arrays(read_dataset(curated(rows)).clips)
    assert arrays["camera"].tolist() == [UNMEASURED, MOTIONS.index("pan_right")]
    assert arrays["group"].tolist() == [-1, 0]
    assert np.isnan(arrays["motion_score"]).tolist() == [True, False]
    assert np.isnan(arrays["sharpness"]).all()


def test_the_panel_has_an_axis_for_what_was_measured_and_pictures_near_its_limit(curated):
    rows = [PICTURED[i % 10] | {"motion_score": i / 100} for i in range(40)]
    dataset = read_dataset(curated(rows, config=SelectConfig(min_motion=0.2)))
    found = describe_panel(dataset, Reel(dataset), 8)
    assert [card["reason"] for card in found["cards"]] == [
        "too_short", "no_picture", "too_much_text", "low_motion", "too_much_motion",
    ]  # fmt: skip
    pictured = {preview["row"] for preview in found["previews"]}
    assert {18, 19, 20, 21} <= pictured
    assert {0, 39} <= pictured
    assert found["config"]["min_motion"] == 0.2
    assert json.loads(json.dumps(found))["presets"]["paper"] == paper().model_dump(mode="json")
    assert tuple(found["reasons"]) == REASONS


def test_the_panel_has_an_axis_for_sharpness_where_it_was_measured(curated):
    rows = [PICTURED[i % 10] | {"sharpness": i / 100} for i in range(20)]
    dataset = read_dataset(curated(rows, config=SelectConfig(min_sharpness=0.1)))
    found = describe_panel(dataset, Reel(dataset), 4)
    assert [card["title"] for card in found["cards"] if card["limit"] == "min_sharpness"] == ["Sharpness"]
    assert {9, 10} <= {preview["row"] for preview in found["previews"]}


def test_a_freeze_has_its_slider_and_its_place_in_the_report(curated):
    rows = [PICTURED[i % 10] | {"frozen_s": i / 10} for i in range(20)]
    dataset = read_dataset(curated(rows, config=SelectConfig(max_frozen_s=1.0)))
    (card,) = (card for card in describe_panel(dataset, Reel(dataset), 4)["cards"] if card["reason"] == "frozen")
    assert (card["title"], card["unit"]) == ("Longest freeze", "seconds, at most")
    (stage,) = pages_funnel_of(dataset).stages
    assert (stage.title, stage.limit, stage.removed) == ("Freezes", "for more than 1 s", 9)


def test_of_too_many_clips_every_nth_is_taken(curated, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tasks.pages.tuning.TUNED", 5)
    dataset = read_dataset(curated([{"motion_score": i / 10} for i in range(9)]))
    found = describe_panel(dataset, Reel(dataset), 0)
    values = np.frombuffer(base64.b64decode(found["columns"]["motion_score"]["bytes"]), "<f4")
    assert (found["clips"], values.tolist()) == (9, pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8]))


def test_a_dataset_without_clips_has_a_panel(curated):
    dataset = read_dataset(curated([], files=[{"video_id": "a"}]))
    assert describe_panel(dataset, Reel(dataset), 8)["cards"] == []
