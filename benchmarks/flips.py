"""Flip single bytes of output folders and count what `reelmill check --read-data` finds, by kind of file.

    .venv/bin/python benchmarks/flips.py FOLDER... --flips 2000 --seed 1

Each flip changes one byte, by one bit to all of them, of one file that Reelmill wrote (the ledger and the marker too),
checks the whole folder, and puts the byte back. The folders are copied first; the originals are only read.
"""

import argparse
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flows.command.check import find_faults
from tasks.ledger import LEDGER, read_ledger


def list_files(root: Path) -> list[Path]:
    """Return the files of a folder that its ledger answers for, and the ledger; empty ones have no byte to flip."""
    named = [root / name for name in sorted(read_ledger(root))]
    return [
        path for path in [*named, root / LEDGER] if path.is_file() and not path.is_symlink() and path.stat().st_size
    ]


def flip(path: Path, rng: random.Random) -> bytes:
    """Change one byte of a file in place, and return the byte as it was."""
    with path.open("r+b") as file:
        place = rng.randrange(path.stat().st_size)
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ rng.randrange(1, 256)]))
    return place.to_bytes(8, "big") + byte


def put_back(path: Path, saved: bytes) -> None:
    """Undo a flip."""
    with path.open("r+b") as file:
        file.seek(int.from_bytes(saved[:8], "big"))
        file.write(saved[8:])


def measure(roots: Sequence[Path], flips: int, seed: int) -> tuple[Counter[str], Counter[str]]:
    """Flip `flips` bytes, each kind of file as often as the others; return the flips and those found, by kind."""
    rng = random.Random(seed)
    kinds: dict[str, list[tuple[Path, Path]]] = {}
    for root in roots:
        for path in list_files(root):
            kinds.setdefault(path.suffix if path.name != LEDGER else LEDGER, []).append((root, path))
    done, found = Counter[str](), Counter[str]()
    for number in range(flips):
        kind = sorted(kinds)[number % len(kinds)]
        root, path = rng.choice(kinds[kind])
        saved = flip(path, rng)
        done[kind] += 1
        found[kind] += any(True for _ in find_faults(root, read_data=True))
        put_back(path, saved)
    return done, found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        copies = [Path(shutil.copytree(f, Path(scratch) / str(n), symlinks=True)) for n, f in enumerate(asked.folders)]
        before = [fault for root in copies for fault in find_faults(root, read_data=True)]
        assert not before, before
        done, found = measure(copies, asked.flips, asked.seed)
    print(f"seed {asked.seed}\n\n| kind of file | flips | found |\n| --- | --- | --- |")
    for kind in sorted(done):
        print(f"| {kind} | {done[kind]} | {found[kind]} |")
    print(f"| all | {done.total()} | {found.total()} |")


if __name__ == "__main__":
    main()
