"""Six patches of known colours in every format, read back by a browser where it plays the format, and by ffmpeg."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from playwright.sync_api import Browser

from benchmarks.colour import (
    CHROMIUM,
    GPU_FLAGS,
    MOST_OFF,
    PATCHES,
    SIZES,
    make_patches,
    measure_most_off,
    open_browser,
    read_by_ffmpeg,
    read_in_browser,
    write_patches,
)
from tasks.generate.clip_tags import read_clip
from tasks.generate.encode_formats import Format
from tasks.media.video import write_video

FORMATS: tuple[Format, ...] = tuple(name for name in get_args(Format) if name != "gif")

FILMS: tuple[Format, ...] = ("h264", "hevc", "av1")

BT709, LIMITED = 1, 1
"""As H.273 numbers the matrix, the primaries and the transfer of BT.709, and libav the range."""

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="Chromium is not installed: colours are not seen in it."
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser(*GPU_FLAGS) as opened:
        yield opened


@needs_chromium
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "hevc"])
def test_a_browser_shows_the_colours_that_were_written(
    tmp_path: Path, browser: Browser, name: Format, size: tuple[int, int]
):
    read = read_in_browser(browser, write_patches(tmp_path, name, size))
    assert read is not None
    assert measure_most_off(read) <= MOST_OFF[name], read


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [*FILMS, "png"])
def test_ffmpeg_reads_the_colours_that_were_written(tmp_path: Path, name: Format, size: tuple[int, int]):
    read = read_by_ffmpeg(write_patches(tmp_path, name, size), size)
    assert measure_most_off(read) <= MOST_OFF[name], read


def tags_of(path: Path) -> tuple[int, ...]:
    """What a film says of its range, matrix, primaries and transfer, before a picture of it is decoded and in one."""
    with av.open(str(path)) as film:
        said = film.streams.video[0].codec_context
        before = (said.color_range, said.colorspace, said.color_primaries, said.color_trc)
        frame = next(film.decode(video=0))
        return *before, frame.color_range, frame.colorspace, int(frame.color_primaries), int(frame.color_trc)


@pytest.mark.parametrize("size", [(64, 48), (65, 33), (1280, 720)])
@pytest.mark.parametrize("name", FILMS)
def test_every_film_says_which_colours_it_has(tmp_path: Path, name: Format, size: tuple[int, int]):
    said = (LIMITED, BT709, BT709, BT709)
    assert tags_of(write_patches(tmp_path, name, size)) == said * 2
    write_video(tmp_path / "footage.mp4", make_patches(size), 8.0)
    assert tags_of(tmp_path / "footage.mp4") == said * 2


@pytest.mark.parametrize("name", [*FILMS, "webp"])
def test_an_odd_size_has_the_colours_of_an_even_one(tmp_path: Path, name: Format):
    path = write_patches(tmp_path, name, (193, 109))
    line = read_clip(path)[0, 54].astype(int)
    middles = [line[int((n + 0.5) * 193 / len(PATCHES))] for n in range(len(PATCHES))]
    assert np.abs(np.array(middles) - np.array(PATCHES)).max() <= MOST_OFF[name]


def test_rendered_footage_above_720_lines_has_its_colours(tmp_path: Path):
    write_video(tmp_path / "footage.mp4", make_patches((1280, 720)), 8.0)
    assert measure_most_off(read_by_ffmpeg(tmp_path / "footage.mp4", (1280, 720))) <= 3
