from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.errors import BadModel
from models.measures.clip_similarity import ClipModel, load_clip, score_aesthetics
from tests.small_models import save_clip, save_head, save_image_captioner

FRAMES = np.random.default_rng(0).integers(0, 255, (3, 36, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipModel:
    return load_clip(save_clip(tmp_path_factory.mktemp("clip")))


def test_embeddings_have_length_one(clip: ClipModel):
    images, texts = clip.embed(list(FRAMES), ["a dog runs", "the beach"])
    assert (images.shape, texts.shape) == ((3, 8), (2, 8))
    assert np.linalg.norm(images, axis=1) == pytest.approx(np.ones(3))
    assert np.linalg.norm(texts, axis=1) == pytest.approx(np.ones(2))


def test_embeddings_are_those_of_the_networks_own_functions(clip: ClipModel):
    images, texts = clip.embed(list(FRAMES[:1]), ["a dog"])
    with torch.no_grad():
        pixels = clip.pictures(images=list(FRAMES[:1]), return_tensors="pt")["pixel_values"]
        seen = clip.network.visual_projection(clip.network.vision_model(pixel_values=pixels).pooler_output)[0]
        read = clip.network.text_model(input_ids=torch.tensor([[4, 5]])).pooler_output
        told = clip.network.text_projection(read)[0]
    assert images[0] == pytest.approx((seen / seen.norm()).numpy(), abs=1e-5)
    assert texts[0] == pytest.approx((told / told.norm()).numpy(), abs=1e-5)


def test_neighbours_in_the_forward_change_nothing(clip: ClipModel):
    images, texts = clip.embed(list(FRAMES), ["a dog", "the camera pans left on the beach"])
    for i, frame in enumerate(FRAMES):
        assert clip.embed([frame], [])[0][0] == pytest.approx(images[i], abs=1e-5)
    assert clip.embed([FRAMES[0]], ["a dog"])[1][0] == pytest.approx(texts[0], abs=1e-5)


def test_no_caption_has_no_embedding(clip: ClipModel):
    assert clip.embed([FRAMES[0]], [])[1].shape == (0, 8)


def test_a_caption_is_read_as_far_as_the_networks_text_goes(clip: ClipModel):
    long = clip.embed([FRAMES[0]], ["a dog runs on the beach a dog runs on the beach"])[1]
    assert long == pytest.approx(clip.embed([FRAMES[0]], ["a dog runs on the beach a dog"])[1], abs=1e-5)


def test_a_model_that_was_replaced_is_loaded_again(tmp_path: Path):
    folder = save_clip(tmp_path / "clip")
    first = load_clip(folder)
    assert load_clip(folder) is first
    save_clip(folder, width=4)
    assert load_clip(folder).embed([FRAMES[0]], [])[0].shape == (1, 4)


def test_a_model_that_is_no_clip_is_refused(tmp_path: Path):
    with pytest.raises(BadModel, match=r"CLIP"):
        load_clip(save_image_captioner(tmp_path))


EMBEDDINGS = np.eye(8, dtype=np.float32)[:2]


def test_a_linear_head_scores_the_embedding(tmp_path: Path):
    scores = score_aesthetics(save_head(tmp_path / "head.safetensors", first=10.0, bias=5.0), EMBEDDINGS)
    assert scores.tolist() == [15.0, 5.0]


def test_a_head_of_many_layers_is_applied_in_the_order_of_their_numbers(tmp_path: Path):
    """Layer 10 comes after layer 2, and nothing lies between: a negative number passes."""
    layers = {
        "layers.10.weight": torch.tensor([[1.0, 1.0]]),
        "layers.10.bias": torch.tensor([1.0]),
        "layers.2.weight": torch.tensor([[-3.0] + [0.0] * 7, [0.0, 2.0] + [0.0] * 6]),
        "layers.2.bias": torch.tensor([0.0, 0.5]),
    }
    save_file(layers, tmp_path / "head.safetensors")
    assert score_aesthetics(tmp_path / "head.safetensors", EMBEDDINGS).tolist() == [-1.5, 3.5]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(1, 5), "bias": torch.zeros(1)}, "for embeddings of 5 numbers, CLIP gives 8"),
        ({"weight": torch.zeros(1, 8)}, "it has no bias"),
        ({"other": torch.zeros(1)}, "it has no weight"),
        ({"weight": torch.zeros(2, 8), "bias": torch.zeros(2)}, "do not end in one score"),
    ],
)
def test_what_is_no_head_for_this_clip_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str):
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(BadModel, match=message):
        score_aesthetics(tmp_path / "head.safetensors", EMBEDDINGS)
