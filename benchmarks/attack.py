"""Hostile inputs through this project's own readers: each must be read, or refused by an error of the project's own.

    .venv/bin/python benchmarks/attack.py [--each 2500] [--seed 1] [--only KIND]

Of each kind, three in four are mutations of a valid input, drawn by the seed: flipped bytes, pieces cut, doubled or
moved, numbers made absurd, deep nests put in; the others are made from nothing. An input has failed where another
exception than a ReelmillError comes, or it takes more than 5 s of processor time or 1 GB. Writes benchmarks/attack.md.
"""

import argparse
import io
import json
import logging
import random
import re
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from flows.command.flags import Interface, validate_layers
from flows.generate import GenerateConfig
from flows.provenance import read_provenance
from flows.running.config import read_settings
from models.errors import ReelmillError
from models.generation.calibration import load_calibration
from models.pictures import PICTURE_SUFFIXES, prepare_picture
from tasks.child_process import run_in_child
from tasks.curate.ingest import IngestConfig
from tasks.curate.source_list import expand_sources
from tasks.generate.comfyui_jobs import read_workflow
from tasks.generate.job_resolver import Asking
from tasks.generate.job_settings import COLUMNS, JobsConfig
from tasks.item_lists import read_listing
from tasks.manifest import read_lengths, read_lineage, read_manifest_ref, read_rows
from tasks.probe import probe

LIMIT_S, LIMIT_BYTES = 5.0, 1_000_000_000

SUFFIXES = IngestConfig().suffixes

Draw = random.Random


@dataclass(frozen=True)
class Kind:
    """What is attacked: valid inputs by file name, how inputs are made from nothing, and what reads them."""

    valid: Mapping[str, bytes]
    made: Callable[[Draw], bytes]
    read: Callable[[Path], Any]


