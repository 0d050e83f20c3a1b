"""Wherever a pipeline's weights wait and in whatever precision they are, its clips are its own, and it is as it was.

The CPU by its number, cpu:0, stands for a GPU: to torch it is another device, to which weights are copied.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoPipeline,
    LTXPipeline,
    WanImageToVideoPipeline,
    WanPipeline,
)
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from models.device import CPU
from models.families import animatediff, cogvideox, framepack, hunyuanvideo, ltx, text_to_picture, wan
from models.families.family import Family, MotionLora, Request, generate
from models.families.latents import list_denoisers
from models.families.placement import (
    choose_first_plan,
    list_decoding_plans,
    list_networks,
    prepare_decoding,
    prepare_sampling,
    weight_bytes,
)
from models.memory.plan import Plan
from tests.small_families import (
    cogvideox_parts,
    drawing_pipeline,
    drawing_xl_pipeline,
    framepack_parts,
    hunyuan_parts,
    ltx_parts,
    motion_adapter,
    wan_parts,
)

GPU = torch.device("cpu", 0)

RUNGS = [Plan(offload="parts"), Plan(offload="groups"), Plan(offload="groups", feed_forward=3)]


def animatediff_pipeline() -> AnimateDiffPipeline:
    parts = dict(drawing_pipeline().components)
    parts.pop("safety_checker")
    return AnimateDiffPipeline(**parts, motion_adapter=motion_adapter())


LEARNED = {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True}

MODELS: dict[str, tuple[Family, Callable[[], Any], int, bool]] = {
    "AnimateDiff": (animatediff, animatediff_pipeline, 4, False),
    "CogVideoX": (cogvideox, lambda: CogVideoXPipeline(**cogvideox_parts()), 9, False),
    "CogVideoX, picture": (
        cogvideox, lambda: CogVideoXImageToVideoPipeline(**cogvideox_parts(in_channels=8, **LEARNED)), 9, True
    ),
    "FramePack": (framepack, lambda: HunyuanVideoFramepackPipeline(**framepack_parts()), 37, True),
    "HunyuanVideo": (hunyuanvideo, lambda: HunyuanVideoPipeline(**hunyuan_parts()), 5, False),
    "LTX": (ltx, lambda: LTXPipeline(**ltx_parts()), 9, False),
    "LTX, picture": (ltx, lambda: LTXPipeline(**ltx_parts()), 9, True),
    "Wan": (wan, lambda: WanPipeline(**wan_parts(in_channels=16)), 5, False),
    "Wan, picture": (wan, lambda: WanImageToVideoPipeline(**wan_parts(in_channels=36)), 5, True),
}  # fmt: skip
"""A family, how a small model of it is made, the frames of a clip, and whether it has a picture."""


@pytest.fixture(scope="module", params=MODELS)
def known(request: pytest.FixtureRequest, save: Any) -> tuple[Family, Path, int, bool]:
    family, make, frames, has_picture = MODELS[request.param]
    return family, save(make, request.param), frames, has_picture


@pytest.fixture
def item(known: tuple[Family, Path, int, bool], asked: Request, ramp: NDArray[np.uint8]) -> Request:
    return replace(asked, frames=known[2], picture=ramp if known[3] else None)


def traces(pipeline: Any) -> set[str]:
    """Attributes that hooks leave on modules, and hooks of torch's own.

    Some pipelines put an empty registry of hooks on their transformer by themselves.
    """
    own = {"forward", "_old_forward", "_hf_hook", "encode"}
    modules = [module for part in list_networks(pipeline).values() for module in part.modules()]
    left = {name for module in modules for name in own & set(vars(module))}
    left |= {name for m in modules if "_diffusers_hook" in vars(m) for name in vars(m)["_diffusers_hook"].hooks}
    return left | {str(hook) for module in modules for hook in module._forward_pre_hooks}


@pytest.mark.slow
def test_every_rung_gives_the_same_latents_and_leaves_no_trace(known: Any, item: Request) -> None:
    family, folder, *_ = known
    pipeline = family.load(folder)
    whole = family.sample(pipeline, item)
    for plan in (*RUNGS, Plan()):
        with prepare_sampling(pipeline, GPU, plan):
            made = family.sample(pipeline, item)
            assert bool(traces(pipeline)) == (plan != Plan())
        # Not the same bits: a weight that was copied lies at another address, and is added up in another order.
        assert (made - whole).abs().max() < 1e-4 * whole.abs().max()
        assert traces(pipeline) == set()


@pytest.mark.slow
# diffusers' scheduler of SDXL hands a tensor to numpy in an old way.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("make", [drawing_pipeline, drawing_xl_pipeline])
def test_every_rung_draws_the_same_picture_and_leaves_no_trace(make: Any, save: Any, asked: Request) -> None:
    pipeline = text_to_picture.load(save(make, f"{make.__name__} on a GPU"))
    whole = text_to_picture.sample(pipeline, asked)
    picture = text_to_picture.decode(pipeline, whole, asked).astype(int)
    for plan in (*RUNGS, Plan()):
        with prepare_sampling(pipeline, GPU, plan):
            made = text_to_picture.sample(pipeline, asked)
            assert bool(traces(pipeline)) == (plan != Plan())
        assert (made - whole).abs().max() < 1e-4 * whole.abs().max()
        assert traces(pipeline) == set()
        for way in list_decoding_plans(pipeline, GPU):
            prepare_decoding(pipeline, GPU, way)
            assert np.abs(text_to_picture.decode(pipeline, made, asked) - picture).max() <= 1


@pytest.mark.slow
def test_in_bfloat16_a_clip_is_about_the_same_and_its_autoencoder_works_in_float32(known: Any, item: Request) -> None:
    family, folder, *_ = known
    full, half = family.load(folder), family.load(folder, "bfloat16")
    assert half.vae.dtype == torch.float32
    assert {network.dtype for network in list_denoisers(half)} == {torch.bfloat16}
    whole, made = family.sample(full, item), family.sample(half, item)
    assert made.dtype == torch.float32
    assert 0 < (made - whole).abs().mean() < 0.1 * whole.std()
    assert np.array_equal(family.decode(half, whole, item), family.decode(full, whole, item))


@pytest.mark.slow
def test_decoded_on_the_device_alone_there_or_on_the_cpu_a_clip_is_the_same(known: Any, item: Request) -> None:
    family, folder, *_ = known
    pipeline = family.load(folder)
    latents = family.sample(pipeline, item)
    frames = family.decode(pipeline, latents, item)
    for plan in (Plan(), Plan(offload="parts"), Plan(offload="parts", on_cpu=True)):
        prepare_decoding(pipeline, GPU, plan)
        assert np.array_equal(family.decode(pipeline, latents, item), frames)


def test_a_fault_in_the_block_leaves_no_trace(save: Any) -> None:
    pipeline = wan.load(save(lambda: WanPipeline(**wan_parts(in_channels=16)), "fault"))
    for plan in RUNGS:
        with pytest.raises(RuntimeError, match="fault"), prepare_sampling(pipeline, GPU, plan):
            raise RuntimeError("fault")
        assert traces(pipeline) == set()


@pytest.mark.slow
def test_a_motion_lora_works_on_weights_that_wait_in_host_memory(save: Any, asked: Request, tmp_path: Path) -> None:
    pipeline = animatediff.load(save(animatediff_pipeline, "moving"))
    torch.manual_seed(3)
    targets = r"down_blocks\.0\.motion_modules.*\.to_[qkv]"
    pipeline.unet.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=targets))
    weights = {f"unet.{n}": w.contiguous() for n, w in get_peft_model_state_dict(pipeline.unet).items()}
    save_file(weights, tmp_path / "pan.safetensors")
    pipeline.unload_lora_weights()
    plain, moving = asked, replace(asked, motion=(MotionLora(tmp_path / "pan.safetensors", 4.0),))
    whole = generate(animatediff, pipeline, moving).astype(int)
    for plan in RUNGS:
        with animatediff.steered(pipeline, moving), prepare_sampling(pipeline, GPU, plan):
            latents = animatediff.sample(pipeline, moving)
        assert np.abs(animatediff.decode(pipeline, latents, moving) - whole).max() <= 1
    assert np.abs(generate(animatediff, pipeline, plain) - whole).max() > 2


def test_what_wan_needs_in_float32_stays_so(save: Any) -> None:
    """Its published weights lose too much there in half precision; diffusers knows which."""
    pipeline = wan.load(save(lambda: WanPipeline(**wan_parts(in_channels=16)), "kept"), "float16")
    precisions = {name: weight.dtype for name, weight in pipeline.transformer.named_parameters()}
    assert precisions["scale_shift_table"] == torch.float32
    assert precisions["blocks.0.attn1.to_q.weight"] == torch.float16


def test_the_weights_of_a_folder_are_counted_as_they_will_work(save: Any) -> None:
    folder = save(animatediff_pipeline, "counted")
    pipeline = animatediff.load(folder, "float16")
    own = {name: 2 * numbers(part) for name, part in list_networks(pipeline).items()}
    assert weight_bytes(folder, "float16") == own | {"vae": 2 * own["vae"]}
    assert "motion_adapter" not in own


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (Plan(), [("vae", GPU)]),
        (Plan(offload="parts"), [("text_encoder, transformer", CPU), ("vae", GPU)]),
        (Plan(offload="parts", on_cpu=True), [("text_encoder, transformer", CPU), ("vae", CPU)]),
    ],
)
def test_with_an_offload_the_other_networks_make_room_before_the_autoencoder_comes(
    save: Any, monkeypatch: pytest.MonkeyPatch, plan: Plan, told: list[tuple[str, torch.device]]
) -> None:
    """Followed by what is told to move: on the CPU nothing moves."""
    pipeline = ltx.load(save(lambda: LTXPipeline(**ltx_parts()), "room"))
    names = {id(part): name for name, part in list_networks(pipeline).items()}
    moved: list[tuple[str, torch.device]] = []
    monkeypatch.setattr(
        "models.families.placement.move",
        lambda parts, device: moved.append((", ".join(sorted(names[id(part)] for part in parts)), device)),
    )
    prepare_decoding(pipeline, GPU, plan)
    assert moved == told


def numbers(part: nn.Module) -> int:
    return sum(weight.numel() for weight in part.state_dict().values())


@pytest.mark.parametrize(
    ("free", "offload", "tokens"),
    [(101, "none", None), (99, "parts", 16384), (63, "parts", 16384), (61, "groups", 4096)],
)
def test_a_plan_begins_where_the_weights_fit(free: int, offload: str, tokens: int | None) -> None:
    weights = {"text_encoder": 25, "transformer": 50, "vae": 5}
    plan = choose_first_plan(weights, free, GPU)
    assert (plan.offload, plan.feed_forward) == (offload, tokens)
    assert choose_first_plan(weights, 0, CPU) == Plan()


def test_decoding_goes_to_the_cpu_last_and_alone_on_a_device_only_where_it_was_not(save: Any) -> None:
    pipeline = ltx.load(save(lambda: LTXPipeline(**ltx_parts()), "decoding"))
    assert list_decoding_plans(pipeline, CPU) == [Plan()]
    assert [str(plan) for plan in list_decoding_plans(pipeline, GPU)] == ["batch 1", "decoded on the CPU"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.families.placement.count_placed_bytes", lambda *_: 1)
        middle = list_decoding_plans(pipeline, GPU)[1:-1]
    assert middle == [Plan(offload="parts")]
