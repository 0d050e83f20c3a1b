"""A clip is made again from what it says of itself; whatever is not as it was is named."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flows.command.main import main
from flows.provenance import read_provenance
from flows.reproduce import (
    ReproduceConfig,
    check,
    choose_lora,
    choose_model,
    choose_picture,
    describe_distance,
    distance_db,
    list_damaged,
    reproduce,
)
from models.errors import BadInput, BadMedia, BadModel
from models.svd.lora import LoraFacts, add_lora, read_lora_weights, remove_lora, save_lora
from models.svd.model import load_model
from models.weights.names import TINY
from tasks.generate import encode
from tasks.generate.decode import DecodeConfig, decode_jobs, pair_samples
from tasks.generate.encode import EncodeConfig, encode_jobs, pair_measured
from tasks.generate.encode_formats import Format
from tasks.generate.job_settings import JobsConfig
from tasks.generate.jobs import read_jobs
from tasks.generate.outputs import collect_outputs
from tasks.generate.sample import SampleConfig, plan_all_batches, sample_jobs
from tasks.ledger import mark, record
from tasks.manifest import read_rows
from tests.declared import declared
from tests.hub_cache import COMMIT, cached


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of small random weights on the embedded model."""
    path = tmp_path_factory.mktemp("lora") / "pan.safetensors"
    unet = load_model("tiny").unet
    add_lora(unet, rank=2, alpha=2.0)
    draw = torch.Generator().manual_seed(0)
    weights = {name: 0.1 * torch.randn(w.shape, generator=draw) for name, w in read_lora_weights(unet).items()}
    remove_lora(unet)
    save_lora(path, weights, LoraFacts(2, 2.0, {}))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, lora: Path) -> Path:
    """A folder in which three small clips were generated in one batch."""
    torch.set_num_threads(1)
    root, pictures = tmp_path_factory.mktemp("run") / "out", tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(pictures / f"{name}.png")
    config = JobsConfig(steps=1, frames=3, width=32, height=32, lora=str(lora))
    jobs = read_jobs.fn(root, config, pictures)
    samples = sample_jobs.fn(root, SampleConfig(batch=3), plan_all_batches(jobs, SampleConfig(batch=3)))
    clips = decode_jobs.fn(root, DecodeConfig(), pair_samples(jobs, samples))
    videos = encode_jobs.fn(root, EncodeConfig(), pair_measured(jobs, samples, clips))
    collect_outputs.fn(root, jobs, samples, clips, videos)
    shutil.copy(pictures / "a.png", root / "a.png")
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path, lora: Path) -> Path:
    """A copy of the folder, and of its LoRA, to do damage in."""
    shutil.copytree(made, tmp_path / "out")
    shutil.copy(lora, tmp_path / "pan.safetensors")
    return tmp_path / "out"


def clip_of(run: Path, name: str = "a") -> Path:
    return next(run.glob(f"videos/{name}-*.mp4"))


@pytest.mark.slow
def test_a_clip_of_a_batch_comes_out_identical(run: Path, capsys: pytest.CaptureFixture[str]):
    for name in "ac":
        assert main(["reproduce", str(clip_of(run, name))]) == 0
        assert "identical: latents bit for bit, and every frame" in capsys.readouterr().out


def test_after_one_byte_of_the_lora_was_changed_the_lora_differs(run: Path, tmp_path: Path):
    path = tmp_path / "pan.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    outcome = reproduce(ReproduceConfig(clip=clip_of(run), lora=path))
    assert outcome.failed == 1
    (said,) = outcome.differs
    assert said.startswith(f"LoRA: {path} is ")
    assert read_provenance(clip_of(run))["lora_sha256"][:12] in said


