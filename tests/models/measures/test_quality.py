"""Blur, clipped light, a codec's grid and black bars are found on rendered pictures in which they were put."""

from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.measures.quality import NO_BARS, Bars, Range, blockiness, exposure, find_bars, measure_range, sharpness
from tasks.footage import Camera, Scene, render_shot

cv2.setNumThreads(1)

Gray = NDArray[np.uint8]

SIZES = ((640, 360), (854, 480), (1280, 720), (1920, 1080))


@cache
def scene(seed: int = 1, size: tuple[int, int] = (640, 360)) -> Gray:
    return gray(render_shot(Scene(seed), Camera(), 1, size=size)[0])


def gray(picture: NDArray) -> Gray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def jpeg(picture: Gray, quality: int) -> Gray:
    _, coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), np.uint8)


def stored(picture: Gray) -> Gray:
    """As the frame store keeps it: at most 360 lines, JPEG."""
    scale = min(1.0, 360 / min(picture.shape))
    size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
    return jpeg(cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False), 90)


def barred(picture: Gray, bars: Bars, level: int = 0) -> Gray:
    height, width = picture.shape
    framed = np.full_like(picture, level)
    inner = slice(bars.top, height - bars.bottom), slice(bars.left, width - bars.right)
    framed[inner] = picture[inner]
    return framed


def bars_in(picture: Gray) -> Bars:
    return find_bars(measure_range([stored(picture)]), (picture.shape[1], picture.shape[0]))


@pytest.mark.parametrize("seed", range(3))
def test_the_more_a_picture_is_blurred_the_less_sharp_it_is(seed: int):
    picture = scene(seed)
    blurred = [gaussian(picture, deviation) for deviation in (0.5, 1, 2, 4, 8)]
    found = [sharpness(stored(p)) for p in (picture, *blurred)]
    assert found == sorted(found, reverse=True)
    assert 0.65 < found[0] < 0.8
    assert found[2] < 0.75 * found[0]
    assert found[5] < 0.2


def gaussian(picture: Gray, deviation: float) -> Gray:
    return cv2.GaussianBlur(picture, (0, 0), deviation).astype(np.uint8, copy=False)


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [0.0, 2.0])
def test_the_same_scene_is_as_sharp_at_every_resolution(deviation: float):
    pictures = [(scene(1, size), deviation * size[1] / 360) for size in SIZES[:3]]
    found = [sharpness(stored(gaussian(p, d) if d else p)) for p, d in pictures]
    assert max(found) < 1.12 * min(found)


def test_contrast_does_not_make_a_picture_sharp():
    picture = scene(2)
    pale = (picture * 0.4 + 80).astype(np.uint8)
    assert sharpness(pale) == pytest.approx(sharpness(picture), abs=0.1)


def test_what_a_moving_camera_blurs_is_not_sharp():
    smeared = cv2.blur(scene(3), (25, 1)).astype(np.uint8, copy=False)
    assert sharpness(smeared) < 0.35 * sharpness(scene(3))
    assert sharpness(np.ascontiguousarray(smeared.T)) == pytest.approx(sharpness(smeared), abs=0.01)


@pytest.mark.parametrize("shape", [(360, 640), (1, 1), (2, 500), (9, 7)])
def test_a_flat_picture_has_no_sharpness_no_grid_and_no_bars(shape: tuple[int, int]):
    flat = np.full(shape, 120, np.uint8)
    assert (sharpness(flat), exposure(flat)) == (0.0, 0.0)
    assert blockiness(flat, (shape[1], shape[0])) == pytest.approx(1.0)
    assert find_bars(measure_range([flat]), (shape[1], shape[0])) == NO_BARS


def test_exposure_is_the_share_of_the_picture_that_lost_its_detail():
    picture = np.full((100, 100), 128, np.uint8)
    assert exposure(picture) == 0
    picture[:30] = 255
    picture[90:] = 0
    assert exposure(picture) == pytest.approx(0.3)
    picture[50:90] = 2
    assert exposure(picture) == pytest.approx(-0.5)
    assert exposure(picture, Bars(bottom=50)) == pytest.approx(0.6)
    picture[:50], picture[50:] = 255, 0
    assert exposure(picture) == 0.5, "of two equal shares the one that is blown out"


def test_light_is_lost_up_to_luma_5_and_from_luma_250():
    picture = np.full((10, 10), 128, np.uint8)
    found = []
    for level in (5, 6, 249, 250):
        picture[:2] = level
        found.append(exposure(picture))
    assert found == pytest.approx([-0.2, 0, 0, 0.2])


def test_a_scene_filmed_too_dark_or_too_bright_is_told_from_a_good_one():
    picture = scene(4).astype(np.float32)
    dark, bright = (np.clip(picture + shift, 0, 255).astype(np.uint8) for shift in (-140, 140))
    assert exposure(dark) < -0.3
    assert exposure(bright) > 0.3
    assert abs(exposure(scene(4))) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("size", "seen"), [((640, 360), 2.0), ((854, 480), 0.8), ((1280, 720), 0.8)])
def test_the_coarser_the_coding_the_blockier_the_picture(size: tuple[int, int], seen: float):
    picture = scene(1, size)
    found = [blockiness(stored(coded), size) for coded in (picture, *(jpeg(picture, q) for q in (50, 25, 10)))]
    assert found == sorted(found)
    assert found[0] < 1.3
    assert found[-1] > found[0] + seen


