"""The report says what is in the tables, shows some clips of each kind, and opens from disk as one small file."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.curate.report import (
    ReportConfig,
    duplicate_groups,
    list_failures,
    list_figures,
    list_files,
    list_remarks,
    make_dropped_sheets,
    render_report,
    write_report,
)
from tasks.keep_rules import SelectConfig
from tasks.pages.dataset import make_funnel, read_dataset
from tasks.pages.sheets import Reel
from tests.declared import declared

SHORT, TEXT = {"start_s": 0.0, "end_s": 0.5}, {"text_area": 0.2}
TWINS = [{"dedup_group": "a-0", "video_id": name, "clip_id": f"{name}-0", "shot_start_pts": 0} for name in "ab"]
BROKEN = {
    "video_id": "c", "status": "unreadable", "frame_store": None, "decodes": None, "clips": None, "duration_s": None,
    "error_message": "/films/c.mp4: is cut short; copy it again.",
}  # fmt: skip


class Page(HTMLParser):
    """A page's tags, those left open, its addresses, its ids and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data.strip()}"

    def values(self, *names: str) -> list[str]:
        return [value or "" for _, attrs in self.tags for name, value in attrs.items() if name in names]


def page_of(clips, **config) -> Page:
    return Page(render_report(read_dataset(clips), ReportConfig(**config)))


def test_the_page_is_whole_and_loads_nothing(curated):
    page = page_of(curated([{}, SHORT, TEXT, *TWINS], files=[BROKEN]))
    assert page.open == []
    assert all(address.startswith(("#", "data:")) for address in page.values("href", "src"))
    assert all("url(data:image/jpeg;base64," in style for style in page.values("style") if "url(" in style)


def test_every_section_that_is_linked_is_there(curated):
    page = page_of(curated([{}]))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in page.values("href") if address.startswith("#")} <= set(ids)


def test_the_task_writes_the_same_bytes_again(curated):
    clips = curated([{}, SHORT, TEXT, *TWINS], files=[BROKEN])
    root = clips.path.parent
    path = write_report.fn(root, ReportConfig(), clips)
    first = path.read_bytes()
    write_report.fn(root, ReportConfig(), clips)
    assert path == root / "report/index.html"
    assert path.read_bytes() == first


def test_the_headline_counts_files_shots_and_clips(curated):
    dataset = read_dataset(curated([{}, {"shot_start_pts": 0}, SHORT, TEXT], files=[BROKEN]))
    assert list_figures(dataset, make_funnel(dataset)) == [
        ("files", "2", "1 not used"),
        ("footage", "10.0 s", ""),
        ("shots", "3", ""),
        ("clips kept", "2", "of 4"),
        ("kept footage", "4.0 s", ""),
    ]


def test_the_funnel_stands_on_the_page_with_its_thresholds(curated):
    text = page_of(curated([{}, SHORT, SHORT | TEXT, TEXT])).text
    assert re.search(r"Too short\s+under 1 s\s+2\s+2\s+1", text)
    assert re.search(r"Too much text\s+over 7% of the picture\s+1\s+2\s+1", text)
    assert "No clip fails the other rules: could not be measured, no picture" in text


def test_dropped_clips_stand_under_their_first_reason_with_the_others(curated):
    dataset = read_dataset(curated([{}, SHORT, SHORT | TEXT, TEXT, *TWINS]))
    sheets = make_dropped_sheets(Reel(dataset), 8)
    assert [(title, limit, sheet.clips) for title, limit, sheet in sheets] == [
        ("Too short", "under 1 s", 2),
        ("Too much text", "over 7% of the picture", 1),
    ]
    assert [clip["others"] for clip in sheets[0][2].cards] == [[], ["too much text"]]


def test_duplicates_stand_together_the_kept_one_marked(curated):
    dataset = read_dataset(curated(TWINS))
    groups, more = duplicate_groups(Reel(dataset), 12)
    assert [[(c["clip_id"], c["keep"]) for c in group.cards] for group in groups] == [[("a-0", True), ("b-0", False)]]
    assert more == 0
    text = page_of(curated(TWINS)).text
    assert re.search(r"Group 1.*kept.*dropped", text)


def test_groups_past_the_cap_are_counted(curated):
    pairs = [{"dedup_group": f"g{i}", "video_id": name} for i in range(3) for name in "ab"]
    groups, more = duplicate_groups(Reel(read_dataset(curated(pairs))), 2)
    assert (len(groups), more) == (2, 1)


def test_failures_name_the_file_once_and_say_why(curated):
    dataset = read_dataset(curated([{"error": "motion: too few frames."}], files=[BROKEN]))
    shown, more = list_failures(dataset, 10)
    assert shown == [("c.mp4", "is cut short; copy it again."), ("a.mp4 at 0:00.0", "motion: too few frames.")]
    assert more == 0
    assert list_failures(dataset, 1) == (shown[:1], 1)