@pytest.mark.slow
def test_a_clip_of_a_model_of_the_hub_says_its_id_and_is_made_again_from_the_cache(tmp_path: Path, hub_cache: Path):
    torch.set_num_threads(1)
    cached(hub_cache, TINY, "org/svd")
    picture = tmp_path / "in" / "a.png"
    picture.parent.mkdir()
    Image.new("RGB", (40, 40), "teal").save(picture)
    root, pinned = tmp_path / "out", f"org/svd@{COMMIT}"
    asked = JobsConfig(model="org/svd@main", steps=1, frames=3, width=32, height=32)
    clip = made_in(root, asked, picture.parent)
    (row,) = read_rows(root / "outputs.parquet")
    assert (row["model"], row["model_revision"]) == (pinned, pinned)
    sidecar = json.loads(clip.with_suffix(".json").read_text())
    assert (sidecar["model"], sidecar["model_revision"]) == (pinned, pinned)
    assert read_provenance(clip)["model"] == pinned

    cached(hub_cache, TINY, "org/svd", commit="f" * 40)  # the branch goes on
    assert reproduce(ReproduceConfig(clip=clip)).differs == ()
    alone = Path(shutil.copy(clip, tmp_path / "alone.mp4"))
    assert reproduce(ReproduceConfig(clip=alone, picture=picture)).differs == ()
    (said,) = reproduce(ReproduceConfig(clip=clip, model="org/svd@main")).differs
    assert said == f"model: org/svd@main is org/svd@{'f' * 40}, not {pinned}."
    shutil.rmtree(hub_cache)
    with pytest.raises(BadModel, match=f"`hf download org/svd --revision {COMMIT}` downloads it"):
        reproduce(ReproduceConfig(clip=alone, picture=picture))


def made_in(root: Path, asked: JobsConfig, pictures: Path, written: Format = "h264", trim: bool = False) -> Path:
    """The one clip made of a folder with one picture, below `root`."""
    jobs = read_jobs.fn(root, asked, pictures)
    samples = sample_jobs.fn(root, SampleConfig(), plan_all_batches(jobs, SampleConfig()))
    clips = decode_jobs.fn(root, DecodeConfig(), pair_samples(jobs, samples))
    (video,) = encode_jobs.fn(root, EncodeConfig(format=written, trim=trim), pair_measured(jobs, samples, clips))
    collect_outputs.fn(root, jobs, samples, clips, [video])
    return root / read_rows(video)[0]["video"]


def test_another_model_and_another_picture_are_named(run: Path, tmp_path: Path, repository: Path):
    model = tmp_path / "model"
    shutil.copytree(repository / "models" / "tiny", model)
    config = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    (model / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {"sigma_max": 600.0}))
    Image.new("RGB", (40, 40)).save(tmp_path / "grey.png")
    outcome = reproduce(ReproduceConfig(clip=clip_of(run), model=str(model), picture=tmp_path / "grey.png"))
    assert [said.partition(":")[0] for said in outcome.differs] == ["model", "picture"]


@pytest.mark.parametrize("family", ["Wan", "no such family"])
def test_another_family_than_the_models_own_is_named(run: Path, family: str):
    odd = run / "videos" / "odd.mp4"
    write_untagged(clip_of(run), odd, read_provenance(clip_of(run)) | {"family": family})
    said = f"family: tiny is of Stable Video Diffusion, not of {family}."
    assert reproduce(ReproduceConfig(clip=odd)).differs == (said,)


