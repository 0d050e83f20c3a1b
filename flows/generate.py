"""Generate videos from pictures or texts: read the jobs, draw pictures where only texts are given, sample latents,
decode and measure them, encode them, and collect one table.

A night's run ends before its work is done when its time is over, its disk is full or the same fault repeats. What is
left are rows that wait; the same command resumes them.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field

from flows.generate_takes import Made, make_further_takes
from flows.running.config import FlowConfig, Outcome, Tally
from flows.running.estimate import DECODE_SHARE, DRAWING_S, ENCODE_SHARE, Estimate, describe_plan, estimate
from flows.running.guard import Guard, NightConfig, check_space, find_deadline, read_local_time
from flows.running.run import Run, count_cores, make_chunks, running
from flows.running.scheduled import find_scheduled_time
from flows.running.stages import Stage, run_stages
from flows.running.told import told_flow
from flows.running.watch_folder import WatchConfig, keep_watching, list_first_pictures
from models.device import DEVICE_HELP, DeviceName, choose_precision, find_device
from models.generation.by_family import is_sampled_in_batches
from tasks.caching import supersede
from tasks.generate.choose import GateConfig, choose_takes
from tasks.generate.clip_frames import sweep_parked
from tasks.generate.comfyui_jobs import make_workflow
from tasks.generate.decode import DecodeConfig, decode_jobs, pair_samples
from tasks.generate.draw import DrawConfig, add_drawn_pictures, draw_pictures, list_pictures_to_draw
from tasks.generate.encode import EncodeConfig, encode_jobs, pair_measured
from tasks.generate.encode_formats import CODECS, Format, list_cautions, make_look
from tasks.generate.gallery import write_gallery
from tasks.generate.job_columns import file_key, spoken_columns
from tasks.generate.job_resolver import fold_name, make_safe_name
from tasks.generate.job_settings import JobsConfig
from tasks.generate.jobs import WAITING, put_off, read_jobs
from tasks.generate.outputs import collect_outputs
from tasks.generate.sample import SampleConfig, plan_all_batches, sample_jobs
from tasks.limits import set_limits
from tasks.manifest import ManifestRef, digest_file, publish, publish_json, read_rows

log = logging.getLogger("reelmill")


class GenerateConfig(FlowConfig, JobsConfig, NightConfig, WatchConfig):
    """Everything a batch of generated videos depends on.

    A table has a row for each job: its picture's file in the column image, found from the table's own folder, or a text
    as prompt. It may also have {columns}, which go before the same options.
    """

    jobs: Path = Field(
        description="Folder of pictures, one picture, a CSV, Excel, JSONL or Parquet table of jobs, a text file of "
        "prompts, or a ComfyUI workflow"
    )
    out: Path = Field(description="Folder of the videos, the table and the page")
    images: Path | None = Field(default=None, description="Folder of pictures that a workflow runs over, not its own")
    workflow_out: Path | None = Field(
        default=None, description="Folder to write jobs of Stable Video Diffusion to as ComfyUI workflows"
    )
    batch: int = Field(default=1, ge=1, le=256, description="Clips sampled together; more need more memory")
    device: DeviceName = Field(default="auto", description=DEVICE_HELP)
    format: Format = Field(default="h264", description="Format of the clips: mp4 by three codecs, or pictures")
    crf: int | None = Field(
        default=None, ge=0, le=63, description="Quality, 0 best; the format's own if not given; gif and png have none"
    )
    trim: bool = Field(default=False, description="Whether a clip ends where it stops being good")
    draw: DrawConfig = Field(default=DrawConfig(), description="How pictures are drawn where only a text is given")
    gate: GateConfig = Field(default=GateConfig(), description="When a take will do, and how many more are tried")

    @property
    def per_job(self) -> JobsConfig:
        """Return the part that jobs are resolved with; on a GPU, the precision `auto` stays each family's own."""
        own: dict[str, Any] = {name: getattr(self, name) for name in JobsConfig.model_fields}
        where = find_device(self.device)
        own["dtype"] = self.dtype if where.type == "cuda" else choose_precision(where, self.dtype)
        return JobsConfig(**own)

    @property
    def drawing(self) -> DrawConfig:
        """Return how pictures are drawn: on the run's device, unless on a device of their own."""
        return self.draw.model_copy(update={"device": self.draw.device or self.device})


GenerateConfig.__doc__ = (GenerateConfig.__doc__ or "").format(columns=spoken_columns("image", "prompt"))


class GenerateOutcome(Outcome):
    """Where the table and the page are, how many clips there are, and why some wait, if any do."""

    clips: int
    duplicates: int
    waiting: int = 0
    stopped: str | None = None
    outputs: Path
    page: Path

    def __str__(self) -> str:
        """Show one line for each field; what does not apply is left out. What waits did not fail."""
        said = {name: value for name, value in self if name != "tally"} | {"failed": self.failed - self.waiting}
        kept = {name: value for name, value in said.items() if value or name in ("clips", "duplicates")}
        return "\n".join(f"{name}: {value}" for name, value in kept.items())


