"""The page of a run holds everything it shows, escapes what people wrote, and counts rightly."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from models.errors import BadManifest
from tasks.generate.gallery import (
    NEEDS,
    Embedder,
    compare_motions,
    make_cards,
    make_figures,
    render_gallery,
    write_gallery,
)
from tasks.ledger import mark, record
from tasks.manifest import Lineage, write_manifest


def row(number: int, **changes: Any) -> dict[str, Any]:
    made = dict.fromkeys(NEEDS) | {
        "job": number, "take": 0, "name": f"p{number}", "status": "ok", "image": "p.png", "picture": "p.png",
        "video": "v.mp4", "motion_measured": "static", "camera_strength": 0.1, "first_frame_psnr": 24.0, "seed": 0,
        "last_frame_psnr": 20.0, "steps": 25, "fps": 7.0, "motion_bucket": 127, "frames": 8, "width": 64, "height": 64,
        "chosen": True, "passed": True, "score": 0.8, "good_until": 8, "reasons": [], "frames_kept": 8,
        "sharpness_curve": [1.0] * 8, "colour_curve": [0.0] * 8, "identity_curve": [1.0] * 8,
        "flicker_curve": [0.0] * 8,
    }  # fmt: skip
    return made | changes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "p.png").write_bytes(b"p" * 300)
    (tmp_path / "v.mp4").write_bytes(b"v" * 900)
    return tmp_path


class Sources(HTMLParser):
    """The addresses a page loads, and whether its tags are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name == "src"]
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_small_page_loads_nothing_from_anywhere(root):
    page = Sources(render_gallery(root, [row(0), row(1)]))
    assert page.open == []
    assert len(page.loaded) == 4
    assert all(address.startswith("data:") for address in page.loaded)


def test_where_a_clip_stops_being_good_stands_once_beside_what_else_it_fails(root):
    reasons = ["camera static, asked pan_left", "good until frame 3 of 8"]
    page = render_gallery(root, [row(0, passed=False, good_until=3, good_until_reason="sharpness", reasons=reasons)])
    text = re.sub(r"<[^>]*>", "", page)
    assert text.count("good until frame 3 of 8") == 1
    assert "good until frame 3 of 8: sharpness" in text
    assert '<p class="why">camera static, asked pan_left</p>' in page
    alone = render_gallery(root, [row(0, passed=False, good_until=3, reasons=reasons[1:])])
    assert '<p class="why">' not in alone


def test_past_the_limit_files_are_linked_relative_to_the_page(root):
    page = Sources(render_gallery(root, [row(0), row(1)], embed_limit=1600))
    assert [address[:12] for address in page.loaded] == ["data:image/p", "data:video/m", "data:image/p", "../v.mp4"]
    assert Embedder(root, budget=0).url("v.mp4", "video/mp4") == "../v.mp4"


def test_a_clip_with_a_changed_byte_is_not_shown_as_good(root, caplog):
    mark(root, "generate", "1")
    for name in ("p.png", "v.mp4"):
        record(root / name, root / name)
    assert render_gallery(root, [row(0)]).count(";base64,d") == 1
    (root / "v.mp4").write_bytes(b"v" * 899 + b"u")
    assert ";base64,d" not in render_gallery(root, [row(0)])
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [str(root / "v.mp4")]


def test_videos_play_by_themselves_silently_and_for_ever(root):
    tag = re.search(r"<video[^>]*>", render_gallery(root, [row(0)]))
    assert tag
    assert all(word in tag.group() for word in ("autoplay", "loop", "muted", "playsinline"))


def test_pictures_that_move_by_themselves_and_the_first_of_a_folder_are_shown_as_pictures(root):
    (root / "v.webp").write_bytes(b"w")
    (root / "v").mkdir()
    (root / "v" / "0001.png").write_bytes(b"f")
    page = render_gallery(root, [row(0, video="v.webp"), row(1, video="v"), row(2)])
    kinds = [address.partition(";")[0] for address in Sources(page).loaded]
    shown = ["data:image/webp", "data:image/png", "data:video/mp4"]
    assert sorted(kinds) == sorted(["data:image/png"] * 3 + shown)
    assert page.count("; the first of them") == 1
    assert page.count("<video") == 1
    assert "Pause all</button>" in page


