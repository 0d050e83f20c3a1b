"""Hostile inputs through this project's own readers: each must be read, or refused by an error of the project's own.

    .venv/bin/python -m benchmarks.attack [--each 2230] [--seed 1] [--only KIND]

Of each kind, three in four are mutations of a valid input, drawn by the seed: flipped bytes, pieces cut, doubled or
moved, numbers made absurd, deep nests put in, cells and facts changed and written anew; the others are made from
nothing, one in ten of them small and standing for something huge. Counted is how many of the mutations pass the first
parser (JSON, YAML, the table, the picture's or the film's opening, the Parquet footer).

An input has failed where another exception than a ReelmillError comes, it takes more than 5 s of processor time or
1 GB, or anything outside of its folder is touched. Writes benchmarks/attack.md.
"""

import argparse
import contextlib
import logging
import multiprocessing.forkserver
import multiprocessing.util
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import openpyxl
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import attack_inputs as inputs
from benchmarks.audit import Audit
from benchmarks.opened_files import Watch
from flows import provenance
from flows.command.flags import Interface, validate_layers
from flows.generate import GenerateConfig
from flows.running.config import read_settings
from models.errors import DecodeCrash, ReelmillError
from models.generation.calibration import load_calibration
from models.given_files import read_json
from models.pictures import PICTURE_SUFFIXES, open_picture, prepare_picture
from tasks.child_process import Child, run_in_child
from tasks.curate.source_list import NAME_COLUMNS, expand_sources
from tasks.generate.comfyui_jobs import read_workflow
from tasks.generate.job_resolver import Asking
from tasks.generate.job_settings import COLUMNS, JobsConfig
from tasks.item_lists import read_listing, read_names
from tasks.limits import Limits, set_limits
from tasks.manifest import read_lengths, read_lineage, read_manifest_ref, read_rows
from tasks.media.probe import probe
from tasks.table_files import read_table

LIMIT_S, LIMIT_BYTES = 5.0, 1_000_000_000

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Kind:
    """What is attacked: valid inputs by file name, how inputs are made from nothing, the first parser, what reads them,
    and how a valid one is changed and written anew where bytes alone would break it."""

    valid: Mapping[str, bytes]
    made: Callable[[random.Random], bytes]
    parse: Callable[[Path], Any]
    read: Callable[[Path], Any]
    remake: Callable[[str, random.Random], bytes | None] = lambda _name, _draw: None


@dataclass
class Tally:
    """What became of the inputs of a kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    parsed: int = 0
    mutated: int = 0
    slowest_s: float = 0.0
    largest: int = 0
    faults: dict[str, str] = field(default_factory=dict)


def resolve_jobs(path: Path) -> list[dict[str, Any]]:
    """Read a table of jobs and resolve every row."""
    listing = read_listing(path, PICTURE_SUFFIXES, "image", COLUMNS, instead="prompt")
    asking = Asking(listing, path.parent, JobsConfig())
    return [asking.job(number, row) for number, row in enumerate(listing.rows)]


def read_config(path: Path) -> Any:
    """Read settings and check them as a command does, whose parser of flags would take a hundred times as long."""
    interface = Interface(prog="reelmill generate", config=GenerateConfig, positional="jobs")
    return validate_layers(interface, [read_settings(path), {"jobs": "a.csv", "out": "out"}], path)


def read_tampered(path: Path) -> Any:
    return read_lineage(path), read_lengths(path), read_manifest_ref(path), read_rows(path)


def parse_table(path: Path) -> Any:
    """Read a table by its library alone, or a text by this project's reader, which needs no child for it."""
    if path.suffix == ".parquet":
        return pq.read_metadata(path)
    return openpyxl.load_workbook(path) if path.suffix == ".xlsx" else read_table(path)


def parse_picture(path: Path) -> Any:
    with open_picture(path) as picture:
        return picture.size


def read_picture(path: Path) -> Any:
    return prepare_picture(path, 64, 48, "crop", "white")


def read_sidecar(picture: bytes, path: Path) -> Any:
    clip = path.with_suffix(".webp")
    clip.write_bytes(picture)
    return provenance.read_provenance(clip)


