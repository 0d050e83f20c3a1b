"""Flip single bytes of output folders, and count what `reelmill check --read-data` and a plain rerun find.

    .venv/bin/python -m benchmarks.flips [--flips 2000] [--reruns 200] [--seed 1]

A dataset, an export, two training runs and a folder of videos are made small. Each flip changes one byte (any bits of
it) of one file that Reelmill wrote, the ledger and the marker too; each kind of file is hit as often as the others.

Check: the whole folder is compared, and the byte is put back. Rerun: the command that wrote the file runs again, as
before, and the kernel says which files it opens (inotify, so children and libraries count too). A flip is found where
the file has its former bytes again, or was made anew so that check finds nothing, or where a message names the file. A
file that was read and whose flip was not found would be a fault. Writes benchmarks/flips.md.
"""

import argparse
import contextlib
import io
import logging
import os
import random
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.opened_files import Watch
from benchmarks.small_runs import list_commands, make_inputs
from flows.command.check import find_faults
from flows.command.main import main as run_command
from flows.command.prefect_server import settle_environment, start
from tasks import ledger
from tasks.ledger import LEDGER, MARKER, read_ledger

FOLDERS = ("dataset", "export", "lora", "full", "videos")

BY_FOLDER = {
    "manifests": "manifests",
    "frames": "frame stores",
    "clips": "cut clips",
    "latents": "latents",
    "weights": "weights",
    "pictures": "prepared pictures",
    "report": "pages",
    "videos": "generated clips",
}

BY_SUFFIX = {".tar": "shards", ".parquet": "tables", ".yaml": "settings", ".json": "run.json"}

OF_FINETUNE, OF_EXPORT = ("latents/", "manifests/encode/"), ("clips/", "manifests/clips/", "manifests/cuts/", "cuts.")
"""What other commands than curate write into a dataset."""


@dataclass(frozen=True)
class Flip:
    """A place in a file that Reelmill wrote, and the byte that will be there."""

    folder: str
    name: str
    kind: str
    place: int
    byte: int


def name_kind(name: str) -> str:
    """Return what a file is, by its name in its output folder."""
    if name in (MARKER, LEDGER):
        return {MARKER: "markers", LEDGER: "ledgers"}[name]
    path = Path(name)
    if len(path.parts) > 1 and path.parts[0] == "videos" and path.suffix == ".json":
        return "sidecars"
    return BY_FOLDER.get(path.parts[0], "") if len(path.parts) > 1 else BY_SUFFIX[path.suffix]


def list_kinds(world: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the folders and names of all files that ledgers answer for, and the ledgers, by kind; links and empty
    files have no byte to flip."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for folder in FOLDERS:
        for name in [*sorted(read_ledger(world / folder)), LEDGER]:
            path = world / folder / name
            if path.is_file() and not path.is_symlink() and path.stat().st_size:
                kinds.setdefault(name_kind(name), []).append((folder, name))
    return kinds


def draw_flips(world: Path, number: int, draw: random.Random) -> Iterator[Flip]:
    """Yield that many flips, of each kind of file as many."""
    kinds = list_kinds(world)
    for turn in range(number):
        kind = sorted(kinds)[turn % len(kinds)]
        folder, name = draw.choice(kinds[kind])
        content = (world / folder / name).read_bytes()
        place = draw.randrange(len(content))
        yield Flip(folder, name, kind, place, content[place] ^ draw.randrange(1, 256))


def put(path: Path, place: int, byte: int) -> int:
    """Change one byte of a file, and return the byte as it was."""
    with path.open("r+b") as file:
        file.seek(place)
        former = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte]))
    return former


def is_checked(root: Path) -> bool:
    """Say whether check finds nothing wrong with a folder."""
    return not any(True for _ in find_faults(root, read_data=True))


def try_check(world: Path, flips: Sequence[Flip]) -> Mapping[str, Counter[str]]:
    """Count what check finds, by kind of file."""
    found: dict[str, Counter[str]] = {}
    for flip in flips:
        root = world / flip.folder
        former = put(root / flip.name, flip.place, flip.byte)
        found.setdefault(flip.kind, Counter()).update(["flips", *(["found"] if not is_checked(root) else [])])
        put(root / flip.name, flip.place, former)
    return found


def choose_command(flip: Flip) -> str:
    """Return the name of the command that wrote a file."""
    if flip.folder == "dataset" and flip.name.startswith(OF_FINETUNE):
        return "lora"
    return "export" if flip.folder == "dataset" and flip.name.startswith(OF_EXPORT) else flip.folder


