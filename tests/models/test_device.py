"""Devices and precisions by name, errors of memory, and sampling on a pretended GPU, where a mix-up is an error."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models.resnet import AlphaBlender
from pydantic import TypeAdapter, ValidationError
from torch._subclasses.fake_tensor import FakeTensorMode

from models import device as devices
from models.device import (
    CPU,
    AskedPrecision,
    DeviceName,
    choose_precision,
    empty_cache,
    explain_not_finite,
    find_device,
    format_device,
    get_dtype,
    measure_free_memory,
    watch_costs,
)
from models.errors import BadInput, is_out_of_memory
from models.svd import inference_unet
from models.svd.autoencoder import new_autoencoder
from models.svd.exact_decode import Room, decode_exactly
from models.svd.image_encoder import new_feature_extractor, new_image_encoder
from models.svd.model import ModelFacts, VideoModel
from models.svd.sampling import sample_latents
from tasks.tiny.encoders import make_scheduler
from tests.small_svd import make_small_unet

GPU = torch.device("cuda", 0)

SCHEDULER, EXTRACTOR = make_scheduler(), new_feature_extractor()


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors have shapes, precisions and devices but no values, and a GPU is there."""
    monkeypatch.setattr(inference_unet, "_read_temporal_share", lambda _: 0.5)
    with FakeTensorMode(), torch.no_grad():
        yield


def made_on_a_gpu(half: torch.dtype) -> VideoModel:
    try:
        torch.set_default_dtype(half)
        with GPU:
            unet, encoder = make_small_unet(), new_image_encoder()
        torch.set_default_dtype(torch.float32)
        with GPU:
            vae = new_autoencoder((32, 32, 32))
            for blender in (module for module in vae.modules() if isinstance(module, AlphaBlender)):
                # Made by a constructor that knows of no device.
                blender.mix_factor = torch.nn.Parameter(torch.zeros(1))
    finally:
        torch.set_default_dtype(torch.float32)
    facts = ModelFacts(frames=4, width=32, height=32)
    words = {"pan_left": torch.zeros(64)}
    parts = {"unet": unet, "vae": vae, "image_encoder": encoder, "scheduler": SCHEDULER}
    rest = {"feature_extractor": EXTRACTOR, "words": words, "revision": "", "device": GPU}
    return VideoModel(**parts, facts=facts, **rest)


