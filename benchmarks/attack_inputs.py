"""Hostile inputs, drawn by a seed: mutations of valid ones, and others made from nothing."""

import io
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tasks.child_process import run_program
from tasks.footage import Camera, Scene, render_shot
from tasks.media.video import find_ffmpeg, open_video, write_video

Draw = random.Random

OUTSIDE = "../outside"
"""The folder beside the inputs', whose files they name and may not have read."""

CANARY = "reelmill-canary-4f1d2c"
"""What stands in a text outside, and may stand in nothing that comes of an input."""

NAMED = (
    *(f"{OUTSIDE}/secret.png", f"{OUTSIDE}/secret.mp4", f"{OUTSIDE}/secret.txt", "link.png", "linked/secret.png"),
    *("/proc/self/environ", "../../../../../../etc/passwd", "file:///etc/passwd", "a.png/../../outside/secret.png"),
)
"""Files outside, by name, and by the links `link.png` and `linked` inside."""


def flip(content: bytearray, draw: Draw) -> bytearray:
    for _ in range(2 ** draw.randrange(5)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return content


def splice(content: bytearray, draw: Draw) -> bytearray:
    start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    piece, rest = content[start:end], content[:start] + content[end:]
    place = draw.randrange(len(rest) + 1)
    return rest[:place] + piece * draw.randrange(4) + rest[place:]


def cut(content: bytearray, draw: Draw) -> bytearray:
    return content[: draw.randrange(len(content))]


ABSURD = (b"1e999", b"-1", b"0", b"NaN", b"Infinity", b"9" * 400, b"1" * 5000, b"2147483648", b"9223372036854775808",
          b"null", b"true", b'"x"', b"[]", b"{}", b"[" * 3000, b'{"a":' * 300, b"\xff\xfe", b"\0", b"\x1b[2J",
          b"1e308", b"-1e-308", b"1,5", b"1,000", b'"\\ud800"', b"&a [*a]", b"!!timestamp x", b"a." * 500,
          *(name.encode() for name in NAMED))  # fmt: skip


def absurd(content: bytearray, draw: Draw) -> bytearray:
    """A number or a word is another, of those that no one means."""
    words = list(re.finditer(rb"-?\d+(\.\d+)?|\"[^\"\n]{0,40}\"|[A-Za-z_]+", bytes(content)))
    for found in draw.sample(words, min(len(words), draw.choice([1, 1, 2]))):
        start, end = found.span()
        return content[:start] + draw.choice(ABSURD) + content[end:]
    return content + draw.choice(ABSURD)


VALUES: tuple[Any, ...] = (
    1e308, -1, 0, 2**63, 10**299, 0.5, "", "x" * 3000, "\x1b[2J\n", None, True, [], {}, ["1", 0], ["9", 10**200],
    "\ud800", {"a": {"b": [[1]]}}, "1,5", *NAMED,
)  # fmt: skip


def reshape(content: bytearray, draw: Draw) -> bytearray:
    """A value of JSON is another, is gone, or is there twice; what is no JSON gets an absurd word."""
    try:
        whole = json.loads(content)
    except ValueError:
        return absurd(content, draw)
    for _ in range(draw.choice([1, 1, 3])):
        place: Any = None
        key: Any = None
        inner: Any = whole
        while isinstance(inner, dict | list) and inner and (place is None or draw.random() < 0.9):
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            place, key = inner, draw.choice(keys)
            inner = inner[key]
        if place is None:
            break
        if draw.random() < 0.2:
            del place[key]
        else:
            place[key] = json.loads(json.dumps(draw.choice((*VALUES, whole))))
    return bytearray(json.dumps(whole).encode())


MUTATIONS: tuple[Callable[[bytearray, Draw], bytearray], ...] = (flip, splice, cut, absurd, reshape, reshape, reshape)


def nonsense(alphabet: bytes, draw: Draw) -> bytes:
    """Text of the letters and signs that a format is made of."""
    return bytes(draw.choice(alphabet) for _ in range(draw.choice([0, 3, 40, 400]))) * draw.choice([1, 1, 1, 50])


def make_anything(alphabet: bytes, bombs: Sequence[bytes], draw: Draw) -> bytes:
    """Nonsense, or one in ten times something small that stands for something huge."""
    return draw.choice(bombs) if bombs and draw.random() < 0.1 else nonsense(alphabet, draw)


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def encode(save: Callable[[io.BytesIO], Any]) -> bytes:
    sink = io.BytesIO()
    save(sink)
    return sink.getvalue()


PICTURES = {"a.png": "PNG", "a.jpg": "JPEG", "a.webp": "WEBP", "a.bmp": "BMP", "a.tiff": "TIFF", "a.gif": "GIF"}
PICTURES |= {"a.avif": "AVIF", "a.ppm": "PPM", "a.tga": "TGA"}


def make_pictures() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    return {name: encode(partial(Image.fromarray(pixels).save, format=kind)) for name, kind in PICTURES.items()}


HEADS, CELLS = ["image", "seed", "noise_aug", "notes"], [["a.png", "1", "0,02", "hello"], ["a.png", "007", "0.5", "NA"]]


def make_book(lines: Sequence[Sequence[Any]]) -> bytes:
    book = openpyxl.Workbook()
    for line in lines:
        assert book.active is not None
        book.active.append(list(line))
    return encode(book.save)


def make_tables() -> dict[str, bytes]:
    lines = [HEADS, *CELLS]
    csv = "\n".join(";".join(line) for line in lines).encode()
    rows = [dict(zip(HEADS, line, strict=True)) for line in CELLS]
    return {
        "a.csv": csv,
        "b.csv": b"sep=,\n" + csv.replace(b",", b".").replace(b";", b","),
        "c.csv": csv.decode().encode("utf-16"),
        "d.csv": csv.replace(b";", b"\t").replace(b"\n", b"\r\n"),
        "e.csv": csv.replace(b"hello", b'"two\nlines; and ""quotes"""'),
        "a.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "a.parquet": encode(partial(pq.write_table, pa.Table.from_pylist(rows))),
        "a.xlsx": make_book(lines),
    }


def remake_table(name: str, draw: Draw) -> bytes | None:
    """A binary table whose cells and columns are changed, and written anew."""
    heads, cells = list(HEADS), [list[str | None](line) for line in CELLS]
    for _ in range(draw.choice([1, 2, 4])):
        draw.choice(cells)[draw.randrange(len(heads))] = draw.choice([v for v in VALUES if isinstance(v, str | None)])
    if draw.random() < 0.2:
        heads[draw.randrange(len(heads))] = draw.choice(["", "image", "Seed ", "x" * 300, "\x1b[2J", "steps", "motion"])
    if name.endswith("xlsx"):
        return make_book([[_clean(cell) for cell in line] for line in (heads, *cells)])
    if name.endswith("parquet"):
        columns = [pa.array([_clean(line[place]) for line in cells], pa.string()) for place in range(len(heads))]
        return encode(partial(pq.write_table, pa.Table.from_arrays(columns, names=heads)))
    return None


def _clean(value: Any) -> Any:
    """What the formats' own writers take."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\ud800-\udfff]", "?", value) if isinstance(value, str) else value


FACTS = {b"reelmill.lineage": b'{"step": "scan", "version": 1}', b"reelmill.digest": b"d" * 64,
         b"reelmill.lengths": b'{"a.jpg": 12}'}  # fmt: skip


def make_manifest(facts: Mapping[bytes, bytes]) -> bytes:
    rows = [{"id": f"{n}", "pts": [n, n + 1], "score": n / 3, "at": n * 10**9} for n in range(40)]
    columns = [("id", pa.string()), ("pts", pa.list_(pa.int64())), ("score", pa.float32()), ("at", pa.timestamp("ns"))]
    table = pa.Table.from_pylist(rows).cast(pa.schema(columns))
    return encode(partial(pq.write_table, table.replace_schema_metadata(dict(facts))))


def remake_manifest(_: str, draw: Draw) -> bytes | None:
    """A manifest whose facts are changed, or whose pages are and whose footer is whole."""
    if draw.random() < 0.5:
        key = draw.choice(list(FACTS))
        return make_manifest({**FACTS, key: bytes(draw.choice((reshape, absurd, cut))(bytearray(FACTS[key]), draw))})
    whole = make_manifest(FACTS)
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    return bytes(flip(bytearray(whole[:pages]), draw)) + whole[pages:]


WORKFLOW = {
    "1": {"class_type": "ImageOnlyCheckpointLoader", "inputs": {"ckpt_name": "svd.safetensors"}},
    "3": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "4": {"class_type": "SVD_img2vid_Conditioning", "inputs": {
        "clip_vision": ["1", 1], "init_image": ["3", 0], "vae": ["1", 2], "fps": 6, "width": 64, "height": 48,
        "video_frames": 8, "motion_bucket_id": 127, "augmentation_level": 0.0}},
    "5": {"class_type": "VideoLinearCFGGuidance", "inputs": {"model": ["1", 0], "min_cfg": 1.0}},
    "6": {"class_type": "KSampler", "inputs": {
        "model": ["5", 0], "positive": ["4", 0], "negative": ["4", 1], "latent_image": ["4", 2], "seed": 7, "steps": 4,
        "cfg": 2.5, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}},
    "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0]}},
    "8": {"class_type": "SaveAnimatedWEBP", "inputs": {"images": ["7", 0], "fps": 7.0, "filename_prefix": "a"}},
}  # fmt: skip

SIDECAR: dict[str, Any] = {
    "item_key": "k", "latents_sha256": "d", "model": "tiny", "model_revision": "r", "family": "svd", "batch": ["k"],
    "format": "h264", "encoder": "libx264", "dtype": "float32", "key": "k", "prompt": None, "negative_prompt": None,
    "picture_sha256": "p", "seed": 1, "take": 0, "word": None, "steps": 4, "fps": 7.0, "motion_bucket": 127,
    "guidance_min": 1.0, "guidance_max": 3.0, "noise_aug": 0.02, "frames": 8, "longer": None, "width": 64, "height": 48,
    "lora_sha256": None, "lora_strength": None, "crf": None, "trim": False, "fit": "crop", "background": "white",
}  # fmt: skip

CALIBRATION = {"model_revision": "r", "responses": {"any": {"buckets": [1, 9, 200], "speeds": [0.1, 0.2, 0.5]}}}

CONFIG = b"fps: 7\nsteps: 4\nguidance: [1.0, 3.0]\nseed: 3\ngate: &g {extra_takes: 1}\nformat: h264\ntakes: 2\n"

TOML = b'fps = 7\nsteps = 4\nguidance = [1.0, 3.0]\nseed = 3\nformat = "h264"\n[gate]\nextra_takes = 1\n'

BOMBS_OF_TEXT = (
    b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(b"%c: &%c [%b]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9))
                                              for n in range(98, 107)),
    b"[" * 100_000, b'{"a":' * 50_000, b"1" * 1_000_000, b'"' + b"x" * 9_000_000 + b'"', b"a = " + b"[" * 20_000,
    b"image\n" + b"," * 1_000_000, b"x\n" * 1_500_000, b"a.b." * 50_000 + b"c = 1",
    b"--- !!python/object/apply:os.system [id]",
)  # fmt: skip
"""Small texts that stand for large things: aliases of aliases, depth, long numbers and strings, many cells."""


def make_picture_bombs() -> list[bytes]:
    """Headers of pictures that claim 60,000 pixels a side."""
    tiny = Image.new("L", (1, 1))
    png = bytearray(encode(partial(tiny.save, format="PNG")))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    bmp = bytearray(encode(partial(tiny.save, format="BMP")))
    bmp[18:26] = (60_000).to_bytes(4, "little") * 2
    return [bytes(png), bytes(bmp), b"P6 60000 60000 255\n"]


def make_parquet_bombs() -> list[bytes]:
    """Forty million rows in a few bytes."""
    rows = pa.table({"id": pa.DictionaryArray.from_arrays(pa.nulls(40_000_000, pa.int8()), pa.array(["x"]))})
    return [encode(partial(pq.write_table, rows.replace_schema_metadata(dict(FACTS)), compression="zstd"))]


def make_playlists(outside: Path) -> dict[str, bytes]:
    """Playlists and the like, under films' names, that name a film and a text outside."""
    film, text = str(outside / "secret.mp4").encode(), str(outside / "secret.txt").encode()
    return {
        "a.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://" + film + b"\n#EXT-X-ENDLIST\n",
        "a.mkv": b"ffconcat version 1.0\nfile '" + film + b"'\nduration 1\n",
        "b.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n# \xff\n#EXTINF:9,\n" + film + b"\n#EXT-X-ENDLIST\n",
        "a.ts": b"\xef\xbb\xbf#EXTM3U\n#EXTINF:1,\nconcat:" + text + b"|" + film + b"\n",
        "a.avi": b"GIF89a#EXTM3U\n#EXTINF:1,\n" + film + b"\n",
        "a.webm": b"<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><Period><BaseURL>file://" + film + b"</BaseURL></Period>"
        b"</MPD>",
    }


def make_films(scratch: Path, outside: Path) -> dict[str, bytes]:
    """Small films of several kinds, alone and as polyglots: with a playlist before, behind or inside."""
    write_video(scratch / "f.mp4", render_shot(Scene(1, 1), Camera(pan=0.4), 6, 6.0, (48, 36)), 6.0)
    playlist = make_playlists(outside)["a.mp4"]
    made = {}
    for suffix in ("mp4", "mkv", "ts", "avi", "mov", "flv"):
        path = scratch / f"g.{suffix}"
        run_program([find_ffmpeg(), "-y", "-i", str(scratch / "f.mp4"), "-c", "copy", str(path)])
        film = path.read_bytes()
        made[f"film.{suffix}"] = film
        made[f"behind.{suffix}"] = film + playlist
        made[f"before-{suffix}.m3u8"] = playlist + film  # libav takes hls by this name alone.
        if suffix in ("ts", "mp4"):
            made[f"before.{suffix}"] = playlist + film
        named = str(outside / "secret.mp4")
        title = [find_ffmpeg(), "-y", "-i", str(path), "-c", "copy", "-metadata", f"title=#EXTM3U\n{named}"]
        run_program([*title, str(scratch / f"h.{suffix}")])
        made[f"inside.{suffix}"] = (scratch / f"h.{suffix}").read_bytes()
    return made


def open_film(path: Path) -> str:
    """Open a film as its first parser does. Children find this function here, and not in the program."""
    with open_video(path) as (container, _):
        return container.format.name