def run(arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command in this process, with nothing kept of earlier ones; return its exit code and what it said."""
    ledger._ledger.cache_clear()
    said, log = io.StringIO(), logging.getLogger("reelmill")
    handler = logging.StreamHandler(said)
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        log.addHandler(handler)
        code = run_command(arguments)
        log.removeHandler(handler)
    return code, said.getvalue()


def try_rerun(home: Path, world: Path, flip: Flip) -> tuple[str, str]:
    """Flip a byte, run the command again, and return what became of it and what was said."""
    path = world / flip.folder / flip.name
    whole = path.read_bytes()
    put(path, flip.place, flip.byte)
    flipped, watch = path.read_bytes(), Watch([world])
    code, said = run(list_commands(home, world)[choose_command(flip)])
    was_read = path in {event.path for event in watch.take() if not event.written}
    watch.close()
    now = path.read_bytes() if path.is_file() else b""
    ledger._ledger.cache_clear()
    named = flip.name in said or (flip.name == LEDGER and "ledger" in said)
    if now == whole:
        return ("read, as before" if was_read else "not read, as before"), said
    if now != flipped and is_checked(world / flip.folder):
        return "made anew", said
    if named:
        return ("read, named and refused" if code == 2 else "read, named"), said
    return ("read, not found" if was_read else "not read, left"), f"{code} {said}"


def try_reruns(home: Path, world: Path, flips: Sequence[Flip]) -> Mapping[str, Counter[str]]:
    """Count what reruns make of flips, by kind of file."""
    found: dict[str, Counter[str]] = {}
    kept = home / "kept"
    shutil.copytree(world, kept, symlinks=True)
    for flip in flips:
        what, said = try_rerun(home, world, flip)
        found.setdefault(flip.kind, Counter()).update(["flips", what])
        print(f"{flip}: {what}" + (f"\n{said}" if what == "read, not found" else ""), flush=True)
        shutil.rmtree(world)
        shutil.copytree(kept, world, symlinks=True)
    return found


def make_world(home: Path) -> Path:
    """Make the folders, and run every command once more, after which nothing changes."""
    world = home / "world"
    make_inputs(home, 4)
    for _ in range(2):
        for folder in FOLDERS:
            code, said = run(list_commands(home, world)[folder])
            assert code == 0, said
    assert all(is_checked(world / folder) for folder in FOLDERS)
    return world


OUTCOMES = ("read, as before", "made anew", "read, named", "read, named and refused", "not read, as before")
OUTCOMES += ("not read, left", "read, not found")


def make_table(checked: Mapping[str, Counter[str]], rerun: Mapping[str, Counter[str]], seed: int) -> str:
    """The result as Markdown."""
    lines = ["## Check", "", "| kind of file | flips | found |", "|---|---|---|"]
    lines += [f"| {kind} | {n['flips']} | {n['found']} |" for kind, n in sorted(checked.items())]
    total = sum(checked.values(), Counter[str]())
    lines += [f"| all | {total['flips']} | {total['found']} |", "", "## Rerun", ""]
    lines += [f"| kind of file | flips | {' | '.join(OUTCOMES)} |", "|---" * (len(OUTCOMES) + 2) + "|"]
    total = sum(rerun.values(), Counter[str]())
    for kind, n in [*sorted(rerun.items()), ("all", total)]:
        lines.append(f"| {kind} | {n['flips']} | {' | '.join(str(n[each]) for each in OUTCOMES)} |")
    head = ["# Flipped bytes", "", *(__doc__ or "").strip().splitlines(), "", f"Seed {seed}.", ""]
    return "\n".join([*head, *lines, "", *NOTES, ""])


NOTES = """\
What a rerun does not read, and why that is right:

- Latents of finished clips, sidecars, shards and weights are a command's results, which no later step of the same
  command reads; a rerun that read them all would take as long as all data. Their sizes are compared. Whatever hands
  them on compares their bytes first: finetune the dataset's latents (those of the flips above that were read), export
  the cut clips, reproduce the clip's latents and picture; and `reelmill check --read-data` all of them.
- Pages, run.json, settings and the tables that people open are written anew by every run from what was found, so a
  changed one is as before without having been read.

Named means: a message says which file has other bytes than were written, or which line of the ledger is damaged; the
frames or the clip are not shown, and the file is not made again until it is deleted, as the message says. Refused: the
command ends before it writes, because the folder's marker, or the shape of the export in its settings, is another.
Not flipped: the lock, which holds a number of a process, and links, which have no bytes; check compares where they
lead.""".splitlines()


def main() -> int:
    """Run, print and write the tables; 1 where a flip was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--reruns", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="a kind of file to rerun on")
    asked = parser.parse_args()
    settle_environment()
    with tempfile.TemporaryDirectory() as scratch, socket.create_server(("127.0.0.1", 0)) as port:
        home = Path(scratch)
        os.environ["XDG_STATE_HOME"] = str(home / "state")
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port.getsockname()[1]}/api"
        start(port)  # It ends with this process.
        world, draw = make_world(home), random.Random(asked.seed)
        checked = try_check(world, list(draw_flips(world, asked.flips, draw)))
        print(checked, flush=True)
        flips = [flip for flip in draw_flips(world, asked.reruns, draw) if asked.only in (None, flip.kind)]
        rerun = try_reruns(home, world, flips)
    text = make_table(checked, rerun, asked.seed)
    print(text)
    if asked.only is None:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    missed = sum(n["flips"] - n["found"] for n in checked.values()) + sum(n["read, not found"] for n in rerun.values())
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
