"""Pictures are drawn from texts once, kept by what decides them, and a job without its picture says why."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.families.family import Request
from models.families.placement import list_networks
from models.generation import by_family
from models.generation.model_cache import lent_drawer
from tasks.generate import draw
from tasks.generate.draw import (
    STEP,
    DrawConfig,
    add_drawn_pictures,
    draw_pictures,
    list_pictures_to_draw,
    make_drawing,
    name_of,
)
from tasks.generate.job_settings import JobsConfig
from tasks.generate.jobs import SCHEMA, read_jobs
from tasks.manifest import ManifestRef, read_manifest, read_rows
from tests.declared import declared
from tests.small_families import drawing_pipeline, drawing_xl_pipeline, save

CONFIG = DrawConfig(steps=1)

# diffusers' scheduler of SDXL hands a tensor to numpy in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def drawer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(drawing_pipeline, tmp_path_factory.mktemp("drawer") / "model")


def jobs_of(folder: Path, model: str, drawer: Path, *rows: dict[str, Any], **settings: Any) -> ManifestRef:
    (folder / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = JobsConfig(model=model, picture_model=str(drawer), frames=3, **settings)
    return read_jobs.fn(folder / "out", config, folder / "jobs.jsonl")


@pytest.mark.slow
def test_a_picture_is_drawn_once_for_all_takes_and_jobs_that_share_it(tmp_path, model, drawer):
    rows = ({"prompt": "a ball"}, {"prompt": "a ball", "motion_bucket": 9}, {"prompt": "a cube"})
    jobs, root = jobs_of(tmp_path, model, drawer, *rows, takes=2), tmp_path / "out"
    asks = list_pictures_to_draw(CONFIG, jobs)
    drawn = draw_pictures.fn(root, CONFIG, asks)
    assert [ref.cached for ref in drawn] == [False, False]
    assert [ref.cached for ref in draw_pictures.fn(root, CONFIG, asks)] == [True, True]
    made = add_drawn_pictures.fn(root, CONFIG, jobs, drawn)
    assert read_manifest(made).schema == SCHEMA
    pictures = [row["picture"] for row in read_rows(made)]
    assert pictures[0] == pictures[1] == pictures[2] == pictures[3] != pictures[4] == pictures[5]
    for row in read_rows(made):
        with Image.open(root / row["picture"]) as picture:
            assert picture.size == (32, 32)
            assert row["picture_sha256"] == hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()
    assert [row["item_key"] for row in read_rows(made)] == [row["item_key"] for row in read_rows(jobs)]


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"seed": 1}, {"key": "other"}, {"negative_prompt": "x"}, {"width": 40}])
def test_what_decides_a_picture_makes_another_one(tmp_path, model, drawer, change):
    jobs = jobs_of(tmp_path, model, drawer, {"prompt": "a ball"}, {"prompt": "a ball"} | change)
    refs = draw_pictures.fn(tmp_path / "out", CONFIG, list_pictures_to_draw(CONFIG, jobs))
    assert len({row["picture_sha256"] for ref in refs for row in read_rows(ref)}) == 2
    assert len(list_pictures_to_draw(CONFIG.model_copy(update={"guidance": 2.0}), jobs)) == 2


def test_a_picture_that_cannot_be_drawn_is_its_jobs_failure_and_is_tried_again(tmp_path, model, drawer):
    own, root = Path(shutil.copytree(drawer, tmp_path / "own")), tmp_path / "out"
    jobs = jobs_of(tmp_path, model, own, {"prompt": "a ball"})
    (own / "unet" / "config.json").write_text("{}")
    for attempt in (1, 2):
        drawn = draw_pictures.fn(root, CONFIG, list_pictures_to_draw(CONFIG, jobs))
        (row,) = read_rows(add_drawn_pictures.fn(root, CONFIG, jobs, drawn))
        assert (row["status"], row["error_code"], row["attempt"]) == ("failed", "bad_model", attempt)
        assert row["error_message"].startswith("a-ball: ")
        assert row["picture"] is None


def test_a_job_whose_picture_is_not_drawn_yet_waits_and_one_that_has_its_own_is_ready(tmp_path, model, drawer):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    own = {"image": "a.png", "prompt": "a ball", "picture_model": "sd"}
    jobs = jobs_of(tmp_path, model, drawer, {"prompt": "a ball"}, own)
    waiting, ready = read_rows(add_drawn_pictures.fn(tmp_path / "out", CONFIG, jobs, []))
    assert (waiting["status"], waiting["error_code"]) == ("waiting", "not_started")
    assert (ready["status"], ready["prompt"]) == ("ready", None)
    assert ready["ignored"] == [
        "picture_model: the picture given is used.",
        "prompt: Stable Video Diffusion does not take it.",
    ]


def test_a_model_that_draws_no_pictures_is_named_in_the_jobs_row(tmp_path, model):
    (row,) = read_rows(jobs_of(tmp_path, model, Path(model), {"prompt": "a ball"}))
    assert row["error_code"] == "bad_model"
    assert "StableVideoDiffusionPipeline, which cannot draw pictures here" in row["error_message"]


@pytest.fixture(scope="module", params=[drawing_pipeline, drawing_xl_pipeline])
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(request.param, tmp_path_factory.mktemp("known") / "model")


def drawn_row(root: Path, jobs: ManifestRef, config: DrawConfig = CONFIG) -> dict[str, Any]:
    (ref,) = draw_pictures.fn(root, config, list_pictures_to_draw(config, jobs))
    return read_rows(ref)[0]


def pixels(root: Path, row: dict[str, Any]) -> np.ndarray:
    with Image.open(root / row["picture"]) as picture:
        return np.asarray(picture).astype(int)


def traces(job: dict[str, Any]) -> set[str]:
    """What hooks have left on the model that draws."""
    with lent_drawer(job["picture_model"], job["picture_model_revision"]) as pipeline:
        modules = [module for part in list_networks(pipeline).values() for module in part.modules()]
    return {name for module in modules for name in {"forward", "_hf_hook", "_diffusers_hook"} & set(vars(module))}


@pytest.fixture
def left(tmp_path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures there were each time that the models which draw were sent off the device."""
    seen: list[int] = []
    monkeypatch.setattr(draw, "unload_drawers", lambda: seen.append(len(list(tmp_path.glob("out/pictures/drawn-*")))))
    return seen


