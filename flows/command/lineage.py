"""`reelmill lineage FILE`: where a file comes from, and what was made of it, its digests compared with those recorded.

From a generated clip it walks to the job, the model, the LoRA, the training run, the dataset, its clips and the source
films; and from any of those back to what was made of it, among the folders that are named with --among. A link of the
chain is found by its digest, never by its name alone.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open

from flows.running.config import Outcome
from models.errors import BadInput, BadMedia
from models.given_files import read_json
from tasks.ledger import find_root, is_whole, read_marker
from tasks.manifest import digest_file, read_column_names, read_manifest_ref, read_rows

DEPTH = 4
"""How many folders below one that is named output folders are looked for."""

SHOWN = 8
"""Items of one kind that are named; of more, their number is told."""

Row = Mapping[str, Any]


class LineageConfig(BaseModel):
    """Which file's origin is asked for, and where its relatives may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Path = Field(description="A generated clip, weights, a folder of a run or a dataset, or a source film")
    among: tuple[Path, ...] = Field(default=(), description="Folders in which its relatives are looked for too")


class Link(NamedTuple):
    """A link of the chain: how deep it is, what it is, and whether its bytes are as recorded; None: nothing is."""

    depth: int
    kind: str
    said: str
    whole: bool | None = None

    def __str__(self) -> str:
        word = {True: "  [digest agrees]", False: "  [OTHER BYTES than recorded]", None: ""}[self.whole]
        return f"{'  ' * self.depth}{self.kind}: {self.said}{word}"


class LineageOutcome(Outcome):
    """The chain; as many links failed as have other bytes than were recorded."""

    links: tuple[Link, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.links))


class Known(NamedTuple):
    """The output folders that are looked among, by what each holds."""

    datasets: dict[str, Path]
    runs: list[Path]
    videos: list[Path]


def lineage(config: LineageConfig) -> LineageOutcome:
    """Walk from a file to its origins and to what was made of it."""
    check(config)
    known = look_around(config)
    walk = choose_walk(config.file)
    links = tuple(walk(config.file, known))
    return LineageOutcome(failed=sum(link.whole is False for link in links), links=links)


def check(config: LineageConfig) -> list[str]:
    """Return nothing; raises BadInput where there is no such file."""
    for path in (config.file, *config.among):
        if not path.exists():
            raise BadInput(f"{path}: no such file or folder.")
    return []


def choose_walk(file: Path) -> Callable[[Path, Known], Iterator[Link]]:
    """Return the walk that begins at a file, by what it is."""
    if file.is_dir() and (file / "clips.parquet").is_file():
        return walk_from_dataset
    if file.is_dir() and (file / "run.json").is_file():
        return lambda folder, known: walk_from_run(folder, known, 0)
    if file.suffix == ".safetensors":
        return walk_from_weights
    root = find_root(file)
    if root and (root / "outputs.parquet").is_file():
        return walk_from_clip
    return walk_from_source


def look_around(config: LineageConfig) -> Known:
    """Find the datasets, runs and folders of videos near the file and among the folders that are named."""
    root = find_root(config.file if config.file.is_file() else config.file / "any")
    near = [root.parent, root] if root else []
    folders = dict.fromkeys(folder for place in (*near, *config.among) for folder in list_output_folders(place))
    known = Known({}, [], [])
    for folder in folders:
        if (folder / "clips.parquet").is_file():
            known.datasets[read_manifest_ref(folder / "clips.parquet").digest] = folder
        if (folder / "run.json").is_file():
            known.runs.append(folder)
        if (folder / "outputs.parquet").is_file():
            known.videos.append(folder)
    return known