def test_a_clip_is_made_again_at_the_rate_it_plays_at_and_an_older_one_at_that_of_the_model(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    rates: list[float] = []
    write = encode.write_clip
    monkeypatch.setattr(
        encode, "write_clip", lambda path, frames, fps, *rest: rates.append(fps) or write(path, frames, fps, *rest)
    )
    told = read_provenance(clip_of(run))
    assert (told["fps"], told["playback_fps"]) == (7.0, 7.0)
    older = {name: value for name, value in told.items() if name != "playback_fps"}
    for said in (told | {"playback_fps": 31.0}, older):
        write_untagged(clip_of(run), run / "videos" / "untagged.mp4", said)
        reproduce(ReproduceConfig(clip=run / "videos" / "untagged.mp4"))
    assert rates == [31.0, 7.0]


def test_another_version_of_the_step_is_named(run: Path):
    clip = clip_of(run)
    told = read_provenance(clip) | {"sample_version": 0}
    untagged = run / "videos" / "untagged.mp4"
    write_untagged(clip, untagged, told)
    assert reproduce(ReproduceConfig(clip=untagged)).differs[0].startswith("version: sampling is at version")


def write_untagged(clip: Path, path: Path, told: Mapping[str, object]) -> None:
    """The clip without its tag, and what is told of it beside it."""
    path.write_bytes(clip.read_bytes().replace(b"reelmill", b"rialtmil"))
    path.with_suffix(".json").write_text(json.dumps(told))


def test_a_clip_that_lost_its_tag_is_made_from_the_file_beside_it(run: Path):
    untagged = run / "videos" / "untagged.mp4"
    write_untagged(clip_of(run), untagged, read_provenance(clip_of(run)))
    assert reproduce(ReproduceConfig(clip=untagged)).differs == ()
    untagged.with_suffix(".json").unlink()
    with pytest.raises(BadMedia, match="does not say how it was made"):
        read_provenance(untagged)


@pytest.mark.slow
@pytest.mark.parametrize("written", ["hevc", "webp", "gif", "png"])
def test_a_clip_of_any_format_padded_and_trimmed_comes_out_identical(tmp_path: Path, written: Format):
    torch.set_num_threads(1)
    root, picture = tmp_path / "out", tmp_path / "in" / "my.picture.png"
    picture.parent.mkdir()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(picture)
    asked = JobsConfig(steps=1, frames=3, width=32, height=32, fit="pad", background="black", motion_strength=0.2)
    clip = made_in(root, asked, picture.parent, written, trim=True)
    assert reproduce(ReproduceConfig(clip=clip)).differs == ()
    assert reproduce(ReproduceConfig(clip=clip, picture=picture)).differs == ()
    if written == "png":
        first = clip / "0001.png"
        Image.fromarray(np.asarray(Image.open(first))).save(first)
        assert reproduce(ReproduceConfig(clip=first)).differs == (), "the file beside it tells"


@pytest.mark.parametrize(
    "change",
    [
        {"steps": "many"}, {"steps": 0}, {"take": None}, {"crf": "high"}, {"batch": 5}, {"format": "mov"},
        {"width": -5}, {"seed": [1]}, {"dtype": "int8"}, {"trim": None}, {"fit": "zoom"},
        {"playback_fps": 0},
    ],
)  # fmt: skip
def test_what_a_clip_says_of_itself_and_cannot_be_is_named(run: Path, change: dict[str, object]):
    odd = run / "videos" / "odd.mp4"
    write_untagged(clip_of(run), odd, read_provenance(clip_of(run)) | change)
    with pytest.raises(BadMedia, match=f"does not say a usable {next(iter(change))}: "):
        read_provenance(odd)


def test_another_encoder_than_the_clip_was_made_with_is_named(run: Path):
    clip = clip_of(run)
    untagged = run / "videos" / "untagged.mp4"
    write_untagged(clip, untagged, read_provenance(clip) | {"encoder": "libopenh264"})
    said = "encoder: this ffmpeg encodes h264 by libx264, not by libopenh264."
    assert reproduce(ReproduceConfig(clip=untagged)).differs == (said,)


def test_a_clip_taken_out_of_its_folder_needs_its_picture_and_its_lora(run: Path, tmp_path: Path):
    alone = Path(shutil.copy(clip_of(run), tmp_path / "alone.mp4"))
    with pytest.raises(BadInput, match=r"was made with the LoRA pan\.safetensors; say where it is with --lora"):
        reproduce(ReproduceConfig(clip=alone))
    with pytest.raises(BadInput, match=r"was made from a\.png; say where it is with --picture"):
        reproduce(ReproduceConfig(clip=alone, lora=tmp_path / "pan.safetensors"))
    given = ReproduceConfig(clip=alone, lora=tmp_path / "pan.safetensors", picture=run / "a.png")
    for said in reproduce(given).differs:
        assert "it was sampled in a batch of 3, of which the others are not here" in said


def test_a_prepared_picture_that_was_painted_over_is_named(run: Path):
    clip = clip_of(run)
    row = next(row for row in read_rows(run / "outputs.parquet") if row["name"] == "a")
    Image.new("RGB", (32, 32)).save(run / row["picture"])
    assert reproduce(ReproduceConfig(clip=clip)).differs[0].startswith("picture: ")


def test_frames_that_were_changed_are_told_from_latents_that_were_not(run: Path):
    clip, other = clip_of(run, "a"), clip_of(run, "b")
    told = read_provenance(clip)
    mixed = run / "videos" / "mixed.mp4"
    write_untagged(other, mixed, told)
    (said,) = reproduce(ReproduceConfig(clip=mixed)).differs
    assert said.startswith("frames: the latents are identical. The frames agree to ")


def test_a_flipped_byte_that_no_frame_shows_is_found_by_the_ledger(run: Path):
    mark(run, "generate", "1")
    clip = clip_of(run)
    record(clip, clip)
    content = bytearray(clip.read_bytes())
    content[content.index(b"Reelmill") if b"Reelmill" in content else -1] ^= 1
    clip.write_bytes(content)
    said = f"file: {clip} has other bytes than were written."
    assert list_damaged(clip) == check(ReproduceConfig(clip=clip))[:1] == [said]
    outcome = reproduce(ReproduceConfig(clip=clip))
    assert (outcome.failed, outcome.differs) == (1, (said,))


def test_distance_of_clips():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert distance_db(black, black) == float("inf")
    assert distance_db(black, black[:1]) == 0.0
    assert distance_db(black, black + np.uint8(255)) == pytest.approx(0.0)


def test_the_distance_of_equal_clips_is_told_without_a_number():
    assert describe_distance(float("inf")) == "Every frame is the same."
    assert describe_distance(31.42) == "The frames agree to 31.4 dB."


def test_a_clip_away_from_its_folder_needs_a_model_of_this_machine_to_be_named(tmp_path: Path):
    facts = {"model": "mine", "model_revision": "0" * 64}
    config = ReproduceConfig(clip=tmp_path / "a.mp4")
    with pytest.raises(BadInput, match=r"a\.mp4: was made with the model mine; say where it is with --model\."):
        choose_model(config, facts, {})
    assert choose_model(config, facts, {"model": "/models/mine"}) == "/models/mine"
    assert choose_model(config.model_copy(update={"model": "/other"}), facts, {"model": "/models/mine"}) == "/other"
    assert choose_model(config, facts | {"model": "tiny"}, {}) == "tiny"


def test_what_a_clip_was_not_made_from_is_not_to_be_given(tmp_path: Path):
    config = ReproduceConfig(clip=tmp_path / "a.mp4", lora=tmp_path / "l.safetensors", picture=tmp_path / "gone.png")
    with pytest.raises(BadInput, match=r"a\.mp4: was made without a LoRA; leave out --lora\."):
        choose_lora(config, {"lora_sha256": None}, {})
    with pytest.raises(BadInput, match=r"a\.mp4: was made from a text alone; leave out --picture\."):
        choose_picture(config, {"picture_sha256": None}, {})
    with pytest.raises(BadInput, match=r"gone\.png: no such file\."):
        choose_picture(config, {"picture_sha256": "0" * 64}, {})
    nothing = ReproduceConfig(clip=tmp_path / "a.mp4")
    assert choose_lora(nothing, {"lora_sha256": None}, {}) is None
    assert choose_picture(nothing, {"picture_sha256": None}, {}) is None


@pytest.mark.parametrize("name", ["latents_sha256", "batch", "dtype"])
def test_a_clip_that_lacks_a_fact_says_which(run: Path, name: str):
    odd = run / "videos" / "odd.mp4"
    write_untagged(clip_of(run), odd, read_provenance(clip_of(run)) | {name: None})
    with pytest.raises(BadMedia, match=rf"odd\.mp4: does not say its {name}, so it cannot be made again\."):
        read_provenance(odd)


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(ReproduceConfig) == {
        "": "frozen=True, extra='forbid'",
        "clip": "required",
        "model": "None",
        "lora": "None",
        "picture": "None",
        "device": "'auto'",
    }
