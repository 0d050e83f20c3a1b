from typing import Any

import cv2
import numpy as np
import pytest

from models.measures.quality import Bars
from tasks.curate.look import (
    PALETTE,
    LookConfig,
    describe_look,
    hash_frame,
    measure_look,
    measure_quality,
    name_colours,
)
from tasks.footage import Camera, Scene, render_shot
from tasks.manifest import read_rows
from tests.declared import declared

CONFIG = LookConfig()


def scene(seed: int, size: tuple[int, int] = (160, 96)) -> np.ndarray:
    return render_shot(Scene(seed), Camera(), 1, size=size)[0]


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("seed", range(4))
def test_a_hash_survives_what_copies_go_through(seed: int):
    frame = scene(seed)
    smaller = cv2.resize(frame, (120, 72), interpolation=cv2.INTER_AREA)
    lighter = np.clip(frame * 1.1 + 8, 0, 255).astype(np.uint8)
    _, jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 25])
    copies: list[Any] = [smaller, lighter, cv2.imdecode(jpeg, cv2.IMREAD_COLOR)]
    own = hash_frame(frame)
    assert [distance(own, hash_frame(copy)) <= 6 for copy in copies] == [True] * 3


def test_different_pictures_have_distant_hashes():
    hashes = [hash_frame(scene(seed)) for seed in range(8)]
    distances = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 14
    assert 24 < np.mean(distances) < 40


def test_a_hash_has_sixteen_hexadecimal_digits():
    assert len(hash_frame(scene(0))) == 16
    assert hash_frame(np.zeros((9, 9, 3), np.uint8)) == hash_frame(np.zeros((64, 80, 3), np.uint8))


@pytest.mark.parametrize(("name", "rgb"), PALETTE.items())
def test_every_colour_is_called_by_its_name(name: str, rgb: tuple[int, int, int]):
    assert name_colours(np.full((20, 30, 3), rgb, np.uint8), CONFIG) == [name]


def test_colours_come_in_order_of_their_share():
    frame = np.full((60, 100, 3), PALETTE["blue"], np.uint8)
    frame[:, :30] = PALETTE["orange"]
    frame[:6, :] = PALETTE["white"]
    assert name_colours(frame, CONFIG) == ["blue", "orange"]
    assert name_colours(frame, LookConfig(max_colours=1)) == ["blue"]
    assert name_colours(frame, LookConfig(min_colour_share=0.5)) == ["blue"]
    assert name_colours(frame, LookConfig(max_colours=3, min_colour_share=0.05)) == ["blue", "orange", "white"]


def test_brightness_and_contrast_are_those_of_luma():
    frames = np.zeros((3, 40, 60, 3), np.uint8)
    frames[1, :, 30:] = 200
    found = describe_look(frames, CONFIG)
    assert found["brightness"] == pytest.approx(100 / 3, abs=0.01)
    assert found["contrast"] == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_there_are_three_hashes_whatever_the_number_of_frames(count: int):
    frames = render_shot(Scene(2), Camera(pan=1.0), count, 2.0, (96, 64))
    hashes = describe_look(frames, CONFIG)["phash"]
    assert len(hashes) == 3
    assert hashes[0] == hash_frame(frames[0])
    assert hashes[2] == hash_frame(frames[-1])


def test_a_flat_clip_is_told_from_a_picture(dataset, flat):
    (ref,) = measure_look.fn(
        dataset.root, CONFIG, [dataset.add("a", [flat(3, 128), np.stack([scene(3, (64, 48))] * 3)])]
    )
    grey, picture = read_rows(ref)
    assert grey["contrast"] < 1 < picture["contrast"]
    assert grey["brightness"] == pytest.approx(128, abs=1)
    assert grey["colours"] == ["grey"]


def letterboxed(frames: np.ndarray, lines: int) -> np.ndarray:
    framed = frames.copy()
    framed[:, :lines] = framed[:, -lines:] = 0
    return framed