class OneChild(Child):
    """A child that serves every file of a kind, as it would serve the files of one call; a new process for each would
    be most of the time."""

    made: ClassVar[list["OneChild"]] = []

    def __init__(self, made_by: Literal["forkserver", "spawn"] = "spawn") -> None:
        super().__init__(made_by)
        self.made.append(self)

    def __exit__(self, *_: object) -> None:
        pass

    def read_ticks(self) -> int:
        """Return the processor time that its process has taken so far."""
        return sum(read_stat(self._process.pid)[:2]) if self._process and self._process.pid else 0


def make_kinds(folder: Path, outside: Path) -> dict[str, Kind]:
    """Return what is attacked; what valid inputs name is written into `folder`, and what they may not have into
    `outside`."""
    pictures = inputs.make_pictures()
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    (folder / "lists").mkdir()  # Without the links below: what a list names is searched, and links in it are followed.
    (folder / "lists/one.mp4").write_bytes(b"x")
    (outside / "secret.txt").write_text(inputs.CANARY * 50)
    (outside / "secret.png").write_bytes(pictures["a.png"])
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "linked").symlink_to(outside)
    with TemporaryDirectory() as scratch:
        films = inputs.make_films(Path(scratch), outside)
        (outside / "secret.mp4").write_bytes(films["film.mp4"])
    signs = b'abz019,;\t"\n\r{}[]:=.-&*!<>#|\\/\xff\x00 '
    anything = partial(inputs.make_anything, signs, inputs.BOMBS_OF_TEXT)
    one, films_child = OneChild(), OneChild("forkserver")
    provenance.Child = lambda: one  # pyright: ignore[reportAttributeAccessIssue]
    as_json = {"workflows": inputs.WORKFLOW, "sidecars": inputs.SIDECAR, "calibrations": inputs.CALIBRATION}
    texts = {name: {f"{name}.json": inputs.dump(value)} for name, value in as_json.items()}
    sidecar, calibration = partial(read_sidecar, pictures["a.webp"]), lambda path: load_calibration(path, "r")
    lists = {"lists/l.txt": b"one.mp4\n# note\n*.mp4\n", "lists/l.csv": b"path,url\none.mp4,https://a.b/c\n"}
    listed, named = lambda path: expand_sources([str(path)], None), lambda path: read_names(path, NAME_COLUMNS)
    no_picture = partial(inputs.make_anything, bytes(range(256)), inputs.make_picture_bombs())
    no_parquet = partial(inputs.make_anything, b"PAR1\x15\x00\x04", inputs.make_parquet_bombs())
    films = inputs.make_playlists(outside) | films
    return {
        "workflows": Kind(texts["workflows"], anything, read_json, read_workflow),
        "configs": Kind({"c.yaml": inputs.CONFIG, "c.toml": inputs.TOML}, anything, read_settings, read_config),
        "sidecars": Kind(texts["sidecars"], anything, read_json, sidecar),
        "calibrations": Kind(texts["calibrations"], anything, read_json, calibration),
        "pictures": Kind(pictures, no_picture, parse_picture, read_picture),
        "tampered Parquet": Kind(
            {"m.parquet": inputs.make_manifest(inputs.FACTS)},
            no_parquet,
            pq.read_metadata,
            read_tampered,
            inputs.remake_manifest,
        ),
        "lists": Kind(lists, anything, named, listed),
        "playlists and polyglots": Kind(
            films,
            anything,
            lambda path: films_child.run(inputs.open_film, path, limit_s=30),
            lambda path: films_child.run(probe, path, limit_s=30),
        ),
        "tables": Kind(inputs.make_tables(), anything, parse_table, resolve_jobs, inputs.remake_table),
    }


def make_input(kind: Kind, draw: random.Random, mutated: bool) -> tuple[str, bytes]:
    """Return the name and the bytes of one input."""
    name = draw.choice(sorted(kind.valid))
    if not mutated:
        return name, kind.made(draw)
    remade = kind.remake(name, draw) if draw.random() < 0.5 else None
    return name, remade or bytes(draw.choice(inputs.MUTATIONS)(bytearray(kind.valid[name]), draw))