def test_clips_that_could_not_be_cut_are_failures_too(curated):
    ref = curated([{"clip_id": "a-0"}, {"clip_id": "a-1"}])
    reasons = [None, "a-1: only one keyframe between its cuts."]
    pq.write_table(pa.table({"clip_id": ["a-0", "a-1"], "error_message": reasons}), ref.path.with_name("cuts.parquet"))
    ((place, reason),), more = list_failures(read_dataset(ref), 10)
    assert (place.split(" at ")[0], reason, more) == ("a.mp4", "not cut: only one keyframe between its cuts.", 0)


def test_every_file_is_a_row_with_its_shots_and_kept_clips(curated):
    dataset = read_dataset(curated([{}, {"shot_start_pts": 0}, TEXT], files=[BROKEN]))
    rows = [(row["video_id"], row["status"], row["shots"], row["kept"]) for row in list_files(dataset, 10)]
    assert rows == [("a", "ok", 2, 2), ("c", "unreadable", "", "")]
    dropped = read_dataset(curated([TEXT], files=[{"video_id": "b", "clips": 0}]))
    assert [(row["shots"], row["kept"]) for row in list_files(dropped, 10)] == [(1, 0), (0, 0)]
    assert len(list_files(dataset, 1)) == 1


def test_what_was_not_measured_is_said(curated):
    lines = " ".join(list_remarks(read_dataset(curated([{}, {}]))))
    assert "composed from these measurements" in lines
    assert "Not measured: aesthetic score and likeness of caption and picture. They need weights" in lines
    assert "Not measured: longest freeze and sharpness. This dataset was made before this was measured." in lines
    scores = {"aesthetic": 5.0, "clip_similarity": 0.3, "sharpness": 0.5, "frozen_s": 0.0}
    measured = [scores | {"caption_engine": "blip"}]
    assert list_remarks(read_dataset(curated(measured))) == ["Captions are by blip."]


def test_the_overlap_of_two_rules_stands_in_a_table(curated):
    text = page_of(curated([{}, SHORT, SHORT | TEXT, TEXT, TEXT])).text
    assert re.search(r"Too short\s+2\s+1\s+Too much text\s+1\s+3", text)
    assert "Which rules drop the same clips" not in page_of(curated([{}, SHORT])).text


def test_the_panel_holds_the_numbers_of_every_clip(curated):
    html = render_report(read_dataset(curated([{}, SHORT, TEXT])), ReportConfig())
    data = json.loads(html.partition('id="tuning-data">')[2].partition("</script>")[0])
    lengths = np.frombuffer(base64.b64decode(data["columns"]["seconds"]["bytes"]), data["columns"]["seconds"]["type"])
    assert lengths.tolist() == [2.0, 0.5, 2.0]
    assert data["config"] == SelectConfig().model_dump(mode="json")


def test_a_quantile_is_shown_as_the_number_it_cuts_at(curated):
    clips = [{"motion_score": i / 10} for i in range(8)]
    text = page_of(curated(clips, config=SelectConfig(motion_quantile=0.25))).text
    assert re.search(r"Little motion\s+under 0.2 sides/s\s+2\s+2\s+2", text)


@pytest.mark.parametrize(("cap", "cards", "said"), [(2, 2, "and 3 more clips"), (5, 5, None)])
def test_a_sheet_is_bounded_and_says_so(curated, cap, cards, said):
    page = page_of(curated([{}] * 5), kept_per_motion=cap)
    assert sum(tag == "article" for tag, _ in page.tags) == cards
    assert (said is None) != ("more clips" in page.text)
    assert said is None or said in page.text


def test_the_pages_size_does_not_grow_with_the_dataset(curated):
    config = {"kept_per_motion": 1, "dropped_per_reason": 1, "duplicate_groups": 1, "rows": 1, "previews": 2}
    few, many = (render_report(read_dataset(curated([{}, TEXT] * n)), ReportConfig(**config)) for n in (2, 40))
    assert len(many) < 1.1 * len(few)


def test_names_captions_and_reasons_are_escaped(curated):
    evil = "<script>alert(1)</script>"
    clips = [{"caption": evil, "source": f"/films/{evil}.mp4", "error": evil}]
    html = render_report(read_dataset(curated(clips, files=[BROKEN | {"error_message": evil}])), ReportConfig())
    assert evil not in html
    assert html.count("&lt;script&gt;alert(1)") >= 3


@pytest.mark.parametrize("clips", [[], [TEXT]])
def test_a_dataset_that_keeps_nothing_still_has_a_page(curated, clips):
    text = page_of(curated(clips, files=[BROKEN])).text
    assert "No clip is kept." in text
    assert "is cut short; copy it again." in text


def test_unmeasured_clips_are_shown_as_such(curated):
    unmeasured = {"motion_score": None, "camera_motion": None, "camera_strength": None, "text_area": None}
    text = page_of(curated([unmeasured | {"error": "motion: too few frames."}])).text
    assert re.search(r"Could not be measured\s+1 clip", text)
    assert re.search(r"motion\s+none\s+camera\s+none\s+text\s+none", text)


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(ReportConfig) == {
        "": "frozen=True, extra='forbid'",
        "kept_per_motion": "12, ge=0",
        "dropped_per_reason": "8, ge=0",
        "duplicate_groups": "12, ge=0",
        "previews": "32, ge=0",
        "rows": "300, ge=0",
    }


def test_the_step_goes_by_its_name():
    assert write_report.name == "report"
