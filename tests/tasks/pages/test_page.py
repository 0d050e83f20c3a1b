"""Pages escape what people wrote, hold what they show, and write numbers as people read them."""

import base64
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from tasks.ledger import mark
from tasks.manifest import publish_text
from tasks.pages.page import (
    embed_file,
    file_name,
    format_clock,
    format_count,
    format_duration,
    format_number,
    format_size,
    format_words,
    make_data_uri,
    render,
)

PAGE = '{% extends "base.html.j2" %}{% block title %}T{% endblock %}{% block main %}<p>{{ text }}</p>{% endblock %}'


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "page.html.j2"
    path.write_text(PAGE)
    return path


def test_what_people_wrote_is_escaped(template):
    page = render(template, text="<script>alert(1)</script> & \"'")
    assert "<p>&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;&#39;</p>" in page


def test_a_page_has_the_shared_look_and_takes_nothing_from_elsewhere(template):
    page = render(template, text="")
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert "http" not in page
    assert "@import" not in page


def test_a_name_the_template_does_not_get_is_an_error(template):
    with pytest.raises(UndefinedError, match="text"):
        render(template)


def test_the_same_values_give_the_same_page(template):
    assert render(template, text="a") == render(template, text="a")


def test_a_data_uri_holds_the_bytes():
    kind, _, content = make_data_uri(b"\x00\xff\n", "video/mp4").partition(";base64,")
    assert kind == "data:video/mp4"
    assert base64.b64decode(content) == b"\x00\xff\n"


def test_a_file_that_is_not_as_it_was_written_is_said_and_not_shown(tmp_path, caplog):
    mark(tmp_path, "generate", "1")
    publish_text(tmp_path / "a.mp4", "film")
    assert embed_file(tmp_path / "a.mp4", "video/mp4") == "data:video/mp4;base64,ZmlsbQ=="
    (tmp_path / "a.mp4").write_text("fulm")
    assert embed_file(tmp_path / "a.mp4", "video/mp4") == "data:video/mp4;base64,"
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{tmp_path / 'a.mp4'}: has other bytes than were written, so it is not shown. Delete it")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0.0 s"), (12.44, "12.4 s"), (99.94, "99.9 s"), (99.96, "1.7 min"), (210, "3.5 min"), (7500, "2 h 05 min")],
)
def test_lengths_are_said_in_a_fitting_unit(seconds, said):
    assert format_duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0:00.0"), (4.66, "0:04.7"), (59.96, "1:00.0"), (3753.0, "1:02:33.0")]
)
def test_places_in_a_video_carry_over_when_rounded(seconds, said):
    assert format_clock(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (24_400, "24 kB"), (999_600, "1.0 MB"), (3.4e6, "3.4 MB"),
     (1.2e9, "1.2 GB"), (5e12, "5000.0 GB")],
)  # fmt: skip
def test_sizes_are_said_in_a_fitting_unit(count, said):
    assert format_size(count) == said


def test_counts_and_names_are_said_as_words():
    assert format_number(1234567) == "1,234,567"
    assert (format_count(0, "clip"), format_count(1, "clip"), format_count(2, "clip")) == (
        "0 clips",
        "1 clip",
        "2 clips",
    )
    assert format_words("pan_right") == "pan right"
    assert format_words(None) == "not measured"


@pytest.mark.parametrize("source", ["/films/a b.mp4", "C:\\films\\a b.mp4", "s3://films/a b.mp4", "a b.mp4"])
def test_a_file_is_named_by_its_last_part(source):
    assert file_name(source) == "a b.mp4"