class GeneratePlan(Outcome):
    """What a run would make: lines for what is ready, and one for each job that cannot be made, or not quite as
    asked."""

    ready: int
    batches: int
    takes: tuple[str, ...]
    said: tuple[str, ...]

    def __str__(self) -> str:
        """Show the plan as lines."""
        return "\n".join([f"ready: {self.ready} clips in {self.batches} batches", *self.takes, *self.said])


@told_flow(name="generate")
def generate(config: GenerateConfig) -> GenerateOutcome:
    """Make a video of every job that can be made; the others are rows with a reason."""
    make_look(config.format, config.crf)
    return watch(config) if config.watch else make_videos(config)


def make_videos(
    config: GenerateConfig, only: tuple[str, ...] | None = None, deadline: datetime | None = None
) -> GenerateOutcome:
    """Make a video of every job that can be made.

    A round of a watched folder gets the names of the pictures that are complete, and when the watch ends.
    """
    with running(config.out, "generate", config) as run:
        clear(config.out)
        guard = Guard(config.out, config, deadline or find_end(config))
        jobs = read(run, config, guard, only)
        for caution in caution_about(config, jobs):
            log.warning("%s", caution)
        if config.workflow_out:
            write_workflows(config.workflow_out, jobs)
        samples, clips, videos = make(run, config, guard, jobs)
        choices = run.whole(choose_takes, config.gate, jobs, clips, videos)
        made = Made(jobs, samples, clips, videos, choices)
        again = partial(read, run, config, guard, only)
        made = make_further_takes(run, config.gate, made, again, partial(make, run, config, guard), guard.may_start)
        sweep_parked(config.out)
        left = put_off(config.out, jobs, made[1:4], guard.reason)
        outputs = run.whole(collect_outputs, left, *made[1:], made.jobs)
        page = run.whole(write_gallery, outputs)
        return summarise(outputs, page, guard.reason)


def find_end(config: GenerateConfig) -> datetime | None:
    """Return when the night ends, if it does."""
    return find_deadline(config, read_local_time(), find_scheduled_time())


def watch(config: GenerateConfig) -> GenerateOutcome:
    """Make the pictures that come into a folder, round after round; return the last round's outcome."""
    each = config.model_copy(update={"watch": False})
    guard = Guard(config.out, config, find_end(config))
    make = partial(told_flow(name="generate-round")(make_videos), each)
    return keep_watching(config.images or config.jobs, config.out, config.poll_s, guard, make)


def clear(out: Path) -> None:
    """Remove what an earlier run left that this one does not need."""
    supersede(WAITING, out)


def read(run: Run, config: GenerateConfig, guard: Guard, only: tuple[str, ...] | None, more: int = 0) -> ManifestRef:
    """Read the jobs, with `more` takes of each than were asked for, and with their pictures."""
    settings = config.per_job.model_copy(update={"takes": config.takes + more})
    jobs = run.whole(read_jobs, settings, config.jobs, config.images, only)
    asks = list_pictures_to_draw(config.drawing, jobs)
    if not asks:
        return jobs
    (drawn,) = run_stages(run, [Stage(draw_pictures, config.drawing)], asks, [DRAWING_S] * len(asks), guard)
    return run.whole(add_drawn_pictures, config.drawing, jobs, drawn)


def make(
    run: Run, config: GenerateConfig, guard: Guard, jobs: ManifestRef, wanted: Collection[str] | None = None
) -> list[list[ManifestRef]]:
    """Make the latents, the clips and the files of every job, or of the `wanted` item keys, for as long as the guard
    allows: the first take of each job before any second one, the most urgent first."""
    settings = SampleConfig(batch=config.batch, device=config.device)
    encoding = EncodeConfig(format=config.format, crf=config.crf, trim=config.trim, device=config.device)
    rows = {row["item_key"]: row for row in read_ready_rows(jobs)}
    batches = plan_all_batches(jobs, settings, wanted)
    work = check_disk(config, rows, [keys for _, keys in batches], run.workers)
    if wanted is None:
        run.story.call(sum(map(len, work)), "clip" if config.batch == 1 else "group")
    stages = [
        Stage(sample_jobs, settings),
        Stage(decode_jobs, DecodeConfig(device=config.device), partial(pair_samples, jobs), DECODE_SHARE),
        Stage(encode_jobs, encoding, partial(pair_measured, jobs), ENCODE_SHARE),
    ]
    return run_stages(run, stages, batches, [sum(each.seconds for each in batch) for batch in work], guard)


def check_disk(
    config: GenerateConfig, rows: Mapping[str, Mapping[str, Any]], batches: Sequence[Sequence[str]], workers: int
) -> list[list[Estimate]]:
    """Return what each clip of each batch is estimated to take, of jobs `rows` by item key; raises BadInput where the
    disk is too small for all clips that are not there yet."""
    device = find_device(config.device)
    takes = {key: estimate(row, device, config.format) for key, row in rows.items()}
    work = [[takes[key] for key in keys] for keys in batches]
    missing = sorted(each.disk for each in takes.values())[count_clips(config.out, config.format) :]
    if missing:
        check_space(config.out, round(sum(missing) + estimate_parked_bytes(work, workers)), config)
    return work


