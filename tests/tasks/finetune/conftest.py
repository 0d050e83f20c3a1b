"""A small dataset as training meets it: rendered films, and the tables that name their clips."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
import torch

from tasks.finetune.encode import ClipSpan, LatentsConfig, SourceClips, encode_source
from tasks.footage import Camera, Motion, Scene, compute_mean_flow, render_shot
from tasks.manifest import Lineage, ManifestRef, digest_file, make_table, write_manifest
from tasks.media.video import write_video
from tests.small_svd import CLIPS

cv2.setNumThreads(1)
torch.set_num_threads(1)

FPS = 7.0

Films = Callable[..., SourceClips]


@dataclass(frozen=True)
class Trainable:
    """An encoded dataset: its folder, its latents' manifests, its clips.parquet, and the model that encoded it."""

    root: Path
    encoded: list[ManifestRef]
    clips: ManifestRef
    base: str


@pytest.fixture(scope="session")
def films(model: str) -> Films:
    """Renders a film of two seconds, and names spans of it as clips."""

    def film(
        folder: Path, seed: int = 0, motion: Motion = "pan_left", spans: tuple[tuple[float, float], ...] = ((0.0, 2.0),)
    ) -> SourceClips:
        path = folder / f"{motion}-{seed}.mp4"
        write_video(path, render_shot(Scene(seed, movers=0), Camera.doing(motion), 14, FPS, (48, 36)), FPS, crf=10)
        clips = tuple(ClipSpan(f"{path.stem}-{number}", *span) for number, span in enumerate(spans))
        return SourceClips(path, digest_file(path), clips, model)

    return film


@pytest.fixture(scope="session")
def trainable(tmp_path_factory: pytest.TempPathFactory, films: Films, model: str) -> Trainable:
    """Four films that pan to the left, two still ones and one that pans to the right, encoded."""
    root = tmp_path_factory.mktemp("films")
    motions: list[Motion] = ["pan_left", "pan_left", "pan_left", "pan_left", "static", "static", "pan_right"]
    shown: list[tuple[Motion, int]] = [(motion, seed) for seed, motion in enumerate(motions)]
    sources = [films(root, seed, motion) for motion, seed in shown]
    encoded = [made for source in sources for made in encode_source(root, LatentsConfig(), source)]
    rows = [
        {
            "clip_id": clip.clip_id,
            "video_id": source.digest[:16],
            "camera_motion": motion,
            "motion_score": compute_mean_flow(motion, 0.4),
            "keep": True,
        }
        for source, motion in zip(sources, motions, strict=True)
        for clip in source.clips
    ]
    clips = write_manifest(root / "clips.parquet", make_table(rows, CLIPS), Lineage(step="select", version=1))
    return Trainable(root, encoded, clips, model)
