"""What the measures see, what `exact` writes and what training reads of one picture, in every way that a film may code
it; the values are those that the film was made from, and ffmpeg alone reads what was written."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from av.video.frame import VideoFrame

from models.measures.quality import find_bars, measure_range
from tasks.curate.clip_encoding import PictureSource, encode_span
from tasks.curate.scan import Sampling, scan_file
from tasks.finetune.windows import Seen, WindowShape, read_windows
from tasks.footage import Camera, Motion, Scene, render_shot
from tasks.media.canonical_picture import (
    COMBED,
    make_picture,
    make_video_frame,
    measure_combing,
    read_frame_kind,
    read_pixel_aspect,
    remove_combs,
)
from tasks.media.frame_store import load_frames, read_combing, read_frame_times, read_lumas
from tasks.media.video import find_ffmpeg, open_video, read_frames, run_ffmpeg
from tests.models.test_tone_curve import BT2087, code_hlg, code_pq

COLOURS = np.array([[200, 35, 40], [65, 150, 65], [45, 80, 190], [150, 150, 150]], np.uint8)
"""Red above left, green above right, blue below left, grey below right."""

FPS, FRAMES = 24, 24


class Film(NamedTuple):
    """How a film is made of the four colours: its stored size, its light, the filter and options of its encoding, what
    ffmpeg copies it with, and the canonical picture: its size, and its bars (top, bottom, left, right)."""

    stored: tuple[int, int]
    shown: tuple[int, int]
    filters: str = "scale=out_color_matrix=bt601,format=yuv420p"
    options: tuple[str, ...] = ()
    light: str = "sdr"
    turned: str = ""
    bars: tuple[int, int, int, int] = (0, 0, 0, 0)
    suffix: str = "mp4"
    second: bool = False


UNTAGGED = ",setparams=colorspace=unknown:color_primaries=unknown:color_trc=unknown"
HD = "scale=out_color_matrix=bt709,format=yuv420p"
SD = "scale=out_color_matrix=bt601,format=yuv420p"
WIDE = "scale=out_color_matrix=bt2020,format=yuv420p10le"
BT2020, PQ, HLG = (
    f",setparams=color_primaries=bt2020:colorspace=bt2020nc:color_trc={transfer}"
    for transfer in ("bt2020-10", "smpte2084", "arib-std-b67")
)
TAG709 = ",setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709"
FULL = "scale=out_color_matrix=bt601:out_range=pc,format=yuv420p"
LETTERS = ",pad=iw:ih+32:0:24"

FILMS = {
    "plain": Film((96, 64), (96, 64)),
    "aspect": Film((96, 64), (128, 64), "setsar=4/3,scale=out_color_matrix=bt601,format=yuv420p"),
    "aspect of the container alone": Film((96, 64), (128, 64), options=("-c:v", "ffv1", "-aspect", "2"), suffix="mkv"),
    "rotation": Film((96, 64), (64, 96), turned="90"),
    "pq": Film((96, 64), (96, 64), WIDE + PQ, light="pq"),
    "hlg": Film((96, 64), (96, 64), WIDE + HLG, light="hlg"),
    "wide gamut": Film((96, 64), (96, 64), WIDE + BT2020, light="bt2020"),
    "full range": Film((96, 64), (96, 64), FULL, ("-color_range", "pc")),
    "matrix of hd, untagged": Film((128, 720), (128, 720), HD + UNTAGGED),
    "matrix of sd, untagged": Film((96, 64), (96, 64), SD + UNTAGGED),
    "matrix of hd, tagged on sd": Film((96, 64), (96, 64), HD + TAG709),
    "matrix of sd, tagged on hd": Film(
        (128, 720), (128, 720), "scale=out_color_matrix=bt601,format=yuv420p,setparams=colorspace=smpte170m"
    ),
    "bars": Film((96, 64), (96, 96), f"scale=out_color_matrix=bt601{LETTERS},format=yuv420p", bars=(24, 8, 0, 0)),
    "odd size": Film((95, 63), (95, 63), "scale=out_color_matrix=bt601,format=yuv444p"),
    "stream": Film((96, 64), (96, 64), second=True),
    "aspect and rotation": Film(
        (96, 64), (64, 128), "setsar=4/3,scale=out_color_matrix=bt601,format=yuv420p", turned="90"
    ),
    "pq and rotation": Film((96, 64), (64, 96), WIDE + PQ, light="pq", turned="-90"),
    "hlg and aspect": Film((96, 64), (128, 64), f"setsar=4/3,{WIDE}{HLG}", light="hlg"),
    "pq and bars": Film(
        (96, 64),
        (96, 96),
        f"scale=out_color_matrix=bt2020{LETTERS},format=yuv420p10le{PQ}",
        light="pq",
        bars=(24, 8, 0, 0),
    ),
    "full range and hd": Film(
        (128, 720), (128, 720), "scale=out_color_matrix=bt709:out_range=pc,format=yuv420p", ("-color_range", "pc")
    ),
    "aspect and bars": Film(
        (96, 64), (192, 96), f"setsar=2,scale=out_color_matrix=bt601{LETTERS},format=yuv420p", bars=(24, 8, 0, 0)
    ),
    "odd size and rotation": Film((95, 63), (63, 95), "scale=out_color_matrix=bt601,format=yuv444p", turned="90"),
    "stream and pq": Film((96, 64), (96, 64), WIDE + PQ, light="pq", second=True),
    "ten bits and full range": Film((96, 64), (96, 64), FULL.replace("420p", "420p10le"), ("-color_range", "pc")),
    "odd size and pq": Film((95, 63), (95, 63), WIDE.replace("420", "444") + PQ, light="pq"),
}


def quarter(size: tuple[int, int]) -> np.ndarray:
    """The four colours on (width, height), as values 0 to 1."""
    width, height = size
    columns, rows = (np.arange(width) >= width / 2), (np.arange(height) >= height / 2)
    return COLOURS[2 * rows[:, None] + columns[None, :]] / 255


def code(picture: np.ndarray, light: str) -> np.ndarray:
    """The picture as values 0 to 1 of that light."""
    shown = 203 * picture**2.4 @ BT2087.T
    return {"sdr": picture, "pq": code_pq(shown), "hlg": code_hlg(shown), "bt2020": (shown / 203) ** (1 / 2.4)}[light]


def make(folder: Path, film: Film) -> Path:
    """A second of the film."""
    picture = np.rint(code(quarter(film.stored), film.light) * 65535).astype("<u2")
    width, height = film.stored
    path = folder / f"film.{film.suffix}"
    command = [find_ffmpeg(), "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb48le", "-r", str(FPS)]
    command += ["-s", f"{width}x{height}", "-i", "-", "-vf", film.filters, "-c:v", "libx264", "-crf", "6"]
    run_ffmpeg([*command, *film.options, str(path)], picture.tobytes() * FRAMES, "film")
    if film.turned:
        path = convert(path, "turned.mp4", "-c", "copy", before=("-display_rotation", film.turned))
    if film.second:
        small = convert(path, "small.mp4", "-vf", "scale=32:32,negate", "-pix_fmt", "yuv420p")
        streams = ("-map", "0", "-map", "1", "-c", "copy", "-disposition:0", "0", "-disposition:1", "default")
        path = convert(small, "two.mp4", "-i", str(path), *streams)
    return path


def convert(source: Path, name: str, *options: str, before: Sequence[str] = ()) -> Path:
    target = source.with_name(name)
    command = [find_ffmpeg(), "-loglevel", "error", "-y", *before, "-i", str(source), *options, str(target)]
    run_ffmpeg(command, None, name)
    return target


def read_alone(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The first frame of a file as ffmpeg alone shows it, of an even size, in RGB by BT.709."""
    width, height = (side + side % 2 for side in size)
    command = [find_ffmpeg(), "-loglevel", "error", "-i", str(path), "-frames:v", "1", "-vf"]
    command += [f"scale={width}:{height}:in_color_matrix=bt709:in_range=tv,format=rgb24", "-f", "rawvideo", "-"]
    return np.frombuffer(run_ffmpeg(command, None, "read"), np.uint8).reshape(height, width, 3)


