"""Accuracy of finding cuts, on rendered films with known truth, beside PySceneDetect's detectors on the same files.

`python -m benchmarks.cuts` renders the films, prints the table as Markdown and writes benchmarks/cuts.md. A hard cut is
found when the frame is right. A gradual transition is found when a boundary lies in it, two frames of grace on each
side; the first one counts, a second one is false. PySceneDetect gives no kinds, so its cuts inside a gradual transition
count for that and not against the hard cuts; ours have to name it gradual.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from scenedetect import AdaptiveDetector, ContentDetector, ThresholdDetector, detect
from scenedetect.detector import SceneDetector

from benchmarks.transitions import FPS, TRAPS, Event, render_film
from tasks.curate.split import SplitConfig
from tasks.detectors.boundary import Boundary
from tasks.detectors.cascade import find_boundaries
from tasks.media.signals import Recorder, make_signals, shrink_frame
from tasks.media.video import FullPass, open_video, write_video

SEEDS = range(101, 113)
"""The films that are measured; those that thresholds were chosen on have seeds below 100."""

GRACE = 2
"""Frames on either side of a gradual transition in which a boundary still counts as found."""

Finder = Callable[[Path], list[Boundary]]


@dataclass
class Score:
    """Counts over all films: (found, false, missed) of hard cuts and gradual transitions, what was found in traps,
    frames of gradual transitions (kept out of clips, in all), and (found, in all) of each kind."""

    hard: list[int] = field(default_factory=lambda: [0, 0, 0])
    gradual: list[int] = field(default_factory=lambda: [0, 0, 0])
    traps: int = 0
    mixed_frames: list[int] = field(default_factory=lambda: [0, 0])
    by_kind: dict[str, list[int]] = field(default_factory=dict)


def rates(counts: Sequence[int]) -> tuple[float, float, float]:
    """Precision, recall and F1 of (found, false, missed)."""
    found, false, missed = counts
    precision, recall = found / max(found + false, 1), found / max(found + missed, 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


def ours(path: Path) -> list[Boundary]:
    """What the scan and the split find with their defaults."""
    recorder = Recorder()
    with open_video(path, skip_loop_filter="all") as (container, stream):
        for frame, _ in FullPass(container, stream).frames():
            recorder.add(frame.pts or 0, shrink_frame(frame))
        return find_boundaries(make_signals(recorder.columns(), stream.time_base or Fraction(1)), SplitConfig())


def theirs(detector: Callable[[], SceneDetector]) -> Finder:
    """What one of PySceneDetect's detectors finds with its defaults."""

    def find(path: Path) -> list[Boundary]:
        starts = [start.frame_num for start, _ in detect(str(path), detector())][1:]
        return [Boundary(start, start, "cut") for start in starts]

    return find


FINDERS: dict[str, Finder] = {
    "Reelmill, cascade": ours,
    "PySceneDetect, AdaptiveDetector": theirs(AdaptiveDetector),
    "PySceneDetect, ContentDetector": theirs(ContentDetector),
    "PySceneDetect, ThresholdDetector": theirs(ThresholdDetector),
}


def judge(score: Score, events: Sequence[Event], found: Sequence[Boundary], named: bool) -> None:
    """Add one film to the score; `named` where the finder says which boundaries are gradual."""
    truth = [event for event in events if event.kind not in TRAPS]
    left = list(found)
    for event in truth:
        hits = [b for b in left if is_hit(event, b, named)]
        counts = score.gradual if event.end > event.start else score.hard
        counts[0 if hits else 2] += 1
        score.by_kind.setdefault(event.kind, [0, 0])
        score.by_kind[event.kind][0] += bool(hits)
        score.by_kind[event.kind][1] += 1
        if hits:
            left.remove(hits[0])
            taken = range(max(hits[0].start, event.start), min(hits[0].end, event.end))
            score.mixed_frames[0] += len(taken)
        score.mixed_frames[1] += event.end - event.start
    for boundary in left:
        counts = score.gradual if boundary.end > boundary.start else score.hard
        counts[1] += 1
        score.traps += any(e.kind in TRAPS and e.start - GRACE <= boundary.start <= e.end + GRACE for e in events)


def is_hit(event: Event, boundary: Boundary, named: bool) -> bool:
    """Whether the boundary finds the event."""
    if event.end == event.start:
        return boundary.start == boundary.end == event.start
    if named and boundary.start == boundary.end:
        return False
    middle = (boundary.start + boundary.end) / 2
    return event.start - GRACE <= middle <= event.end + GRACE


def table(scores: dict[str, Score]) -> str:
    """The scores as Markdown."""
    kinds = list(next(iter(scores.values())).by_kind)
    figures = ("hard precision", "recall", "F1", "gradual precision", "recall", "false in traps", "mixed frames out")
    lines = [f"| finder | {' | '.join(figures)} |", "|---" * (len(figures) + 1) + "|"]
    for name, score in scores.items():
        hard, gradual = rates(score.hard), rates(score.gradual)
        shares = " | ".join(f"{value:.3f}" for value in (*hard, *gradual[:2]))
        kept_out = score.mixed_frames[0] / max(score.mixed_frames[1], 1)
        lines.append(f"| {name} | {shares} | {score.traps} | {kept_out:.0%} |")
    lines += ["", "| found of each kind | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for name, score in scores.items():
        lines.append(f"| {name} | " + " | ".join("{} of {}".format(*score.by_kind[kind]) for kind in kinds) + " |")
    return "\n".join(lines)


def measure(seeds: Sequence[int], finders: dict[str, Finder]) -> tuple[dict[str, Score], list[Event]]:
    """The scores on the films of these seeds, and all that happens in them."""
    scores, happened = {name: Score() for name in finders}, []
    for seed in seeds:
        film = render_film(seed)
        happened += film.events
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film.mp4"
            write_video(path, film.frames, FPS, crf=20)
            for name, finder in finders.items():
                judge(scores[name], film.events, finder(path), named=finder is ours)
    return scores, happened


def main() -> None:
    """Measure, print and write."""
    scores, events = measure(SEEDS, FINDERS)
    traps = sum(event.kind in TRAPS for event in events)
    about = (
        f"{len(events) - traps} transitions and {traps} traps in {len(SEEDS)} rendered films of 320x180 at {FPS} frames"
        " per second (`python -m benchmarks.cuts`). Hard cuts count when frame-exact. The last column: how many of the"
        " frames of gradual transitions end up in no clip."
    )
    text = f"# Finding cuts\n\n{about}\n\n{table(scores)}\n"
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
