from fractions import Fraction

import av
import numpy as np
import pytest

from tasks.footage import Camera, Scene, render_shot
from tasks.media.signals import (
    THUMBNAIL_BYTES,
    Recorder,
    find_neighbours,
    make_signals,
    make_thumbnail,
    measure_detail,
    measure_difference,
    shrink,
    shrink_frame,
    stretch,
)

SIZE = (96, 64)


def frame_of(colour: tuple[int, int, int], pixel_format: str = "yuv420p") -> av.VideoFrame:
    picture = np.full((64, 96, 3), colour, np.uint8)
    return av.VideoFrame.from_ndarray(picture).reformat(format=pixel_format)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return render_shot(Scene(4), Camera.doing("pan_right", 1.0), 3, size=SIZE)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv444p", "yuv422p10le", "rgb24", "gray", "nv12"])
@pytest.mark.parametrize(("level", "luma"), [(0, 0), (128, 128), (255, 255)])
def test_luma_is_0_for_black_and_255_for_white_in_every_format(pixel_format: str, level: int, luma: int):
    y, u, v = shrink_frame(frame_of((level, level, level), pixel_format))
    assert y.mean() == pytest.approx(luma, abs=1.5)
    assert u.mean() == pytest.approx(0, abs=1.5)
    assert v.mean() == pytest.approx(0, abs=1.5)


def test_chroma_is_that_of_bt601():
    _, u, v = shrink_frame(frame_of((255, 0, 0)))
    assert u.mean() == pytest.approx(-0.169 * 255, abs=2)
    assert v.mean() == pytest.approx(0.5 * 255, abs=2)


@pytest.mark.parametrize("pixel_format", ["yuv420p10le", "gbrp", "yuv422p", "nv12", "yuv444p"])
def test_a_change_is_the_same_in_every_format(pictures: np.ndarray, pixel_format: str):
    def change(name: str) -> float:
        before, after = (
            shrink_frame(av.VideoFrame.from_ndarray(p).reformat(format=name)) for p in (pictures[0], pictures[2])
        )
        return measure_difference(before, after)

    assert change("yuv420p") > 3
    assert change(pixel_format) == pytest.approx(change("yuv420p"), rel=0.1)


def test_planes_do_not_share_memory_with_the_decoder():
    frame = frame_of((255, 255, 255))
    luma = shrink_frame(frame)[0]
    frame.planes[0].update(bytes(frame.planes[0].buffer_size))
    assert shrink_frame(frame)[0].mean() == 0
    assert luma.mean() == 255


def test_shrinking_is_the_mean_of_whole_blocks():
    plane = np.tile(np.array([[0, 100], [200, 60]], np.uint8), (8, 12))
    assert np.array_equal(shrink(plane, 8), np.full((8, 12), 90))


def test_shrinking_leaves_out_what_makes_no_whole_block():
    plane = np.zeros((17, 35), np.uint8)
    plane[16:] = plane[:, 34:] = 255
    assert shrink(plane, 8).shape == (8, 17)
    assert shrink(plane, 8).max() == 0


def test_small_planes_are_not_enlarged():
    plane = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert np.array_equal(shrink(plane, 64), plane)


def test_studio_range_is_stretched_and_full_range_is_not():
    planes = [np.array([[level]], np.uint8) for level in (235, 240, 16)]
    assert [p.item() for p in stretch(planes, full_range=False)] == pytest.approx([255, 127.5, -127.5])
    assert [p.item() for p in stretch(planes, full_range=True)] == [235, 112, -112]


def test_the_difference_is_the_mean_over_the_planes_of_absolute_differences():
    a = [np.array([[0, 10]], np.float32), np.array([[5]], np.float32), np.array([[-5]], np.float32)]
    b = [np.array([[8, 6]], np.float32), np.array([[5]], np.float32), np.array([[4]], np.float32)]
    assert measure_difference(a, b) == pytest.approx((6 + 0 + 9) / 3)
    assert measure_difference(b, a) == measure_difference(a, b)


def recorded(levels: list[float]) -> Recorder:
    recorder = Recorder()
    for pts, level in enumerate(levels):
        recorder.add(pts, [np.full((24, 32), level, np.float32), *[np.zeros((12, 16), np.float32)] * 2])
    return recorder


def test_signals_have_known_values_on_flat_pictures():
    recorder = recorded([10.0, 40.0, 10.0])
    assert list(recorder.change) == [0, 10, 10]
    assert list(recorder.luma) == [10, 40, 10]
    assert list(recorder.deviation) == [0, 0, 0]
    assert list(recorder.detail) == [0, 0, 0]


def test_recorded_signals_come_back_with_their_times():
    signals = make_signals(recorded([10.0, 40.0, 10.0]).columns(), Fraction(1, 4))
    assert signals.seconds.tolist() == [0, 0.25, 0.5]
    assert signals.change.tolist() == [0, 10, 10]
    assert signals.thumbnails.shape == (3, THUMBNAIL_BYTES)
    assert signals.thumbnails[1].tolist() == [40] * 192 + [128] * 96


def test_a_thumbnail_is_the_mean_of_areas_whatever_the_pictures_shape():
    luma = np.repeat(np.arange(16, dtype=np.float32), 4)[None].repeat(24, axis=0) * 10
    chroma = np.full((12, 32), -28.4, np.float32)
    values = np.frombuffer(make_thumbnail([luma, chroma, -chroma]), np.uint8)
    assert values[:192].reshape(12, 16).tolist() == [[10 * i for i in range(16)]] * 12
    assert set(values[192:240].tolist()) == {100}
    assert set(values[240:].tolist()) == {156}


def test_the_deviation_and_the_detail_of_stripes_are_known():
    stripes = np.tile(np.array([0, 100], np.float32), (20, 10))
    recorder = Recorder()
    recorder.add(0, [stripes, *[np.zeros((10, 10), np.float32)] * 2])
    assert recorder.deviation[0] == pytest.approx(50)
    assert measure_detail(stripes) == pytest.approx(40**2)
    assert measure_detail(np.full((9, 9), 7, np.float32)) == 0


def test_neighbours_are_the_nearest_frames_that_move():
    held_on_threes = np.array([0, 0.2, 6, 0, 0, 5, 0, 0, 7])
    assert find_neighbours(held_on_threes, 6.0, window=2).tolist() == [6, 5]
    assert find_neighbours(np.array([8.0, 7, 6]), 9.0, window=2).tolist() == [8, 7]


def test_what_is_not_there_counts_as_no_change():
    assert find_neighbours(np.array([]), 5.0, window=2).tolist() == [0, 0]
    assert find_neighbours(np.array([0, 0, 0, 0, 0, 0, 9]), 9.0, window=2).tolist() == [0, 0]


def test_planes_of_unequal_sizes_are_not_compared():
    large, small = ([np.zeros((side, side), np.float32)] * 3 for side in (4, 1))
    assert measure_difference(large, large) == 0
    with pytest.raises(ValueError, match="Planes of unequal sizes cannot be compared"):
        measure_difference(large, small)
