"""The comparison page: the base and the kept weights, their errors, their measures and their clips."""

import base64
from pathlib import Path
from typing import Any

import pytest

from tasks.finetune.compare import NEEDS, choose_result, compare_bands, compare_measures, render_page, write_comparison
from tasks.finetune.train import SCHEMA
from tasks.manifest import Lineage, ManifestRef, make_table, publish_text, write_manifest

MEASURED = {
    "sharpness": 0.8, "colour": 4.0, "identity": 0.6, "flicker": 0.5, "frozen_share": 0.25, "first_colour": 3.25,
    "motion": 0.125, "true_motion": 0.5,
}  # fmt: skip


def judged(step: int, error: float, **more: Any) -> dict[str, Any]:
    bands = {f"right_{sigma}": error * n for n, sigma in enumerate(("0.5", "2", "8", "30"), start=1)}
    return {"step": step, "held_out": error, "copy": 0.75, "samples": f"step-{step:06d}"} | bands | MEASURED | more


def rows(**more: Any) -> list[dict[str, Any]]:
    return [
        judged(0, 0.5, **more),
        {"step": 10, "loss": 1.5},
        judged(20, 0.25, loss=1.25, kept=True, motion=0.375, **more),
        judged(30, 0.375, loss=1.0, **more),
    ]


def written(run: Path, every: list[dict[str, Any]]) -> ManifestRef:
    for folder in ("true", "step-000000", "step-000020", "step-000030"):
        for number in (0, 1):
            publish_text(run / "samples/key" / folder / f"{number}.mp4", f"{folder} {number}")
    lineage = Lineage(step="train", version=1, parameters={"parameters": "lora", "batch": 8})
    return write_manifest(run / "manifests/train/key.parquet", make_table(every, SCHEMA), lineage)


def data(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def full(row: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(NEEDS) | row


def test_the_kept_weights_are_the_result_and_else_the_last():
    every = [full(row) for row in rows()]
    assert choose_result(every)["step"] == 20
    assert choose_result([row | {"kept": False} for row in every])["step"] == 30


def test_figures_stand_beside_one_another():
    base, result = full(rows()[0]), full(rows()[2])
    assert [(row.name, row.base, row.result) for row in compare_bands(base, result)] == [
        ("0.5", 0.5, 0.25), ("2", 1.0, 0.5), ("8", 1.5, 0.75), ("30", 2.0, 1.0),
    ]  # fmt: skip
    motion = compare_measures(base, result)[0]
    assert (motion.base, motion.result, motion.aside) == (0.125, 0.375, "0.50 in the true clips")


def test_the_page_shows_the_clips_of_the_base_and_of_the_result(tmp_path: Path):
    path = write_comparison.fn(tmp_path, written(tmp_path, rows()))
    page = path.read_text()
    assert path == tmp_path / "report/index.html"
    for number in (0, 1):
        assert all(data(f"{folder} {number}") in page for folder in ("true", "step-000000", "step-000020"))
        assert data(f"step-000030 {number}") not in page
    assert "-50.0 %" in page
    assert "those of step 20" in page


@pytest.mark.parametrize("missing", ["held_out", "samples"])
def test_what_was_not_measured_is_said(tmp_path: Path, missing: str):
    bands = dict.fromkeys(("held_out", "right_0.5", "right_2", "right_8", "right_30"))
    none = bands if missing == "held_out" else dict.fromkeys(("samples", *MEASURED))
    page = render_page(tmp_path, written(tmp_path, [row | none if row["step"] != 10 else row for row in rows()]))
    said = {"held_out": "No source was held out", "samples": "No clip was generated"}
    assert said.pop(missing) in page
    assert not any(other in page for other in said.values())
