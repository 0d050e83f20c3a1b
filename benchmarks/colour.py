"""What colours come back out of clips: `python -m benchmarks.colour` prints a table and writes benchmarks/colour.md.

Six patches are written in every format, below and above 720 lines, and read back in Chromium where it plays the format,
with a screen drawn as on a GPU (ANGLE on SwiftShader) and without one, and by ffmpeg.
"""

import base64
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
from playwright.sync_api import Browser, Error, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from models.pictures import Frames  # noqa: E402
from tasks.generate.clip_tags import list_pictures  # noqa: E402
from tasks.generate.encode_formats import Format, make_look, write_clip  # noqa: E402
from tasks.media.video import find_ffmpeg, run_ffmpeg  # noqa: E402

Colour = tuple[int, int, int]

PATCHES: tuple[Colour, ...] = (
    (200, 35, 40), (30, 200, 30), (30, 30, 200), (220, 220, 40), (128, 128, 128), (235, 180, 150),
)  # fmt: skip
"""Red, green, blue, yellow, grey and skin."""

SIZES = ((640, 360), (1280, 720))

MOST_OFF: dict[Format, int] = {"h264": 3, "hevc": 3, "av1": 6, "webp": 6, "png": 0}
"""Levels of 255; a GIF has 256 colours of its own."""

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = ("no-sandbox", "no-first-run", "disable-background-networking", "disable-component-update")

GPU_FLAGS = ("use-angle=swiftshader", "enable-unsafe-swiftshader", "ignore-gpu-blocklist")
"""A screen drawn as on a GPU. Without one, Chromium's conversion (libyuv) holds blue's share of BT.709 in seven bits,
which is too few for it, and strong blues come out up to 9 levels off in whatever film."""

ABOUT = (
    "Six patches in RGB, written as generation writes clips at each format's own quality, and read back (`python -m"
    " benchmarks.colour`). What the patch is off that is most off, in the channel that is, and the bar are in levels of"
    " 255. Films are of BT.709 and say so; a GIF has colours of its own, so no bar."
)

ABOUT_PLAIN = (
    "Chromium without a GPU converts films with fewer bits: it shows strong blues of BT.709 so far off in any film."
)

READ = """async ([content, kind, places]) => {
    const url = URL.createObjectURL(await (await fetch(`data:${kind};base64,${content}`)).blob());
    const film = kind.startsWith("video");
    const shown = film ? document.createElement("video") : new Image();
    const loaded = film && new Promise((done, failed) => {
        shown.onloadeddata = done;
        shown.onerror = () => failed(new Error(shown.error.message));
    });
    shown.preload = "auto";
    shown.src = url;
    await (film ? loaded : shown.decode());
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = film ? [shown.videoWidth, shown.videoHeight]
        : [shown.naturalWidth, shown.naturalHeight];
    const drawn = canvas.getContext("2d");
    drawn.drawImage(shown, 0, 0);
    const y = Math.floor(canvas.height / 2);
    return places.map((x) => [...drawn.getImageData(Math.floor(x * canvas.width), y, 1, 1).data].slice(0, 3));
}"""

PLACES = [(n + 0.5) / len(PATCHES) for n in range(len(PATCHES))]
"""Where the middles of the patches are, as shares of the width."""


def make_patches(size: tuple[int, int]) -> Frames:
    """Two frames of the patches side by side; a corner differs, so that a WebP keeps both."""
    width, height = size
    columns = np.array(PATCHES, np.uint8)[np.arange(width) * len(PATCHES) // width]
    frames = np.broadcast_to(columns, (2, height, width, 3)).copy()
    frames[1, :8, :8] = 255
    return frames


def write_patches(folder: Path, name: Format, size: tuple[int, int]) -> Path:
    """Write the patches as generation writes a clip."""
    look = make_look(name, None)
    path = folder / f"{name}-{size[1]}{look.suffix}"
    write_clip(path, make_patches(size), 8.0, look, "{}")
    return list_pictures(path)[0] if name == "png" else path


@contextmanager
def open_browser(*flags: str) -> Iterator[Browser]:
    """Start Chromium."""
    with sync_playwright() as playwright:
        arguments = [f"--{flag}" for flag in (*FLAGS, *flags)]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


def read_in_browser(browser: Browser, path: Path) -> list[Colour] | None:
    """Return the patches that a browser shows of a clip's first frame; None for a film that it does not play."""
    kind = "video/mp4" if path.suffix == ".mp4" else f"image/{path.suffix[1:]}"
    content = base64.b64encode(path.read_bytes()).decode()
    page = browser.new_page()
    try:
        return [(red, green, blue) for red, green, blue in page.evaluate(READ, [content, kind, PLACES])]
    except Error as error:
        if "NO_SUPPORTED_STREAMS" in str(error):
            return None
        raise
    finally:
        page.close()


def read_by_ffmpeg(path: Path, size: tuple[int, int]) -> list[Colour]:
    """Return the patches of a clip's first frame as ffmpeg makes RGB of them."""
    command = [find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-i", str(path), "-frames:v", "1"]
    width, height = size
    raw = run_ffmpeg([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], None, str(path))
    line = np.frombuffer(raw, np.uint8).reshape(height, width, 3)[height // 2]
    middles: list[Colour] = [tuple(line[int(x * width)].tolist()) for x in PLACES]
    return middles


def measure_most_off(read: Sequence[Colour]) -> int:
    """The largest difference of any patch in any channel, in levels of 255."""
    return int(np.abs(np.array(read) - np.array(PATCHES)).max())


def row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def list_rows(folder: Path, gpu: Browser) -> Iterator[str]:
    for name in get_args(Format):
        for size in SIZES:
            path = write_patches(folder, name, size)
            shown = read_in_browser(gpu, path)
            readers: dict[str, list[Colour] | None] = {"Chromium": shown}
            if name != "webp":  # ffmpeg reads no WebP that moves.
                readers["ffmpeg"] = read_by_ffmpeg(path, size)
            for reader, read in readers.items():
                asked = (name, f"{size[0]}x{size[1]}", reader)
                if read is None:
                    yield row((*asked, *["not played"] * len(PATCHES), "", MOST_OFF.get(name, "")))
                else:
                    colours = [" ".join(map(str, colour)) for colour in read]
                    yield row((*asked, *colours, measure_most_off(read), MOST_OFF.get(name, "")))


def list_plain_rows(folder: Path, plain: Browser) -> Iterator[str]:
    for name in ("h264", "av1"):
        for size in SIZES:
            read = read_in_browser(plain, write_patches(folder, name, size))
            assert read
            yield row((name, f"{size[0]}x{size[1]}", *[" ".join(map(str, c)) for c in read], measure_most_off(read)))


def main() -> None:
    """Measure, print and write."""
    patches = [" ".join(map(str, colour)) for colour in PATCHES]
    head = ["format", "size", "read by", *patches, "most off", "bar"]
    plain_head = ["format", "size", *patches, "most off"]
    with tempfile.TemporaryDirectory() as name:
        with open_browser(*GPU_FLAGS) as gpu:
            rows = list(list_rows(Path(name), gpu))
        with open_browser("disable-gpu") as plain:
            plain_rows = list(list_plain_rows(Path(name), plain))
    tables = [[row(top), row(["---"] * len(top)), *under] for top, under in ((head, rows), (plain_head, plain_rows))]
    text = "\n".join(["# Colours as read back", "", ABOUT, "", *tables[0], "", ABOUT_PLAIN, "", *tables[1], ""])
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