def test_where_nothing_plays_there_is_nothing_to_pause(root):
    (root / "v.webp").write_bytes(b"w")
    assert "Pause all</button>" not in render_gallery(root, [row(0, video="v.webp")])


def test_what_is_not_as_it_was_asked_is_said_on_the_card(root):
    page = render_gallery(
        root, [row(0, ignored=["size 100x50: made as 104x48, because sides must be multiples of 8."]), row(1)]
    )
    assert page.count("not as asked: size 100x50: made as 104x48") == page.count("not as asked") == 1


def test_the_rate_that_a_file_plays_at_is_said_where_it_is_another_than_the_models(root):
    page = render_gallery(
        root, [row(0, playback_fps=12.5), row(1, playback_fps=7.0), row(2, lora="/x/pan.safetensors")]
    )
    assert page.count("played at <b>12.5</b> a second") == page.count("played at") == 1
    assert page.count("<b>7</b> frames a second") == 3
    assert "LoRA <b>pan.safetensors</b>" in page


def test_a_table_that_is_older_than_a_column_is_still_shown(root):
    older = pa.Table.from_pylist([row(0)]).drop_columns(["playback_fps", "longer"])
    made = write_manifest(root / "outputs.parquet", older, Lineage(step="outputs", version=1))
    page = write_gallery.fn(root, made).read_text()
    assert page.count("<article") == 1
    assert "played at" not in page


def test_names_and_reasons_are_escaped(root):
    evil = "<script>alert(1)</script>"
    page = render_gallery(
        root, [row(0, name=evil), row(1, status="failed", stage="jobs", error_message=evil, video=None)]
    )
    assert evil not in page
    assert page.count("&lt;script&gt;") >= 2


def test_failures_and_duplicates_stand_there_with_their_reasons(root):
    rows = [
        row(0),
        row(1, status="failed", stage="jobs", error_message="b.png: cannot be read", video=None, chosen=None),
        row(2, status="duplicate", stage="jobs", error_message="asks for the same clip as job 0", chosen=None),
    ]
    page = render_gallery(root, rows)
    assert "b.png: cannot be read" in page
    assert "asks for the same clip as job 0" in page
    assert make_figures(rows) == [
        ("clips", "1", ""),
        ("failed", "1", ""),
        ("duplicates", "1", ""),
        ("pass the gate", "1", "of 1"),
        ("first frame, mean", "24.0", "dB"),
    ]
    assert make_figures([row(0, chosen=None, first_frame_psnr=None)]) == [("clips", "1", ""), ("failed", "0", "")]


@pytest.mark.parametrize("gone", ["v.mp4", "p.png"])
def test_a_clip_that_was_removed_since_is_said_to_be_gone(root, gone):
    (root / "w.mp4").write_bytes(b"w")
    (root / "q.png").write_bytes(b"q")
    (root / gone).unlink()
    page = render_gallery(root, [row(0), row(1, video="w.mp4", picture="q.png")])
    assert f"{gone}: is not there any more" in page
    assert len(Sources(page).loaded) == 2


@pytest.mark.parametrize("column", ["video", "picture"])
def test_a_file_that_a_table_names_outside_of_its_folder_is_not_shown(root, column):
    out = root / "out"
    out.mkdir()
    for name in ("v.mp4", "p.png"):
        (out / name).write_bytes((root / name).read_bytes())
    with pytest.raises(BadManifest, match=r"is outside of .*/out, so it is not read"):
        render_gallery(out, [row(0, **{column: "../v.mp4" if column == "video" else "../p.png"})])


