"""The page of a run holds everything it shows, escapes what people wrote, and counts rightly."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tasks.generate.gallery import NEEDS, Embedder, asked_measured, figures, gallery_html


def row(number: int, **changes: Any) -> dict[str, Any]:
    made = dict.fromkeys(NEEDS) | {
        "job": number, "take": 0, "name": f"p{number}", "status": "ok", "image": "p.png", "picture": "p.png",
        "video": "v.mp4", "motion_measured": "static", "camera_strength": 0.1, "first_frame_psnr": 24.0, "seed": 0,
        "last_frame_psnr": 20.0, "steps": 25, "fps": 7.0, "motion_bucket": 127, "frames": 8, "width": 64, "height": 64,
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
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_small_page_loads_nothing_from_anywhere(root):
    page = Sources(gallery_html(root, [row(0), row(1)]))
    assert page.open == []
    assert len(page.loaded) == 4
    assert all(address.startswith("data:") for address in page.loaded)


def test_past_the_limit_files_are_linked_relative_to_the_page(root):
    page = Sources(gallery_html(root, [row(0), row(1)], embed_limit=1600))
    assert [address[:12] for address in page.loaded] == ["data:image/p", "data:video/m", "data:image/p", "../v.mp4"]
    assert Embedder(root, budget=0).url("v.mp4", "video/mp4") == "../v.mp4"


def test_videos_play_by_themselves_silently_and_for_ever(root):
    tag = re.search(r"<video[^>]*>", gallery_html(root, [row(0)]))
    assert tag
    assert all(word in tag.group() for word in ("autoplay", "loop", "muted", "playsinline"))


def test_names_and_reasons_are_escaped(root):
    evil = "<script>alert(1)</script>"
    page = gallery_html(
        root, [row(0, name=evil), row(1, status="failed", stage="jobs", error_message=evil, video=None)]
    )
    assert evil not in page
    assert page.count("&lt;script&gt;") >= 2


def test_failures_and_duplicates_stand_there_with_their_reasons(root):
    rows = [
        row(0),
        row(1, status="failed", stage="jobs", error_message="b.png: cannot be read", picture=None, video=None),
        row(2, status="duplicate", stage="jobs", error_message="asks for the same clip as job 0", video=None),
    ]
    page = gallery_html(root, rows)
    assert "b.png: cannot be read" in page
    assert "asks for the same clip as job 0" in page
    assert dict(figures(rows)) == {"clips": "1", "failed": "1", "duplicates": "1", "first frame, mean": "24.0 dB"}


def test_a_page_without_any_clip_is_still_a_page(root):
    page = gallery_html(root, [row(0, status="failed", stage="jobs", error_message="why", first_frame_psnr=None)])
    assert Sources(page).loaded == []
    assert "why" in page


def test_asked_and_measured_are_counted_by_motion():
    rows = [
        row(0, motion_asked="pan_left", motion_measured="pan_left"),
        row(1, motion_asked="pan_left", motion_measured="static"),
        row(2, motion_asked="pan_left", motion_measured="static"),
        row(3, motion_asked="static"),
        row(4),
        row(5, motion_asked="static", status="failed"),
    ]
    assert asked_measured(rows) == [
        {"motion": "pan_left", "clips": 3, "met": 1, "others": [("static", 2)]},
        {"motion": "static", "clips": 1, "met": 1, "others": []},
    ]
    assert dict(figures(rows))["motion as asked"] == "2 of 4"