@pytest.mark.slow
def test_with_room_pictures_are_drawn_on_the_device_and_then_their_model_leaves_it(tmp_path, model, known, gpu, left):
    jobs = jobs_of(tmp_path, model, known, {"prompt": "a ball"}, {"prompt": "a cube"})
    for ref in draw_pictures.fn(tmp_path / "out", CONFIG, list_pictures_to_draw(CONFIG, jobs)):
        (row,) = read_rows(ref)
        assert (row["error_code"], row["plan"], row["too_large"], row["device"]) == (None, "batch 1", [], "cpu")
    assert left == [2]


@pytest.mark.slow
def test_out_of_memory_a_picture_is_drawn_a_rung_lower_and_is_the_same(tmp_path, model, known, request):
    jobs = jobs_of(tmp_path, model, known, {"prompt": "a ball"})
    whole = drawn_row(tmp_path / "out", jobs)
    request.getfixturevalue("small_gpu")
    lower = drawn_row(tmp_path / "lower", jobs)
    assert whole["drawing"] == lower["drawing"]
    assert lower["plan"] == "batch 1, feed-forward in pieces of 4096 tokens, denoiser moved in groups of blocks"
    assert lower["too_large"] == [
        "batch 1",
        "batch 1, feed-forward in pieces of 16384 tokens",
        "batch 1, feed-forward in pieces of 16384 tokens, parts moved in turn",
        "batch 1, feed-forward in pieces of 4096 tokens, parts moved in turn",
    ]
    assert np.abs(pixels(tmp_path / "lower", lower) - pixels(tmp_path / "out", whole)).max() <= 1
    assert traces(read_rows(jobs)[0]) == set()


