"""Image to video as a ComfyUI workflow, in the editor's format and the API's, for tests to change."""

import json
from pathlib import Path
from typing import Any

MODEL, CLIP, VAE, GUIDED, POSITIVE, NEGATIVE, LATENT, SAMPLES, IMAGES, PICTURE = range(1, 11)
"""The numbers of the editor's links, as `editor` draws them."""


def node(number: int, kind: str, widgets: Any = None, inputs: dict[str, int] | None = None, mode: int = 0) -> Any:
    links = [{"name": name, "type": "ANY", "link": link} for name, link in (inputs or {}).items()]
    return {"id": number, "type": kind, "mode": mode, "inputs": links, "widgets_values": widgets or []}


def editor(**changes: Any) -> dict[str, Any]:
    """Image to video as ComfyUI's editor saves it; `changes` replace nodes by their class."""
    nodes = {
        "ImageOnlyCheckpointLoader": node(15, "ImageOnlyCheckpointLoader", ["svd.safetensors"]),
        "LoadImage": node(23, "LoadImage", ["beach.png", "image"]),
        "VideoLinearCFGGuidance": node(14, "VideoLinearCFGGuidance", [1.5], {"model": MODEL}),
        "SVD_img2vid_Conditioning": node(
            12, "SVD_img2vid_Conditioning", [96, 64, 5, 90, 6, 0.25],
            {"clip_vision": CLIP, "init_image": PICTURE, "vae": VAE},
        ),
        "KSampler": node(
            3, "KSampler", [77, "randomize", 20, 2.5, "euler", "karras", 1],
            {"model": GUIDED, "positive": POSITIVE, "negative": NEGATIVE, "latent_image": LATENT},
        ),
        "VAEDecode": node(8, "VAEDecode", [], {"samples": SAMPLES, "vae": VAE}),
        "SaveAnimatedWEBP": node(10, "SaveAnimatedWEBP", ["night/run", 10, False, 85, "default"], {"images": IMAGES}),
    }  # fmt: skip
    links = [
        [MODEL, 15, 0, 14, 0, "MODEL"], [CLIP, 15, 1, 12, 0, "CLIP_VISION"], [VAE, 15, 2, 12, 2, "VAE"],
        [GUIDED, 14, 0, 3, 0, "MODEL"], [POSITIVE, 12, 0, 3, 1, "C"], [NEGATIVE, 12, 1, 3, 2, "C"],
        [LATENT, 12, 2, 3, 3, "LATENT"], [SAMPLES, 3, 0, 8, 0, "LATENT"], [IMAGES, 8, 0, 10, 0, "IMAGE"],
        [PICTURE, 23, 0, 12, 1, "IMAGE"],
    ]  # fmt: skip
    extra = changes.pop("links", [])
    return {"nodes": [*(nodes | changes).values()], "links": [*links, *extra], "version": 0.4}


def api() -> dict[str, Any]:
    """The same, as ComfyUI's server takes it."""
    return {
        "15": {"class_type": "ImageOnlyCheckpointLoader", "inputs": {"ckpt_name": "svd.safetensors"}},
        "23": {"class_type": "LoadImage", "inputs": {"image": "beach.png", "upload": "image"}},
        "14": {"class_type": "VideoLinearCFGGuidance", "inputs": {"min_cfg": 1.5, "model": ["15", 0]}},
        "12": {
            "class_type": "SVD_img2vid_Conditioning",
            "inputs": {
                "width": 96, "height": 64, "video_frames": 5, "motion_bucket_id": 90, "fps": 6,
                "augmentation_level": 0.25, "clip_vision": ["15", 1], "init_image": ["23", 0], "vae": ["15", 2],
            },
        },
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 77, "steps": 20, "cfg": 2.5, "sampler_name": "euler", "scheduler": "karras", "denoise": 1,
                "model": ["14", 0], "positive": ["12", 0], "negative": ["12", 1], "latent_image": ["12", 2],
            },
        },
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["15", 2]}},
        "10": {
            "class_type": "SaveAnimatedWEBP",
            "inputs": {
                "filename_prefix": "night/run", "fps": 10, "lossless": False, "quality": 85, "method": "default",
                "images": ["8", 0],
            },
        },
    }  # fmt: skip


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


VALUES = {
    "image": "beach.png", "width": 96, "height": 64, "frames": 5, "motion_bucket": 90, "noise_aug": 0.25, "fps": 7,
    "seed": 77, "steps": 20, "guidance_min": 1.5, "guidance_max": 2.5, "model": "svd.safetensors",
    "prefix": "night/run", "playback_fps": 10,
}  # fmt: skip
"""What it says of the job."""