def attack(
    kind: Kind, folder: Path, made: tuple[str, bytes], where: str, mutated: bool, tally: Tally, audit: Audit
) -> None:
    """Read one input, and count what became of it."""
    path = folder / made[0]
    path.write_bytes(made[1])
    reset_peak()
    started, before, said = read_cpu_s(), read_memory("VmRSS"), ""
    with audit:
        try:
            said = repr(kind.read(path))
            outcome = "accepted"
        except ReelmillError as error:
            outcome, said = "own error", str(error)
            if isinstance(error, DecodeCrash):
                tally.outcomes["of them, a child died"] += 1
        except Exception as error:  # noqa: BLE001
            outcome, last = "foreign exception", traceback.extract_tb(error.__traceback__)[-1]
            tally.faults.setdefault(f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}", where)
    spent, grown = read_cpu_s() - started, read_memory("VmHWM") - before
    if inputs.CANARY in said:
        tally.faults.setdefault("the secret is in what came of it", where)
    for each in audit.take():
        tally.faults.setdefault(each, where)
    tally.outcomes[outcome] += 1
    tally.outcomes["over 5 s"] += spent > LIMIT_S
    tally.outcomes["over 1 GB"] += grown > LIMIT_BYTES
    tally.mutated += mutated
    tally.parsed += mutated and (outcome == "accepted" or is_parsed(kind, path))
    tally.slowest_s, tally.largest = max(tally.slowest_s, spent), max(tally.largest, grown)


def is_parsed(kind: Kind, path: Path) -> bool:
    """Say whether an input passes the first parser."""
    with contextlib.suppress(Exception):
        kind.parse(path)
        return True
    return False


def read_cpu_s() -> float:
    """Return the processor time of this process and of its children, those that the fork server made included."""
    times = os.times()
    server: int = multiprocessing.forkserver._forkserver._forkserver_pid  # pyright: ignore[reportAttributeAccessIssue]
    ticks = sum(read_stat(server)) + sum(child.read_ticks() for child in OneChild.made)
    return time.process_time() + times.children_user + times.children_system + ticks * TICK_S


def read_stat(process: int) -> list[int]:
    """Return the processor time of a process in ticks: its own in two parts, and that of its children that ended."""
    try:
        return [int(each) for each in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]]
    except FileNotFoundError:
        return []


def read_memory(name: str) -> int:
    """Return a line of this process' memory in bytes: what is resident, or its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def reset_peak() -> None:
    """Let this process' peak of memory begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


SHOWN = ("own error", "of them, a child died", "accepted", "foreign exception", "over 5 s", "over 1 GB")