def test_a_page_without_any_clip_is_still_a_page(root):
    page = render_gallery(
        root, [row(0, status="failed", stage="jobs", error_message="why", first_frame_psnr=None, chosen=None)]
    )
    assert Sources(page).loaded == []
    assert "why" in page


def test_asked_and_measured_are_counted_by_motion_over_the_chosen_takes():
    rows = [
        row(0, motion_asked="pan_left", motion_measured="pan_left", strength_asked=0.5, strength_measured=0.4),
        row(1, motion_asked="pan_left", motion_measured="static", strength_asked=0.5, strength_measured=0.1),
        row(2, motion_asked="pan_left", motion_measured="static", strength_measured=0.2),
        row(2, motion_asked="pan_left", motion_measured="roll", chosen=False),
        row(3, motion_asked="static"),
        row(4),
        row(5, motion_asked="static", status="failed"),
    ]
    assert compare_motions(rows) == [
        {
            "motion": "pan_left",
            "clips": 3,
            "met": 1,
            "others": [("static", 2)],
            "speed_asked": 0.5,
            "speed_measured": 0.2,
        },
        {"motion": "static", "clips": 1, "met": 1, "others": [], "speed_asked": None, "speed_measured": None},
    ]
    assert ("motion as asked", "2", "of 4") in make_figures(rows)


def test_takes_of_a_job_share_its_card(root):
    rows = [
        row(0, take=0, chosen=False, passed=False, reasons=["camera static, asked pan_left"]),
        row(0, take=1),
        row(1),
    ]
    cards = make_cards(root, rows)
    assert [[take["take"] for take in card.takes] for card in cards] == [[1, 0], [0]]
    page = render_gallery(root, rows)
    assert page.count("<article") == 2
    assert page.count("<video") == 3
    assert "1 other take<" in page
    assert "camera static, asked pan_left" in page


def test_chosen_takes_are_embedded_before_the_others(root):
    rows = [row(0, take=0, chosen=False), row(0, take=1), row(1)]
    addresses = [take["video_url"][:6] for card in make_cards(root, rows, 2 * 300 + 2 * 900) for take in card.takes]
    assert addresses == ["data:v", "../v.m", "data:v"]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "passed "),
        ({"passed": False, "motion_asked": "pan_left"}, "unpassed missed"),
        ({"motion_asked": "static"}, "passed met"),
        ({"passed": None, "chosen": None}, " "),
    ],
)
def test_what_the_page_filters_by(root, changes, state):
    assert make_cards(root, [row(0, **changes)])[0].state == state


def test_every_measured_clip_shows_its_curves_and_where_it_stops_being_good(root):
    page = render_gallery(root, [row(0, good_until=3, good_until_reason="blurred"), row(1, sharpness_curve=None)])
    assert page.count('class="spark"') == 7
    assert page.count('class="end"') == 4
    assert "good until frame <b>3</b> of 8: blurred" in page
    assert 'aria-label="sharpness, against the first frame: from 1.00 to 1.00 over 8 frames"' in page


def test_the_page_can_be_filtered_and_sorted_by_keyboard_and_says_how_many_are_shown(root):
    page = render_gallery(root, [row(0)])
    for control in ('type="search"', 'name="state"', 'name="motion"', 'name="sort"', 'role="status"', 'tabindex="0"'):
        assert control in page


def test_a_trimmed_clip_says_so(root):
    assert "trimmed to 5" in render_gallery(root, [row(0, good_until=5, frames_kept=5)])


@pytest.mark.parametrize(
    ("longer", "said"), [("windows", "by windows over time"), ("chain", "as a chain of clips"), (None, None)]
)
def test_a_clip_past_the_models_length_says_how_it_was_made(root, longer, said):
    page = render_gallery(root, [row(0, frames=32, longer=longer)])
    found = [each for each in ("by windows over time", "as a chain of clips") if each in page]
    assert found == ([said] if said else [])


def test_the_step_goes_by_its_name():
    assert write_gallery.name == "gallery"