def test_a_clips_bars_and_the_crop_that_removes_them_are_told(dataset):
    shots = [render_shot(Scene(seed), Camera(pan=0.2), 3, size=(160, 96)) for seed in (1, 2)]
    (ref,) = measure_look.fn(dataset.root, CONFIG, [dataset.add("a", [letterboxed(shots[0], 12), shots[1]])])
    names = ("bar_top", "bar_bottom", "bar_left", "bar_right", "crop")
    assert [[row[name] for name in names] for row in read_rows(ref)] == [
        [12, 12, 0, 0, "160:72:0:12"],
        [0, 0, 0, 0, None],
    ]


def test_light_and_colours_are_those_inside_the_bars(dataset):
    picture = np.full((3, 96, 160, 3), 180, np.uint8)
    picture[:, :, 80:] = 220
    (ref,) = measure_look.fn(dataset.root, CONFIG, [dataset.add("a", [letterboxed(picture, 30)])])
    (row,) = read_rows(ref)
    assert (row["bar_top"], row["bar_bottom"]) == (30, 30)
    assert row["brightness"] == pytest.approx(200, abs=3)
    assert row["contrast"] == pytest.approx(20, abs=3)
    assert "black" not in row["colours"]


def test_all_stored_frames_decide_on_bars_and_not_three_of_them(dataset):
    frames = letterboxed(np.stack([scene(1)] * 9), 12)
    frames[2] = scene(1)
    (row,) = read_rows(measure_look.fn(dataset.root, CONFIG, [dataset.add("a", [frames])])[0])
    assert (row["bar_top"], row["crop"]) == (0, None)


def test_quality_is_that_of_the_middling_frame_inside_the_bars():
    sharp = scene(1, (640, 360))
    blurred = cv2.GaussianBlur(sharp, (0, 0), 4)
    found = [
        measure_quality(np.stack(f), (640, 360)) for f in ([sharp], [sharp, blurred, sharp], [blurred, sharp, blurred])
    ]
    assert found[0]["sharpness"] == found[1]["sharpness"] > 2 * found[2]["sharpness"]
    bars = Bars(top=60, bottom=60)
    framed = measure_quality(letterboxed(sharp[None], 60), (640, 360), bars)
    assert framed["exposure"] == pytest.approx(0, abs=0.02)
    assert framed["sharpness"] == pytest.approx(found[0]["sharpness"], abs=0.1)


def test_quality_is_measured_of_every_clip(dataset, flat):
    shots = [flat(2, 255), np.stack([scene(1, (64, 48))] * 2)]
    white, picture = read_rows(measure_look.fn(dataset.root, CONFIG, [dataset.add("a", shots)])[0])
    assert (white["sharpness"], white["exposure"], white["blockiness"]) == (0, 1, 1)
    assert picture["sharpness"] > 0.1
    assert abs(picture["exposure"]) < 0.1
    assert picture["blockiness"] < 2


def test_what_cannot_be_measured_is_null_with_the_reason(dataset, flat):
    gone, failed = dataset.add("a", [flat(2)]), dataset.failed("b")
    (dataset.root / "frames" / "a.parquet").unlink()
    first, second = measure_look.fn(dataset.root, CONFIG, [gone, failed])
    (row,) = read_rows(first)
    assert (row["phash"], row["contrast"], row["colours"], row["error_code"]) == (None, None, None, "bad_manifest")
    assert second.rows == 0


def test_the_same_call_is_found(dataset, flat):
    video = dataset.add("a", [flat(2)])
    assert [measure_look.fn(dataset.root, CONFIG, [video])[0].cached for _ in range(2)] == [False, True]


def test_a_hash_is_of_the_lowest_frequencies_of_the_picture_at_32_lines():
    """Known by hand: the mean of each square of 2x2 pixels, and the cosine transform as its definition sums it."""
    luma = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    small = luma.reshape(32, 2, 32, 2).astype(float).mean((1, 3))
    waves = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64)
    waves[0] /= np.sqrt(2)
    lowest = (waves @ small @ waves.T).ravel()
    bits = "".join("1" if each > np.median(lowest) else "0" for each in lowest)
    assert hash_frame(np.repeat(luma[:, :, None], 3, axis=2)) == f"{int(bits, 2):016x}"


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(LookConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "max_colours": "2, ge=1",
        "min_colour_share": "0.15, ge=0, le=1",
    }


def test_the_step_goes_by_its_name():
    assert measure_look.name == "look"