def make_table(tallies: Mapping[str, Tally], seed: int, proof: Sequence[str]) -> str:
    """The result as Markdown."""
    counted = [SHOWN[0], *SHOWN[2:4]]
    total = sum(tally.outcomes[name] for tally in tallies.values() for name in counted)
    heads = ["kind", "inputs", "mutated", "of them past the first parser", *SHOWN, "slowest, s", "most memory, MB"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, tally in tallies.items():
        of = [str(sum(tally.outcomes[each] for each in counted)), str(tally.mutated)]
        of += [f"{tally.parsed / max(tally.mutated, 1):.0%}", *(str(tally.outcomes[each]) for each in SHOWN)]
        lines.append(f"| {name} | {' | '.join(of)} | {tally.slowest_s:.1f} | {tally.largest / 1e6:.0f} |")
    faults = [f"- {name}: {what} (input {first})" for name, t in tallies.items() for what, first in t.faults.items()]
    said = f"Seed {seed} (input N of a kind is drawn by `random.Random('{seed}-N')`): {total} inputs."
    return "\n".join(
        ["# Hostile inputs", "", *(__doc__ or "").strip().splitlines(), "", said, "", *lines, "", *proof, "", *faults]
    )


PROOF = """\
{said} What was watched:

- Python's audit events in this process, while an input is read: every `open`, every change of a file or folder, every
  listing, connection and program, but for Python's own library, this project's code, `/proc` and `/dev`.
- By the kernel (inotify), for every library and every child: a film, a picture and a text beside the inputs' folder,
  which mutations, playlists and polyglots name by relative and absolute paths, by two links inside the folder, and as
  URLs: opened, read or changed {opened} times. And the working folder, HOME and TMPDIR: changed {written} times.
- A known text in those files is in no value and no message: {leaked}.

A list of sources may name any file, and folders that it names are searched, so lists stand in a folder without links;
what they name outside is looked for and not opened. Each watch is first tried on a reading or a change that it must
see. Not covered: reads by C libraries and children of files that are neither in those folders nor seen by Python's
events.
Children have a limit of 1 GB of memory here, by the kernel; processor time is that of this process and all children."""


def split_events(watch: Watch, outside: Path) -> tuple[list[str], list[str]]:
    """Return what was opened of the files outside, and what was changed in the other folders that are watched."""
    events = watch.take()
    opened = [str(event.path) for event in events if event.path.is_relative_to(outside)]
    return opened, [str(e.path) for e in events if e.written and not e.path.is_relative_to(outside)]


def make_places(home: Path) -> Mapping[str, Path]:
    """Make the folders of an attack, and let this process work in them."""
    places = {name: home / name for name in ("inputs", "outside", "home", "tmp", "here")}
    for place in places.values():
        place.mkdir()
    os.environ["HOME"], os.environ["TMPDIR"], tempfile.tempdir = str(places["home"]), str(places["tmp"]), None
    os.chdir(places["here"])
    return places


def try_watches(watch: Watch, audit: Audit, places: Mapping[str, Path]) -> None:
    """Raise AssertionError where a reading by a C library in a child, one by Python, or a change goes unseen."""
    film, left = places["outside"] / "secret.mp4", places["here"] / "left"
    watch.take()
    run_in_child(inputs.open_film, film, limit_s=100)
    assert {*split_events(watch, places["outside"])[0]} == {str(film)}
    with audit:
        film.read_bytes()
        left.write_text("")
    assert audit.take() == [f"open of {film}", f"open of {left}"]
    opened, changed = split_events(watch, places["outside"])
    assert {*opened} == {str(film)}, opened
    assert {*changed} == {str(left)}, changed


def attack_all(home: Path, each: int, seed: int, only: str | None) -> tuple[dict[str, Tally], dict[str, int]]:
    """Attack every kind; return what became of it, and how many events there were outside."""
    places = make_places(home)
    kinds = make_kinds(places["inputs"], places["outside"])
    run_in_child(
        inputs.open_film, places["outside"] / "secret.mp4", limit_s=100
    )  # What the fork server loads is its own.
    audit, tallies = Audit([places["inputs"]]), dict[str, Tally]()
    watch = Watch([path for name, path in places.items() if name != "inputs"])
    try_watches(watch, audit, places)
    counted = {"opened": 0, "written": 0}
    for name, kind in kinds.items():
        if only in (None, name):
            tallies[name] = Tally()
            for number in range(each):
                made = make_input(kind, random.Random(f"{seed}-{number}"), number % 4 != 0)
                watch.take()
                attack(kind, places["inputs"], made, f"{seed}-{number}", number % 4 != 0, tallies[name], audit)
                for what, found in zip(counted, split_events(watch, places["outside"]), strict=True):
                    counted[what] += len(found)
                    for path in found:
                        tallies[name].faults.setdefault(f"{what}: {path}", f"{seed}-{number}")
            print(f"{name}: seed {seed}, {tallies[name]}", flush=True)
    multiprocessing.util._exit_function()  # pyright: ignore[reportAttributeAccessIssue]
    return tallies, counted


def main() -> int:
    """Run, print and write benchmarks/attack.md; 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=2230)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only")
    asked = parser.parse_args()
    logging.getLogger("reelmill").setLevel(logging.CRITICAL)
    set_limits(Limits(memory_mb=1000))
    warnings.simplefilter("ignore")  # Pillow's, of what is odd in a picture.
    Image.preinit()
    with TemporaryDirectory() as scratch:
        tallies, counted = attack_all(Path(scratch).resolve(), asked.each, asked.seed, asked.only)
        os.chdir("/")
    leaked = sum("the secret" in what for tally in tallies.values() for what in tally.faults)
    whole = "Nothing was written outside of the inputs' folder, and nothing read that they name outside of it."
    said = whole if not any(t.faults for t in tallies.values()) else "The faults are listed below."
    text = make_table(tallies, asked.seed, [PROOF.format(**counted, leaked=leaked, said=said)])
    print(text)
    if asked.only is None:
        (Path(__file__).parent / "attack.md").write_text(text + "\n", encoding="utf-8")
    return int(any(t.faults or any(t.outcomes[each] for each in SHOWN[3:]) for t in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