def count_clips(out: Path, written: Format) -> int:
    """Count the clips of a format, or of one with the same kind of file, that an earlier run has left."""
    suffix = CODECS[written].suffix
    return sum(sidecar.with_suffix(suffix).exists() for sidecar in out.glob("videos/[!.]*.json"))


def estimate_parked_bytes(work: Sequence[Sequence[Estimate]], workers: int) -> float:
    """Return the most bytes of frames that wait for their encoding, of batches of clips: a chunk of them for each
    worker."""
    each, seconds = ([sum(getattr(e, name) for e in batch) for batch in work] for name in ("parked", "seconds"))
    largest = max((sum(chunk) for chunk in make_chunks(each, seconds, workers)), default=0.0)
    return min(sum(each), workers * largest)


def read_ready_rows(jobs: ManifestRef) -> list[dict[str, Any]]:
    """Return the jobs that can be made."""
    return [row for row in read_rows(jobs) if row["status"] == "ready"]


def caution_about(config: GenerateConfig, jobs: ManifestRef) -> list[str]:
    """Return what players make of the files asked for, where that is not what was asked for."""
    rates = {row["playback_fps"] or row["fps"] for row in read_ready_rows(jobs)}
    return list_cautions(make_look(config.format, config.crf), rates)


def summarise(outputs: ManifestRef, page: Path, stopped: str | None) -> GenerateOutcome:
    """Count the clips of the table; a clip that waits counts as one that is not done."""
    rows = read_rows(outputs, ("status", "error_message"))
    states = Counter(row["status"] for row in rows)
    failed = states["failed"] + states["waiting"]
    said = stopped or next((row["error_message"] for row in rows if row["status"] == "failed"), None)
    return GenerateOutcome(
        failed=failed,
        tally=Tally(items=states["ok"] + failed, done=states["ok"], waiting=states["waiting"], said=said),
        clips=states["ok"],
        duplicates=states["duplicate"],
        waiting=states["waiting"],
        stopped=stopped,
        outputs=outputs.path,
        page=page,
    )


def write_workflows(folder: Path, jobs: ManifestRef) -> None:
    """Write each job of Stable Video Diffusion with a picture, once for all its takes, as a workflow in the API's
    format, beside a copy of the picture. A picture that is already there stays; where another file has its name, the
    copy gets a name of its own."""
    for row in read_ready_rows(jobs):
        if row["take"] == 0 and row["image"] and is_sampled_in_batches(row["family"]):
            if row["longer"] == "chain":
                log.warning(
                    "%s: a workflow knows of no chains; the one written makes one clip by windows.", row["name"]
                )
            picture = folder / find_copy_name(folder, Path(row["image"]), row["image_sha256"])
            publish_json(folder / f"{row['name']}-{file_key(row)[:10]}.json", make_workflow(row, picture.name))
            if not picture.exists():
                with publish(picture) as aside:
                    shutil.copyfile(row["image"], aside)


def find_copy_name(folder: Path, picture: Path, digest: str) -> str:
    """Return the name of a picture's copy in a folder: its own, unless a file with another content has that name, or
    one that some file systems take for it (upper and lower case, decomposed letters)."""
    alike = [path for path in folder.glob("*") if fold_name(path.name) == fold_name(picture.name)]
    if not alike or (alike[0].name == picture.name and digest_file(alike[0]) == digest):
        return picture.name
    return f"{make_safe_name(picture.stem)}-{digest[:10]}{picture.suffix}"


def plan(config: GenerateConfig) -> GeneratePlan:
    """Check every job and describe what a run would make; nothing is sampled, and nothing is written to `out`.

    Raises what the run would be refused for; a watched folder may still be empty.
    """
    make_look(config.format, config.crf)
    set_limits(config.limits)
    if config.watch and not list_first_pictures(config.images or config.jobs):
        return GeneratePlan(ready=0, batches=0, takes=(), said=())
    with TemporaryDirectory() as folder:
        jobs = read_jobs.fn(Path(folder), config.per_job, config.jobs, config.images)
        batches = plan_all_batches(jobs, SampleConfig(batch=config.batch))
        rows, ready = sorted(read_rows(jobs), key=lambda row: row["job"]), read_ready_rows(jobs)
        cautions = caution_about(config, jobs)
    known = {row["item_key"]: row for row in ready}
    check_disk(config, known, [keys for _, keys in batches], config.workers or count_cores())
    return GeneratePlan(
        failed=sum(row["status"] == "failed" for row in rows),
        ready=len(ready),
        batches=len(batches),
        takes=tuple(describe_plan(ready, find_device(config.device), config.batch, config.format)),
        said=(*cautions, *(line for row in rows if not row["take"] for line in _list_messages(row))),
    )


def _list_messages(row: dict[str, Any]) -> list[str]:
    """Return the messages about one job."""
    reasons = [] if row["status"] == "ready" else [row["error_message"]]
    return [f"job {row['job']}: {text}" for text in (*reasons, *(f"ignored: {i}" for i in row["ignored"] or ()))]