@dataclass
class Tally:
    """What became of the inputs of a kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    parsed: int = 0
    mutated: int = 0
    slowest_s: float = 0.0
    foreign: dict[str, str] = field(default_factory=dict)


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
          b"1e308", b"-1e-308", b"1,5", b"1,000", b'"\\ud800"', b"&a [*a]", b"!!timestamp x", b"a." * 500)  # fmt: skip


def absurd(content: bytearray, draw: Draw) -> bytearray:
    """A number or a word is another, of those that no one means."""
    words = list(re.finditer(rb"-?\d+(\.\d+)?|\"[^\"\n]{0,40}\"|[A-Za-z_]+", bytes(content)))
    for found in draw.sample(words, min(len(words), draw.choice([1, 1, 2]))):
        start, end = found.span()
        return content[:start] + draw.choice(ABSURD) + content[end:]
    return content + draw.choice(ABSURD)


VALUES: tuple[Any, ...] = (
    1e308, -1, 0, 2**63, 10**299, 0.5, "", "x" * 3000, "\x1b[2J\n", None, True, [], {}, ["1", 0], ["9", 10**200],
    "\ud800", "../../etc/passwd", {"a": {"b": [[1]]}}, "1,5",
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


def resolve_jobs(path: Path) -> list[dict[str, Any]]:
    """Read a table of jobs and resolve every row."""
    listing = read_listing(path, PICTURE_SUFFIXES, "image", COLUMNS, instead="prompt")
    asking = Asking(listing, path.parent, JobsConfig())
    return [asking.job(number, row) for number, row in enumerate(listing.rows)]


def read_config(path: Path) -> Any:
    """Read settings and check them as a command does, whose parser of flags would take a hundred times as long."""
    interface = Interface(prog="reelmill generate", config=GenerateConfig, positional="jobs")
    return validate_layers(interface, [read_settings(path), {"jobs": "a.csv", "out": "out"}], path)


def read_note(path: Path) -> Any:
    return load_calibration(path, "r")


def read_tampered(path: Path) -> Any:
    return read_lineage(path), read_lengths(path), read_manifest_ref(path), read_rows(path)


def read_picture(path: Path) -> Any:
    return prepare_picture(path, 64, 48, "crop", "white")


def probe_film(path: Path) -> Any:
    return run_in_child(probe, path, limit_s=30)


def _encode(save: Callable[[io.BytesIO], Any]) -> bytes:
    sink = io.BytesIO()
    save(sink)
    return sink.getvalue()


def make_pictures() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    kinds = {"a.png": "PNG", "a.jpg": "JPEG", "a.webp": "WEBP", "a.bmp": "BMP", "a.tiff": "TIFF"}
    known = {name: kind for name, kind in kinds.items() if Path(name).suffix in PICTURE_SUFFIXES}
    return {name: _encode(partial(Image.fromarray(pixels).save, format=kind)) for name, kind in known.items()}


def make_tables() -> dict[str, bytes]:
    lines = [["image", "seed", "noise_aug", "notes"], ["a.png", "1", "0,02", "hello"], ["a.png", "007", "0.5", "NA"]]
    csv = "\n".join(";".join(line) for line in lines).encode()
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    book = openpyxl.Workbook()
    for line in lines:
        assert book.active is not None
        book.active.append(line)
    parquet = pa.Table.from_pylist(rows)
    return {
        "a.csv": csv,
        "b.csv": b"sep=,\n" + csv.replace(b",", b".").replace(b";", b","),
        "a.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "a.parquet": _encode(partial(pq.write_table, parquet)),
        "a.xlsx": _encode(book.save),
    }


def make_manifest() -> bytes:
    facts = {b"reelmill.lineage": b'{"step": "scan", "version": 1}', b"reelmill.digest": b"d" * 64,
             b"reelmill.lengths": b'{"a.jpg": 12}'}  # fmt: skip
    rows = [{"id": f"{n}", "pts": [n, n + 1], "score": n / 3, "at": n * 10**9} for n in range(40)]
    table = pa.Table.from_pylist(rows).cast(
        pa.schema(
            [("id", pa.string()), ("pts", pa.list_(pa.int64())), ("score", pa.float32()), ("at", pa.timestamp("ns"))]
        )
    )
    return _encode(partial(pq.write_table, table.replace_schema_metadata(facts)))


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

PLAYLISTS = {
    "a.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "a.mkv": b"ffconcat version 1.0\nfile '/etc/passwd'\nduration 1\n",
    "a.ts": b"\xef\xbb\xbf#EXTM3U\n#EXTINF:1,\nconcat:/etc/passwd|/etc/group\n",
    "a.avi": b"GIF89a#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
    "a.webm": b"<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><Period><BaseURL>file:///etc/passwd</BaseURL></Period></MPD>",
}


def make_kinds(folder: Path) -> dict[str, Kind]:
    """Return what is attacked; what valid inputs name is written into `folder`."""
    for name, content in make_pictures().items():
        (folder / name).write_bytes(content)
    (folder / "one.mp4").write_bytes(b"x")
    signs = partial(nonsense, b'abz019,;\t"\n\r{}[]:=.-&*!<>#|\\/\xff\x00 ')
    picture = (folder / "a.png").read_bytes()
    parquet = make_manifest()
    return {
        "tables": Kind(make_tables(), signs, resolve_jobs),
        "workflows": Kind({"w.json": json.dumps(WORKFLOW).encode()}, signs, read_workflow),
        "configs": Kind({"c.yaml": CONFIG, "c.toml": TOML}, signs, read_config),
        "sidecars": Kind({"clip.json": json.dumps(SIDECAR).encode()}, signs, partial(read_sidecar, picture)),
        "calibrations": Kind({"n.json": json.dumps(CALIBRATION).encode()}, signs, read_note),
        "pictures": Kind(make_pictures(), partial(nonsense, bytes(range(256))), read_picture),
        "tampered Parquet": Kind({"m.parquet": parquet}, partial(nonsense, b"PAR1\x15\x00\x04"), read_tampered),
        "lists": Kind({"l.txt": b"one.mp4\n# note\n*.mp4\n", "l.csv": b"path,url\none.mp4,https://a.b/c\n"}, signs,
                      lambda path: expand_sources([str(path)], SUFFIXES)),
        "playlists and polyglots": Kind(PLAYLISTS, signs, probe_film),
    }  # fmt: skip


def read_sidecar(picture: bytes, path: Path) -> Any:
    clip = path.with_suffix(".webp")
    clip.write_bytes(picture)
    return read_provenance(clip)


def attack(kind: Kind, folder: Path, number: int, seed: int, tally: Tally) -> None:
    """Make one input, read it, and count what became of it."""
    draw = Draw(f"{seed}-{number}")
    name = draw.choice(sorted(kind.valid))
    mutated = number % 4 != 0
    content = bytes(draw.choice(MUTATIONS)(bytearray(kind.valid[name]), draw)) if mutated else kind.made(draw)
    path = folder / name
    path.write_bytes(content)
    started, before = _cpu_s(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        kind.read(path)
        outcome = "accepted"
    except ReelmillError as error:
        outcome = "own error"
        if "\n" in str(error).strip():
            tally.foreign.setdefault(f"{type(error).__name__} of several lines", f"seed {seed}-{number}")
    except Exception as error:  # noqa: BLE001
        outcome = "foreign exception"
        where = traceback.extract_tb(error.__traceback__)[-1]
        tally.foreign.setdefault(
            f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}", f"{seed}-{number}"
        )
    spent = _cpu_s() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    tally.outcomes[outcome] += 1
    tally.outcomes["over 5 s"] += spent > LIMIT_S
    tally.outcomes["over 1 GB"] += grown > LIMIT_BYTES
    tally.mutated += mutated
    tally.parsed += mutated and outcome == "accepted"
    tally.slowest_s = max(tally.slowest_s, spent)


def _cpu_s() -> float:
    """Return the processor time of this process and of the children that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def table(tallies: Mapping[str, Tally], seed: int) -> str:
    """The result as Markdown."""
    shown = ("own error", "accepted", "foreign exception", "over 5 s", "over 1 GB")
    total = sum(sum(tally.outcomes[name] for name in shown[:3]) for tally in tallies.values())
    lines = [f"| kind | inputs | mutated, of which accepted | {' | '.join(shown)} | slowest, s |", "|---" * 9 + "|"]
    for name, tally in tallies.items():
        inputs = sum(tally.outcomes[outcome] for outcome in shown[:3])
        counts = " | ".join(str(tally.outcomes[outcome]) for outcome in shown)
        share = f"{tally.mutated}, {tally.parsed / max(tally.mutated, 1):.0%}"
        lines.append(f"| {name} | {inputs} | {share} | {counts} | {tally.slowest_s:.1f} |")
    found = [f"- {name}: {what} (input {first})" for name, t in tallies.items() for what, first in t.foreign.items()]
    return (
        f"# Hostile inputs\n\n`benchmarks/attack.py --seed {seed}`: {total} inputs, each read in this process, or in a "
        "child where the reader uses one. Seconds are of the processor.\n\n" + "\n".join([*lines, "", *found]) + "\n"
    )


def main() -> None:
    """Run, print and write benchmarks/attack.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only")
    asked = parser.parse_args()
    logging.getLogger("reelmill").setLevel(logging.CRITICAL)
    tallies: dict[str, Tally] = {}
    with TemporaryDirectory() as home:
        folder = Path(home)
        for name, kind in make_kinds(folder).items():
            if asked.only in (None, name):
                tallies[name] = Tally()
                for number in range(asked.each):
                    attack(kind, folder, number, asked.seed, tallies[name])
                print(f"{name}: seed {asked.seed}, {dict(tallies[name].outcomes)} {tallies[name].foreign}", flush=True)
    text = table(tallies, asked.seed)
    print(text)
    if asked.only is None:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
