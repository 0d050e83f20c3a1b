"""Commands that are killed again and again, against the same ones that are not.

    .venv/bin/python -m benchmarks.kills [--kills 8] [--seed 0] [--only CASE]

Each command is started and killed by SIGKILL, without a chance to tidy up, at random moments of its work: after a
random share of the lines that it writes into its ledger, and a random moment more. Every other kill spares its
children, as a lack of memory does. Once its folder is marked, files of a stranger are put into every folder of it. Then
the command runs to its end. Its exit code and all files must be those of the undisturbed command, byte for byte, but
for locks, ledgers (the order of their lines) and markers (a random id); `reelmill check --read-data` must find nothing,
and the stranger's files must be as they were.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.small_runs import CLIPS, list_commands, make_inputs
from flows.running.lock import LOCK
from tasks.ledger import LEDGER, MARKER

COMMAND = [sys.executable, "-m", "flows.command.main"]

EVENTS = "events"
"""The folder of what TensorBoard reads, which carries clocks."""

SETTLED = {LOCK, LEDGER, MARKER}

STRANGERS = (
    *("notes.txt", ".hidden", "frames/mine.jpg", "videos/film.mp4", "latents/mine.safetensors", "weights/mine.bin"),
    *("report/notes.html", "clips/other.mp4", "pictures/mine.png", "manifests/scan/mine.txt", "train-999999.tar"),
    *("train/mine.mp4", "manifests/sample/.mine.parquet", "mine/deep/er.bin"),
)
"""Files that others put into an output folder, some where the product has its own or under names like its own."""

LONGEST_WAIT_S = 3.0


@dataclass(frozen=True)
class Case:
    """A command that is killed, what ran before it, and the folders below the world that it writes into."""

    name: str
    arguments: list[str]
    writes: tuple[str, ...]
    before: tuple[list[str], ...] = ()
    late: tuple[str, ...] = ()
    """Pictures that come between the commands before and this one."""


@dataclass
class Result:
    """What became of one case."""

    name: str
    kills: int
    spared: int
    lines: list[int]
    code: int
    expected: int
    files: int
    differ: list[str]
    strangers: int
    lost: list[str]
    faults: str


def list_cases(home: Path, world: Path) -> Iterator[Case]:
    """Yield the cases in order: each begins where the undisturbed one before it ended."""
    commands = list_commands(home, world)
    yield Case("curate", commands["dataset"], ("dataset",))
    yield Case("export", commands["export"], ("dataset", "export"))
    yield Case("finetune, motion-lora", commands["lora"], ("dataset", "lora"))
    yield Case("finetune, image-to-video (all weights)", commands["full"], ("dataset", "full"))
    yield Case("generate", commands["videos"], ("videos",))
    yield Case("pipeline", commands["pipeline"], tuple(f"pipeline/{name}" for name in ("dataset", "run", "videos")))
    table, retried = str(home / "jobs/jobs.csv"), str(world / "retried")
    yield Case(
        "retry of generation",
        ["retry", retried],
        ("retried",),
        before=(["generate", table, "--out", retried, *CLIPS],),
        late=("late-1.png", "late-2.png", "late-3.png"),
    )
    broken, damaged = str(home / "damaged"), str(world / "damaged")
    yield Case("retry of curation", ["retry", damaged], ("damaged",), before=(["curate", broken, "--out", damaged],))
    yield Case("select", ["select", str(world / "dataset"), "--min-motion", "0.2"], ("dataset",))
    yield Case("check", ["check", str(world), "--read-data"], ("dataset",))


def make_more_inputs(home: Path) -> None:
    """Write what the retries need: a table of jobs whose last three pictures come late, and a film that is cut off."""
    (home / "jobs").mkdir()
    names = [path.name for path in sorted((home / "pictures").glob("*.png"))[:5]]
    for name in names:
        shutil.copy(home / "pictures" / name, home / "jobs" / name)
    lines = ["image", *names, "late-1.png", "late-2.png", "late-3.png"]
    (home / "jobs/jobs.csv").write_text("\n".join(lines) + "\n")
    shutil.copytree(home / "films", home / "damaged")
    film = home / "damaged/1.mp4"
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 3])


def start(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """The command, working in a process group of its own."""
    with log.open("ab") as file:
        return subprocess.Popen([*COMMAND, *arguments], stdout=file, stderr=file, start_new_session=True)


def count_lines(world: Path, case: Case) -> int:
    """The lines of the ledgers that a case appends to."""
    ledgers = (world / name / LEDGER for name in case.writes)
    return sum(ledger.read_bytes().count(b"\n") for ledger in ledgers if ledger.is_file())


def kill_one(case: Case, world: Path, log: Path, until: int, pause_s: float, alone: bool) -> bool:
    """Start the command, and kill it `pause_s` after its ledgers have `until` lines; False if it had ended by then."""
    process = start(case.arguments, log)
    while process.poll() is None and count_lines(world, case) < until:
        time.sleep(0.002)
    ends = time.monotonic() + pause_s
    while process.poll() is None and time.monotonic() < ends:
        time.sleep(0.001)
    killed = process.poll() is None
    if killed:
        (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
    process.wait()
    return killed


def plant(world: Path, case: Case, planted: dict[Path, bytes], chance: random.Random) -> None:
    """Put a stranger's files into the folders of a case that are marked by now, unless they are there."""
    for name in case.writes:
        for stranger in STRANGERS if (world / name / MARKER).is_file() else ():
            path = world / name / stranger
            if path not in planted and not os.path.lexists(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                planted[path] = chance.randbytes(chance.randrange(1, 3000))
                path.write_bytes(planted[path])


def read_content(world: Path, planted: dict[Path, bytes]) -> dict[str, bytes]:
    """Everything that a world holds, but for what is settled anew in each and what a stranger put there."""
    found: dict[str, bytes] = {}
    for path in world.rglob("*"):
        logged = EVENTS in path.relative_to(world).parts
        if path.name not in SETTLED and not logged and path not in planted and (path.is_symlink() or path.is_file()):
            name = str(path.relative_to(world))
            found[name] = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
    return found


def attack(case: Case, home: Path, world: Path, whole: Path, kills: int, chance: random.Random) -> Result:
    """Run a case undisturbed, then from the same start with kills, and compare; the world is left undisturbed."""
    log, begun = home / f"{case.name}.log", home / "begun"
    for arguments in case.before:
        start(arguments, log).wait()
    for name, picture in zip(case.late, sorted((home / "in/pictures").glob("*.png"))[5:], strict=False):
        shutil.copy(picture, home / "in/jobs" / name)
    shutil.copytree(world, begun, symlinks=True) if world.exists() else begun.mkdir()
    before, started = count_lines(world, case), time.monotonic()
    expected = start(case.arguments, log).wait()
    took_s, written = time.monotonic() - started, count_lines(world, case) - before
    world.rename(whole)
    begun.rename(world)

    planted: dict[Path, bytes] = {}
    lines, spared, tries = [], 0, 0
    shares = sorted(chance.random() for _ in range(kills))
    while len(lines) < kills and tries < 2 * kills:
        until = before + int(shares[len(lines)] * written)
        longest_s = took_s if not written else min(LONGEST_WAIT_S, took_s / written)
        alone = len(lines) % 2 == 1
        tries += 1
        if kill_one(case, world, log, until, chance.uniform(0, longest_s), alone):
            lines.append(count_lines(world, case) - before)
            spared += alone
        plant(world, case, planted, chance)
    code = start(case.arguments, log).wait()
    checked = subprocess.run(
        [*COMMAND, "check", str(world), "--read-data"], capture_output=True, text=True, check=False
    )
    one, other = read_content(whole, {}), read_content(world, planted)
    result = Result(
        name=case.name,
        kills=len(lines),
        spared=spared,
        lines=[*lines, written],
        code=code,
        expected=expected,
        files=len(other),
        differ=sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)),
        strangers=len(planted),
        lost=sorted(str(p.relative_to(world)) for p, b in planted.items() if not p.is_file() or p.read_bytes() != b),
        faults=checked.stdout.splitlines()[-1] if checked.returncode else "",
    )
    shutil.rmtree(world)
    whole.rename(world)
    return result