def test_blocks_off_the_grid_are_not_taken_for_it():
    coarse = jpeg(scene(1), 10)
    moved = np.ascontiguousarray(coarse[4:, 4:])
    assert blockiness(moved, (636, 356)) < 1 < 3 < blockiness(coarse, (640, 360))
    assert blockiness(coarse, (640, 360), Bars(top=4, left=4)) > 3, "the grid begins in the corner of the whole picture"


def test_the_edge_of_a_bar_is_no_block():
    picture = scene(1)
    framed = barred(picture, Bars(top=40, bottom=40))
    assert blockiness(framed, (640, 360), Bars(top=40, bottom=40)) == pytest.approx(
        blockiness(picture, (640, 360)), abs=0.15
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_bars_of_known_width_are_found_exactly(size: tuple[int, int]):
    width, height = size
    picture = scene(1, size)
    letterbox, pillarbox = height // 8, width // 8
    for bars in (
        NO_BARS,
        Bars(top=letterbox, bottom=letterbox),
        Bars(left=pillarbox, right=pillarbox),
        Bars(top=17, bottom=23),
        Bars(32, 44, 50, 26),
    ):
        assert bars_in(barred(picture, bars)) == bars


@settings(max_examples=40)
@given(st.builds(Bars, *[st.just(0) | st.integers(4, 60)] * 4), st.integers(0, 3))
def test_bars_on_any_side_are_found_exactly(bars: Bars, seed: int):
    assert bars_in(barred(scene(seed, (320, 192)), bars, level=1)) == bars


def test_a_dark_scene_is_no_bar():
    black = np.zeros((360, 640), np.uint8)
    lamp = cv2.circle(black.copy(), (320, 180), 60, 220, -1).astype(np.uint8)
    sign = cv2.rectangle(black.copy(), (250, 150), (390, 200), 220, -1).astype(np.uint8)
    grain = np.random.default_rng(0).normal(9, 4, (360, 640)).clip(0, 255).astype(np.uint8)
    night = np.vstack([grain[:180], scene(1)[180:]])
    dusk = (scene(1) * np.linspace(0, 1, 360)[:, None] ** 2).astype(np.uint8)
    assert [bars_in(p) for p in (black, lamp, sign, grain, night, dusk)] == [NO_BARS] * 6


def test_an_upright_video_in_a_wide_one_has_bars():
    assert bars_in(barred(scene(2), Bars(left=219, right=219))) == Bars(left=219, right=219)


def test_a_bar_stays_black_throughout():
    bars, size = Bars(top=45, bottom=45), (640, 360)
    dark = [barred((scene(seed) * 0.05).astype(np.uint8), bars) for seed in range(3)]
    assert find_bars(measure_range(dark), size) == NO_BARS
    assert find_bars(measure_range([*dark, barred(scene(1), bars)]), size) == bars
    assert find_bars(measure_range([barred(scene(1), bars), scene(2)]), size) == NO_BARS


def test_a_bar_may_reach_luma_20_and_vary_by_2_in_space_and_in_time():
    size, picture = (96, 64), np.full((64, 96), 200, np.uint8)

    def found(low: int, high: int, darkest: int = 0) -> int:
        """The height of a bar whose columns alternate between two lumas, and that is at times as dark as another."""
        bright, dark = picture.copy(), picture.copy()
        bright[:12, ::2], bright[:12, 1::2] = low, high
        dark[:12] = darkest or bright[:12]
        return find_bars(Range(dark, bright), size).top

    assert (found(20, 20), found(21, 21)) == (12, 0), "luma"
    assert (found(10, 14), found(10, 15)) == (12, 0), "deviation: 2 and 2.5"
    assert (found(14, 14, darkest=12), found(14, 15, darkest=12)) == (12, 0), "mean range: 2 and 2.5"


def test_text_in_a_bar_belongs_to_the_picture():
    framed = barred(scene(1), Bars(top=60, bottom=60))
    cv2.putText(framed, "WHO IS THERE", (180, 340), cv2.FONT_HERSHEY_DUPLEX, 1.0, 255, 2, cv2.LINE_AA)
    found = bars_in(framed)
    assert (found.top, found.bottom) == (60, 0)


def test_a_range_is_the_darkest_and_the_brightest_of_each_pixel():
    frames = [np.array([[3, 9]], np.uint8), np.array([[5, 1]], np.uint8)]
    found = measure_range(iter(frames))
    assert isinstance(found, Range)
    assert (found.darkest.tolist(), found.brightest.tolist()) == ([[3, 1]], [[5, 9]])
    assert frames[0].tolist() == [[3, 9]]
    with pytest.raises(ValueError, match="one frame"):
        measure_range([])


@pytest.mark.parametrize(
    ("bars", "crop"),
    [
        (NO_BARS, None),
        (Bars(top=90, bottom=90), "1280:540:0:90"),
        (Bars(left=160, right=160), "960:720:160:0"),
        (Bars(top=17, bottom=23, left=5), "1274:678:6:18"),
    ],
)
def test_a_crop_is_even_and_leaves_nothing_of_a_bar(bars: Bars, crop: str | None):
    assert bars.crop(1280, 720) == crop


def test_in_a_smaller_picture_a_line_that_a_bar_touches_is_left_out():
    picture = np.zeros((360, 640), np.uint8)
    assert Bars(90, 91, 0, 1).shrunk((1280, 720), picture) == Bars(45, 46, 0, 1)
    assert Bars(90, 91, 0, 1).shrunk((640, 360), picture) == Bars(90, 91, 0, 1)


def test_of_no_frame_there_is_no_range():
    with pytest.raises(ValueError, match="A range needs at least one frame"):
        measure_range([])