def list_output_folders(place: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield the marked folders in a place, itself included, not more than `depth` folders below."""
    if not place.is_dir() or place.is_symlink():
        return
    if read_marker(place):
        yield place.absolute()
    if depth:
        for inner in sorted(place.iterdir()):
            if inner.is_dir() and not inner.name.startswith("."):
                yield from list_output_folders(inner, depth - 1)


def walk_from_clip(file: Path, known: Known) -> Iterator[Link]:
    """Yield the chain of a generated clip: clip, job, picture, model, LoRA, run, dataset, films."""
    root = find_root(file)
    assert root
    name = file.absolute().relative_to(root).as_posix()
    row = next((row for row in read_rows(root / "outputs.parquet") if name in (row["video"], row["sidecar"])), None)
    if row is None:
        raise BadInput(f"{file}: {root / 'outputs.parquet'} does not name it.")
    yield Link(0, "clip", str(file), digest_file(root / row["video"]) == row["video_sha256"])
    yield Link(1, "job", f"{row['job']} take {row['take']}, seed {row['seed']}, of {root}")
    yield from _compare_picture(row)
    yield Link(1, "model", f"{row['model']}, revision {row['model_revision']}")
    if row["lora_sha256"]:
        yield from _find_weights(row, known)


def _compare_picture(row: Row) -> Iterator[Link]:
    if row["image"]:
        there = Path(row["image"])
        whole = digest_file(there) == row["image_sha256"] if there.is_file() else None
        yield Link(1, "picture", f"{there}{'' if there.is_file() else ' (gone)'}", whole)


def _find_weights(row: Row, known: Known) -> Iterator[Link]:
    """Yield the LoRA of a clip, found by its digest, and where it comes from."""
    named = [Path(row["lora"])] if row["lora"] else []
    candidates = [*named, *(run / "lora.safetensors" for run in known.runs)]
    found = next((file for file in candidates if file.is_file() and digest_file(file) == row["lora_sha256"]), None)
    if found is None:
        there = bool(named) and named[0].is_file()
        yield Link(1, "LoRA", f"{row['lora']}{'' if there else ' (gone)'}", False if there else None)
        return
    yield Link(1, "LoRA", str(found), True)
    yield from _follow_weights(found, known, 2)


def walk_from_weights(file: Path, known: Known) -> Iterator[Link]:
    """Yield where weights come from, and the clips that were made with them."""
    digest = digest_file(file)
    yield Link(0, "weights", str(file), is_whole(file.resolve()) if find_root(file.resolve()) else None)
    yield from _follow_weights(file, known, 1)
    yield from _list_made_with({digest}, known)


def _follow_weights(file: Path, known: Known, depth: int) -> Iterator[Link]:
    facts = read_facts(file)
    run = next((run for run in known.runs if _is_of_run(run, facts)), None)
    if run:
        yield from walk_from_run(run, known, depth, back=False)
        return
    yield Link(depth, "run", f"{facts.get('run', 'unknown')} (its folder is not among those looked at)")
    yield from _find_dataset(facts.get("dataset_digest"), facts.get("dataset"), facts.get("clips"), known, depth)


def read_facts(file: Path) -> Row:
    """Return what weights say of their origin; raises BadMedia where they say nothing."""
    try:
        with safe_open(file, "numpy") as weights:
            told = json.loads((weights.metadata() or {}).get("reelmill", "{}"))
    except (OSError, ValueError, RuntimeError) as error:
        raise BadMedia(f"{file}: cannot be read as weights ({error}).") from error
    return told.get("lineage") or {}


def _is_of_run(run: Path, facts: Row) -> bool:
    told = read_json(run / "run.json")
    return bool(facts.get("run")) and Path(told.get("log", "")).stem == facts["run"]


def walk_from_run(run: Path, known: Known, depth: int, back: bool = True) -> Iterator[Link]:
    """Yield a training run, its log and its dataset; with `back` the clips that were made with its weights."""
    told = read_json(run / "run.json")
    log = run / told["log"]
    yield Link(depth, "run", str(run), log.is_file() and read_manifest_ref(log).digest == told["digest"])
    weights = run / told["weights"]
    facts = read_facts(weights) if weights.suffix == ".safetensors" and weights.is_file() else {}
    yield from _find_dataset(told["dataset_digest"], told["dataset"], facts.get("clips"), known, depth + 1)
    if back and weights.is_file():
        yield from _list_made_with({digest_file(weights)}, known)


def _find_dataset(
    digest: str | None, name: str | None, clips: Sequence[str] | None, known: Known, depth: int
) -> Iterator[Link]:
    folder = known.datasets.get(digest or "")
    if folder is None:
        same = [path for path in known.datasets.values() if path.name == name]
        said = f"{name}: no dataset looked at has the digest {str(digest)[:12]}…"
        yield Link(depth, "dataset", said + (f"; {same[0]} was decided again since" if same else ""))
        return
    yield Link(depth, "dataset", str(folder), True)
    yield from _list_films(folder, clips, depth + 1)


def _list_films(folder: Path, clips: Sequence[str] | None, depth: int) -> Iterator[Link]:
    """Yield the clips of a dataset that were learned (all that are kept where it is not known), and their films."""
    rows = read_rows(folder / "clips.parquet", ("clip_id", "video_id", "keep"))
    chosen = [row for row in rows if (row["clip_id"] in set(clips) if clips is not None else row["keep"])]
    yield Link(depth, "clips", f"{len(chosen)}: {_shorten([row['clip_id'] for row in chosen])}")
    wanted = {row["video_id"] for row in chosen}
    for film in read_rows(folder / "videos.parquet"):
        if film["video_id"] in wanted:
            yield _compare_film(film, depth)


def _compare_film(film: Row, depth: int) -> Link:
    place = Path(film.get("path") or film["source"])
    if not place.is_file():
        return Link(depth, "film", f"{film['source']} (not here)")
    return Link(depth, "film", str(place), digest_film(place) == film["digest"])


def digest_film(path: Path) -> str:
    """Return a film's digest as videos.parquet has it."""
    from tasks.source_files import digest_source

    return digest_source(path.parent, path)[1]


def walk_from_dataset(folder: Path, known: Known) -> Iterator[Link]:
    """Yield a dataset, its films, and the runs and the clips that were made of it."""
    digest = read_manifest_ref(folder / "clips.parquet").digest
    yield Link(0, "dataset", str(folder), is_whole(folder / "clips.parquet"))
    yield from _list_films(folder, None, 1)
    yield from _list_trained_on(digest, known)


def walk_from_source(file: Path, known: Known) -> Iterator[Link]:
    """Yield the datasets that hold a film, found by its content, and what was made of them."""
    digest = digest_film(file)
    holding = [(d, f) for d, f in known.datasets.items() if _holds(f, digest)]
    yield Link(0, "film", str(file), None)
    for of, folder in holding:
        yield Link(1, "dataset", str(folder), True)
        yield from _list_trained_on(of, known)
    if not holding:
        yield Link(1, "dataset", "none of those looked at holds it; name their folders with --among")


def _holds(dataset: Path, digest: str) -> bool:
    return any(row["digest"] == digest for row in read_rows(dataset / "videos.parquet", ("digest",)))


def _list_trained_on(digest: str, known: Known) -> Iterator[Link]:
    for run in known.runs:
        told = read_json(run / "run.json")
        if told.get("dataset_digest") == digest:
            yield Link(1, "made: run", str(run))
            weights = run / told["weights"]
            if weights.is_file():
                yield from _list_made_with({digest_file(weights)}, known)


def _list_made_with(digests: set[str], known: Known) -> Iterator[Link]:
    for folder in known.videos:
        table = folder / "outputs.parquet"
        if "lora_sha256" not in read_column_names(table):
            continue
        rows = read_rows(table, ("video", "lora_sha256", "status"))
        made = [row["video"] for row in rows if row["lora_sha256"] in digests and row["status"] == "ok"]
        if made:
            yield Link(2, "made: clips", f"{len(made)} in {folder}: {_shorten(made)}")


def _shorten(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