def make_table(results: Sequence[Result], seed: int, pictures: int) -> str:
    """The results as Markdown."""
    heads = ("command", "kills (children spared)", "exit code, undisturbed", "files", "not the same")
    heads += ("stranger's files", "lost or changed", "found by check", "lines of ledgers at each kill, of")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for r in results:
        moments = f"{', '.join(map(str, r.lines[:-1]))} of {r.lines[-1]}"
        codes, sums = f"{r.code}, {r.expected}", f"{r.strangers} | {len(r.lost)}"
        lines.append(
            f"| {r.name} | {r.kills} ({r.spared}) | {codes} | {r.files} | {len(r.differ)} | {sums} | "
            f"{r.faults or 'nothing'} | {moments} |"
        )
    total = (sum(r.kills for r in results), sum(r.strangers for r in results), sum(len(r.lost) for r in results))
    lines.append(f"| all | {total[0]} | | | {sum(len(r.differ) for r in results)} | {total[1]} | {total[2]} | | |")
    wrong = [f"- {r.name}: {', '.join([*r.differ, *r.lost][:8])}" for r in results if r.differ or r.lost]
    said = f"Seed {seed}; three films of two shots, {pictures} pictures, the embedded model, trainings of six steps."
    return "\n".join(["# Kills", "", *(__doc__ or "").strip().splitlines(), "", said, "", *lines, "", *wrong, ""])


def main() -> int:
    """Run, print and write benchmarks/kills.md; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=8, help="8 or more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only")
    parser.add_argument("--keep", type=Path, help="where to leave everything")
    asked = parser.parse_args()
    chance, results = random.Random(asked.seed), list[Result]()
    with TemporaryDirectory() as scratch:
        home = (asked.keep or Path(scratch)).absolute()
        os.environ["XDG_STATE_HOME"] = str(home / "state")
        make_inputs(home / "in", asked.pictures)
        make_more_inputs(home / "in")
        world = home / "world"
        world.mkdir()
        for number, case in enumerate(list_cases(home / "in", world)):
            wanted = asked.only is None or case.name.startswith(asked.only)
            result = attack(case, home, world, home / f"whole-{number}", asked.kills if wanted else 0, chance)
            results.append(result)
            print(result, flush=True)
    text = make_table(results, asked.seed, asked.pictures)
    print(text)
    if asked.only is None:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    return int(any(r.differ or r.lost or r.faults or r.code != r.expected for r in results))


if __name__ == "__main__":
    sys.exit(main())