def test_a_picture_that_fits_nowhere_is_a_row_and_its_model_leaves_the_gpu(
    tmp_path, model, drawer, gpu, left, monkeypatch
):
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(by_family, "prepare_decoding", full)
    jobs = jobs_of(tmp_path, model, drawer, {"prompt": "a ball"})
    row = drawn_row(tmp_path / "out", jobs)
    assert (row["error_code"], row["picture"]) == ("out_of_memory", None)
    assert row["error_message"].startswith("a-ball: drawing ran out of memory, however little it took at a time")
    assert left == [0]


def test_the_precision_makes_another_picture_and_the_device_does_not(tmp_path, model, drawer, monkeypatch):
    jobs = jobs_of(tmp_path, model, drawer, {"prompt": "a ball"})
    (job,) = read_rows(jobs)
    configs = {dtype: CONFIG.model_copy(update={"dtype": dtype}) for dtype in ("auto", "float32", "float16")}
    names = {dtype: name_of(config, job) for dtype, config in configs.items()}
    assert names["auto"] == names["float32"] != names["float16"]
    full, half = (pixels(tmp_path / "out", drawn_row(tmp_path / "out", jobs, configs[d])) for d in ("auto", "float16"))
    assert 0 < np.abs(half - full).max() <= 8
    monkeypatch.setattr(draw, "find_device", lambda name: torch.device("cuda", int(name[-1])))
    GPUs = [CONFIG.model_copy(update={"device": f"cuda:{number}"}) for number in (0, 1)]
    assert [make_drawing(config, job).dtype for config in GPUs] == ["float16", "float16"]
    assert [name_of(config, job) for config in GPUs] == [names["float16"]] * 2


def test_a_picture_is_drawn_as_its_settings_and_its_job_say(tmp_path, model, drawer, monkeypatch):
    """What `draw_picture` hands on: whatever is lost on the way would be drawn by the model's own default."""
    asked: list[Request] = []

    def drawn(model: str, revision: str, request: Request, *where: Any) -> Any:
        asked.append(request)
        return by_family.draw_picture(model, revision, request, *where)

    monkeypatch.setattr(draw, "by_family", SimpleNamespace(draw_picture=drawn))
    row = {"prompt": "a ball", "negative_prompt": "x", "key": "k", "seed": 3, "width": 40, "height": 24}
    drawn_row(tmp_path / "out", jobs_of(tmp_path, model, drawer, row), DrawConfig(steps=2, guidance=1.5))
    assert asked == [
        Request(
            seed=3, item_key="k", frames=1, width=40, height=24, prompt="a ball", negative="x", steps=2, guidance=1.5
        )
    ]


def test_a_drawn_picture_that_was_deleted_or_cut_short_is_drawn_again(tmp_path, model, drawer):
    jobs, root = jobs_of(tmp_path, model, drawer, {"prompt": "a ball"}), tmp_path / "out"
    picture = root / drawn_row(root, jobs)["picture"]
    whole = picture.read_bytes()

    def drawn_again() -> bool:
        (ref,) = draw_pictures.fn(root, CONFIG, list_pictures_to_draw(CONFIG, jobs))
        return not ref.cached and picture.read_bytes() == whole

    assert not drawn_again()
    picture.unlink()
    assert drawn_again()
    picture.write_bytes(whole[:50])
    assert drawn_again()


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(DrawConfig) == {
        "": "frozen=True, extra='forbid'",
        "steps": "50, ge=1, le=1000",
        "guidance": "None, ge=0, le=100",
        "dtype": "'auto'",
        "device": "None",
    }


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert draw_pictures.name == "draw"
    assert add_drawn_pictures.name == "jobs with drawn pictures"
    assert STEP.files == ("picture",)
