"""The figures of an evaluation add up, and neither a copy of the picture nor a flat guess meets the bars."""

from typing import Any

import pytest

from tasks.tiny.figures import BARS, average_db, compute_figures, format_figures, list_missed


def row(scene: int, asked: str, measured: str, last: float = 65.025, **changes: Any) -> dict[str, Any]:
    still = asked == "static"
    return {
        "scene": scene, "movers": False, "asked": asked, "measured": measured, "copy_measured": "static",
        "true_measured": asked, "speed_asked": 0.0 if still else 0.5, "speed_measured": 0.0 if still else 0.4,
        "reconstruction_error": 6.5025, "in_view": [1.0, 0.5], "errors": [6.5025, 650.25],
        "seen_errors": [6.5025, last], "copy_errors": [0.0, 0.0 if still else 650.25], "oracle_errors": [0.0, 6.5025],
    } | changes  # fmt: skip


GOOD = [row(scene, motion, motion) for scene in range(60) for motion in ("static", "pan_left")]


def test_figures_count_what_was_obeyed_and_what_was_not():
    found = compute_figures(
        [row(0, "pan_left", "pan_left"), row(0, "static", "static"), row(1, "pan_left", "pan_right", last=650.25)]
    )
    assert (found["pictures"], found["clips"]) == (2, 3)
    assert found["obeyed"] == pytest.approx(2 / 3)
    assert found["least_obeyed"] == pytest.approx(1 / 2)
    assert found["autoencoder_psnr_db"] == pytest.approx(40.0)
    assert found["first_frame_psnr_db"] == pytest.approx(40.0)
    assert found["last_frame_psnr_db"] == pytest.approx((30 + 20) / 2), "of moving cameras alone"
    assert found["still_psnr_db"] == pytest.approx(30.0)
    assert found["speed_share"] == pytest.approx(0.8)
    assert found["frame_psnr_db"] == pytest.approx([40.0, 25.0])
    pans = found["by_motion"]["pan_left"]
    assert (pans["asked"], pans["right"], pans["measured"]) == (2, 1, {"pan_left": 1, "pan_right": 1})
    assert (pans["last_frame_psnr_db"], pans["oracle_last_frame_psnr_db"]) == pytest.approx((25.0, 40.0))
    assert list(found["by_motion"]) == ["pan_left", "static"]


def test_clips_with_movers_are_told_apart():
    found = compute_figures([*GOOD, *(row(s, "pan_left", "complex", 650.25, movers=True) for s in range(60))])
    assert found["obeyed"] == 1.0
    assert found["last_frame_psnr_db"] == pytest.approx(30.0)
    assert found["with_movers"]["obeyed"] == 0.0
    assert found["with_movers"]["last_frame_psnr_db"] == pytest.approx(20.0)
    assert found["with_movers"]["still_psnr_db"] is None


def test_good_clips_meet_the_bars_and_the_copy_beside_them_does_not():
    found = compute_figures(GOOD)
    assert found["missed"] == []
    assert set(list_missed(found["copy"] | {"pictures": 60})) == {
        "last_frame_psnr_db", "obeyed", "least_obeyed", "speed_share"
    }  # fmt: skip
    assert list_missed(found["oracle"] | {"pictures": 60}) == []


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"seen_errors": [5000.0, 65.0]}, "first_frame_psnr_db"),
        ({"seen_errors": [6.5, 600.0]}, "last_frame_psnr_db"),
        ({"measured": "complex"}, "least_obeyed"),
        ({"speed_measured": 0.3}, "speed_share"),
    ],
)
def test_each_bar_can_be_missed(changes: dict[str, Any], missed: str):
    rows = [one | changes if one["asked"] == "pan_left" else one for one in GOOD]
    assert missed in compute_figures(rows)["missed"]


def test_a_picture_too_few_is_missed_and_so_is_what_was_not_measured():
    assert compute_figures(GOOD[:-2])["missed"] == ["pictures"]
    assert list_missed({}) == list(BARS)


def test_the_figures_are_told_beside_the_bars_and_in_a_line_for_each_motion():
    text = format_figures(compute_figures([row(0, "pan_left", "pan_left"), row(1, "static", "complex")]))
    assert text.startswith("2 clips from 2 pictures never trained on\n")
    (line,) = (line for line in text.splitlines() if line.startswith("  last frame "))
    assert line.split() == ["last", "frame", "30.0", "dB", "20.0", "dB", "40.0", "dB", "21.0", "dB", "-"]
    (line,) = (line for line in text.splitlines() if line.startswith("  obeyed "))
    assert line.split() == ["obeyed", "50", "%", "50", "%", "100", "%", "95", "%", "-"]
    assert "bars missed: pictures, obeyed, least_obeyed" in text
    assert "  pan_left     1 of   1   speed asked 0.50, measured 0.40" in text
    assert 'measured {"complex": 1}' in text


def test_an_average_is_of_decibels_and_of_nothing_there_is_none():
    assert average_db([65.025, 650.25]) == pytest.approx(25.0)
    assert average_db([0.0]) == pytest.approx(108.1, abs=0.1)
    assert average_db([]) is None