@pytest.mark.slow
@pytest.mark.parametrize("half", [torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("frames", "motion", "together"), [(4, None, False), (4, "pan_left", True), (5, None, True), (5, "pan_left", False)]
)
def test_on_a_gpu_all_that_meets_lies_there_and_latents_come_back(pretended_gpu, half, frames, motion, together):
    model = made_on_a_gpu(half)
    picture, noise = torch.zeros(1, 3, 32, 32), torch.zeros(1, frames, 4, 8, 8)
    made = sample_latents(model, picture, noise, picture, [motion], steps=2, guidance_together=together)
    assert (made.device, made.dtype, made.shape) == (CPU, torch.float32, noise.shape)


@pytest.mark.slow
def test_on_a_gpu_a_clip_is_decoded_in_strips(pretended_gpu):
    model = made_on_a_gpu(torch.float16)
    frames = decode_exactly(model.vae, torch.zeros(4, 4, 8, 8, device=GPU), Room(2**20))
    assert (frames.device, frames.shape) == (CPU, (4, 3, 32, 32))


@pytest.mark.slow
def test_a_mix_up_of_devices_is_an_error_on_the_pretended_gpu(pretended_gpu):
    """Otherwise the tests above say nothing."""
    model = made_on_a_gpu(torch.float16)
    with pytest.raises(RuntimeError, match="device"):
        decode_exactly(model.vae, torch.zeros(4, 4, 8, 8), Room(2**20))


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == CPU
    assert format_device(CPU) == "cpu"


def test_auto_is_the_first_gpu_and_gpus_have_numbers(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto") == find_device("cuda") == torch.device("cuda", 0)
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(BadInput, match="device cuda:2: torch sees 2 devices of that kind here"):
        find_device("cuda:2")


def test_auto_is_mps_where_there_is_no_cuda_and_cuda_where_there_are_both(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.mps, "device_count", lambda: 1)
    assert find_device("auto") == find_device("mps") == torch.device("mps", 0)
    assert choose_precision(find_device("auto")) == "float32"
    with pytest.raises(BadInput, match="device cuda: torch sees 0 devices of that kind here"):
        find_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == torch.device("cuda", 0)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", "cuda:-1", ""])
def test_a_name_that_is_no_device_is_refused_in_the_settings(name):
    with pytest.raises(ValidationError, match="must be auto, cpu, cuda, cuda:N or mps"):
        TypeAdapter(DeviceName).validate_python(name)


@pytest.mark.parametrize(
    ("device", "asked", "meant"),
    [(CPU, "auto", "float32"), (GPU, "auto", "float16"), (GPU, "bfloat16", "bfloat16"), (CPU, "float16", "float16")],
)
def test_the_precision_meant_depends_on_the_device_alone(device, asked: AskedPrecision, meant):
    assert choose_precision(device, asked) == meant
    assert get_dtype(meant) == getattr(torch, meant)


def test_a_precision_nobody_knows_is_refused():
    with pytest.raises(BadInput, match="precision float8: unknown"):
        get_dtype("float8")


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 20.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "MPS backend out of memory (MPS allocated: 17.94 GB)",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "CUDA driver error: out of memory",
    ],
)
def test_errors_of_memory_are_told_by_what_they_say(text):
    assert is_out_of_memory(RuntimeError(text))


def test_errors_of_memory_are_told_from_others():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape '[2]' is invalid"))
    assert not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(("device", "freed"), [(GPU, ["cuda"]), (torch.device("mps"), ["mps"]), (CPU, [])])
def test_what_is_freed_is_the_devices_own(monkeypatch, device, freed):
    asked: list[str] = []
    for backend in ("cuda", "mps"):
        monkeypatch.setattr(getattr(torch, backend), "empty_cache", lambda name=backend: asked.append(name))
    empty_cache(device)
    assert asked == freed


def test_free_memory_is_between_a_byte_and_a_petabyte():
    assert 1 < measure_free_memory(CPU) < 2**50


def test_what_torch_holds_unused_on_a_gpu_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 30)
    assert measure_free_memory(GPU) == 140


def test_on_a_gpu_the_peak_is_torchs_own_above_what_was_there(monkeypatch):
    calls: list[str] = []
    figures: dict[str, Any] = {"memory_allocated": 30, "max_memory_allocated": 90}
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    for name in ("reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda _, name=name: calls.append(name))
    with watch_costs(GPU) as used:
        pass
    assert used.peak == 60
    assert used.seconds > 0
    assert calls == ["reset_peak_memory_stats", "synchronize"]


@pytest.mark.parametrize(("highest", "peak"), [((500, 800), 600), ((900, 900), None)])
def test_on_the_cpu_the_peak_shows_only_where_it_is_a_new_one(monkeypatch, highest, peak):
    seen = iter(highest)
    monkeypatch.setattr(devices, "_read_process_figure", lambda name: 200 if name == "VmRSS" else next(seen))
    with watch_costs(CPU) as used:
        pass
    assert used.peak == peak


def test_where_numbers_are_not_finite_an_overflow_is_likely_in_float16_alone():
    assert explain_not_finite("float16", "--draw.dtype").startswith(
        "numbers past 65,504 overflow in float16; try --draw"
    )
    assert (torch.tensor(65_504.0).half() * 2).isinf()
    for precision in ("float32", "bfloat16"):
        assert (torch.tensor(65_504.0, dtype=getattr(torch, precision)) * 2).isfinite()
        assert explain_not_finite(precision).startswith("the weights of the model or the LoRA are probably damaged")