def measure(path: Path) -> tuple[dict, np.ndarray, Path]:
    store = path.with_suffix(".parquet")
    row = scan_file(path, store, Sampling())
    return row, load_frames(store, [read_frame_times(store)[0][0]])[0], store


def check_colours(picture: np.ndarray, film: Film, bars: tuple[int, int, int, int], most: int) -> None:
    top, bottom, left, right = bars
    inside = picture[top : picture.shape[0] - bottom, left : picture.shape[1] - right]
    turns = {"": 0, "90": 1, "-90": 3}[film.turned]
    wanted = np.rot90(COLOURS.reshape(2, 2, 3), turns).reshape(4, 3).astype(int)
    h, w = inside.shape[:2]
    places = [(h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, w // 4), (3 * h // 4, 3 * w // 4)]
    found = np.array([inside[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(0) for y, x in places])
    assert np.abs(found - wanted).max() <= most, found.round().tolist()


@pytest.mark.parametrize("name", FILMS)
def test_everything_sees_the_canonical_picture(name: str, tmp_path: Path):
    film = FILMS[name]
    path = make(tmp_path, film)
    row, stored, store = measure(path)
    assert (row["width"], row["height"]) == film.shown
    bars = find_bars(measure_range(read_lumas(store, 0, 1 << 40)), film.shown)
    assert (bars.top, bars.bottom, bars.left, bars.right) == film.bars
    check_colours(
        stored,
        film,
        tuple(getattr(bars.shrunk(film.shown, stored[..., 0]), s) for s in ("top", "bottom", "left", "right")),
        5,
    )

    clip = tmp_path / "clip.mp4"
    first, end = row["pts"][0], row["end_pts"]
    encode_span(PictureSource(path, None, None, False), first, end, 6, clip, "clip")
    check_colours(read_alone(clip, film.shown), film, film.bars, 5)
    with open_video(clip) as (_, stream):
        frame = next(iter(read_frames(clip)))[1]
        even = tuple(side + side % 2 for side in film.shown)
        assert (frame.width, frame.height) == even
        assert [int(frame.colorspace), int(frame.color_trc), int(frame.color_primaries)] == [1, 1, 1]
        assert (int(frame.color_range), read_pixel_aspect(stream), frame.rotation) == (1, 1, 0)

    shape = WindowShape(2, 4.0, film.shown[0], film.shown[1] - film.bars[0] - film.bars[1])
    (window,) = read_windows(path, (0.25,), (0.0, 1.0), "clip", shape, seen=Seen(bars=film.bars))
    check_colours(window[0], film, (0, 0, 0, 0), 5)
    assert window[0].max(axis=2).min() > 60, "no line of the bars is left"


def test_a_circle_in_wide_pixels_is_round(tmp_path: Path):
    circle = "geq=lum='255*lt(hypot((X-88)*64/45,Y-72),50)':cb=128:cr=128,setsar=64/45"
    path = tmp_path / "circle.mov"
    command = [find_ffmpeg(), "-loglevel", "error", "-f", "lavfi", "-i", "color=black:s=176x144:d=0.2", "-vf", circle]
    run_ffmpeg([*command, "-c:v", "prores_ks", str(path)], None, "circle")
    row, stored, _ = measure(path)
    assert (row["width"], row["height"]) == (250, 144)
    bright = stored[..., 0] > 128
    assert np.ptp(np.flatnonzero(bright.any(0))) == pytest.approx(np.ptp(np.flatnonzero(bright.any(1))), abs=2)


def test_odd_sides_keep_every_line_and_add_no_black_one(tmp_path: Path):
    path = make(tmp_path, FILMS["odd size"])
    clip = tmp_path / "clip.mp4"
    encode_span(PictureSource(path, None, None, False), 0, 1 << 40, 6, clip, "clip")
    picture = read_alone(clip, (95, 63)).astype(int)
    assert picture.shape == (64, 96, 3)
    assert np.abs(picture[63] - picture[62]).max() <= 6
    assert np.abs(picture[:, 95] - picture[:, 94]).max() <= 6
    assert picture[63].mean() > 80


INTERLACED = {"upper": "tinterlace=mode=interleave_top", "lower": "tinterlace=mode=interleave_bottom"}


def film_twice(folder: Path, motion: Motion, speed: float, filters: str, rate: int = 48) -> tuple[np.ndarray, Path]:
    """The frames of a shot at 48 frames a second, and a film made of it by `filters`, which says it is progressive."""
    frames = render_shot(Scene(3), Camera.doing(motion, speed), 96, rate, (360, 288))
    path = folder / "film.mp4"
    command = [find_ffmpeg(), "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-r", str(rate)]
    command += [
        "-s",
        "360x288",
        "-i",
        "-",
        "-vf",
        filters,
        "-field_order",
        "progressive",
        "-c:v",
        "libx264",
        "-crf",
        "12",
    ]
    run_ffmpeg([*command, "-pix_fmt", "yuv420p", str(path)], frames, "film")
    return frames, path


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("fields", INTERLACED)
@pytest.mark.parametrize(
    ("motion", "speed"), [("pan_right", 0.3), ("tilt_up", 0.3), ("zoom_in", 0.3), ("pan_right", 1.5)]
)
def test_combs_are_measured_whatever_the_flags_say(tmp_path: Path, motion: Motion, speed: float, fields: str):
    _, path = film_twice(tmp_path, motion, speed, INTERLACED[fields])
    _, _, store = measure(path)
    assert np.quantile(read_combing(store, 0, 1 << 40), 0.9) >= COMBED


@pytest.mark.parametrize(
    ("motion", "speed"), [("pan_right", 0.3), ("tilt_up", 0.3), ("zoom_in", 0.3), ("pan_right", 1.5)]
)
def test_progressive_film_has_no_combs_even_with_noise(tmp_path: Path, motion: Motion, speed: float):
    _, path = film_twice(tmp_path, motion, speed, "noise=alls=12:allf=t")
    frames = [frame for _, frame in read_frames(path)]
    found = [measure_combing(a, b) or 0 for a, b in pairwise(frames)]
    assert np.quantile(found, 0.9) < COMBED


def test_film_carried_by_two_and_three_fields_is_seen_as_combed(tmp_path: Path):
    _, path = film_twice(tmp_path, "pan_right", 0.3, "select='not(mod(n,2))',setpts=N/24/TB,telecine", 48)
    _, _, store = measure(path)
    assert np.quantile(read_combing(store, 0, 1 << 40), 0.9) >= COMBED


@pytest.mark.parametrize(("motion", "speed"), [("pan_right", 0.3), ("zoom_in", 0.3), ("pan_right", 1.5)])
def test_combs_are_removed_as_well_as_yadif_does_it(tmp_path: Path, motion: Motion, speed: float):
    truth, path = film_twice(tmp_path, motion, speed, INTERLACED["upper"])
    reference = convert(path, "yadif.mkv", "-vf", "yadif=0:0:0", "-c:v", "ffv1")
    theirs = [make_picture(frame) for _, frame in read_frames(reference)]
    frames = [frame for _, frame in read_frames(path)]
    places = range(4, 40, 6)
    ours = np.mean([psnr(truth[2 * i], make_picture(frames[i], combed=True)) for i in places])
    assert ours > np.mean([psnr(truth[2 * i], make_picture(frames[i])) for i in places]) + 0.5
    assert ours > np.mean([psnr(truth[2 * i], theirs[i]) for i in places]) - 2


def test_an_exact_clip_and_training_have_no_combs(tmp_path: Path):
    _, path = film_twice(tmp_path, "pan_right", 0.3, INTERLACED["upper"])
    clip = tmp_path / "clip.mp4"
    encode_span(PictureSource(path, None, None, True), 0, 1 << 40, 6, clip, "clip")
    frames = [frame for _, frame in read_frames(clip)]
    assert len(frames) == 48
    assert np.quantile([measure_combing(a, b) or 0 for a, b in pairwise(frames)], 0.75) < COMBED
    (window,) = read_windows(path, (0.5 + 1 / 60,), (0.5, 0.7), "clip", WindowShape(4, 24.0, 360, 288))
    woven = [make_picture(frame) for _, frame in read_frames(path)][13]
    assert psnr(window[1], make_picture(frames[13])) > psnr(window[1], woven) + 3, "it looks for combs where nobody did"


def test_what_is_still_keeps_every_line_where_combs_are_removed():
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[10:50] = 200
    frame = VideoFrame.from_ndarray(stripes).reformat(format="yuv420p")
    assert np.array_equal(remove_combs(frame).to_ndarray(), frame.to_ndarray())


def test_a_frame_that_needs_nothing_is_not_computed_again(tmp_path: Path):
    path = make(tmp_path, FILMS["matrix of hd, tagged on sd"])
    _, frame = next(read_frames(path))
    assert make_video_frame(frame) is frame
    assert not read_frame_kind(frame).is_bright_or_wide


def test_the_aspect_of_the_container_wins(tmp_path: Path):
    path = make(tmp_path, FILMS["aspect"])
    other = convert(path, "other.mkv", "-c", "copy", "-aspect", "3")
    with open_video(other) as (_, stream):
        assert read_pixel_aspect(stream) == Fraction(2)
