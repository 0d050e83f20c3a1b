"""Plans fit the memory there is, give up what costs least first, and end."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.memory.plan import (
    MIB,
    USABLE,
    Needs,
    Networks,
    Plan,
    choose_decoding_plan,
    choose_sampling_plan,
    describe_networks,
    find_next_placement,
    find_next_rung,
    find_next_strip,
)

SHAPE = (8, 4, 16, 16)

SMALL = Networks((32, 64), 1, (32, 32), image_encoder=1000, vae=2000, unet=50_000, unet_group=20_000)

FULL = Networks(
    (320, 640, 1280, 1280), 2, (128, 256, 512, 512), image_encoder=632_000_000, vae=98_000_000, unet=1_525_000_000,
    unet_group=700_000_000,
)  # fmt: skip
"""Stable Video Diffusion's sizes, about."""

SVD_XT = Needs(FULL, (25, 4, 72, 128), itemsize=2, on_gpu=True)


def ladder(plan: Plan | None, on_gpu: bool) -> list[Plan]:
    rungs = []
    while plan:
        rungs.append(plan)
        plan = find_next_rung(plan, on_gpu)
    return rungs


def test_with_plenty_of_memory_the_asked_batch_is_sampled_together():
    assert choose_sampling_plan(Needs(SMALL, SHAPE), 6, free=10 * 2**30) == Plan(batch=6)
    assert choose_sampling_plan(Needs(SMALL, SHAPE, on_gpu=True), 6, 10 * 2**30) == Plan(
        batch=6, guidance_together=True
    )
    assert choose_decoding_plan(Needs(SMALL, SHAPE), free=10 * 2**30) == Plan()


def test_the_batch_is_what_fits():
    needs = Needs(SMALL, SHAPE)
    assert choose_sampling_plan(needs, 6, free=4 * needs.one_clip()).batch == 3


def test_where_not_even_one_clip_fits_its_layers_are_cut():
    needs = Needs(SMALL, (8, 4, 64, 64))
    plan = choose_sampling_plan(needs, 6, free=needs.one_clip() // 2)
    assert (plan.batch, plan.offload) == (1, "none")
    assert plan.feed_forward
    assert choose_decoding_plan(needs, free=needs.whole_clip() // 2).strip_mib


def test_cost_grows_with_frames_and_area():
    frames, channels, height, width = SHAPE
    one = Needs(SMALL, SHAPE)
    for larger in ((2 * frames, channels, height, width), (frames, channels, height, 2 * width)):
        assert Needs(SMALL, larger).one_clip() == 2 * one.one_clip()
        assert Needs(SMALL, larger).whole_clip() == 2 * one.whole_clip()


def test_the_full_size_decoder_is_estimated_as_it_was_measured():
    """8 frames of 448x256 peaked at 4.9 GB, weights and interpreter included (benchmarks/decode.md)."""
    assert 3.5e9 < Needs(FULL, (8, 4, 32, 56)).whole_clip() < 5.2e9


def test_on_the_cpu_rungs_lead_from_large_batches_to_small_pieces():
    rungs = [(plan.batch, plan.feed_forward) for plan in ladder(Plan(batch=5), on_gpu=False)]
    assert rungs == [(5, None), (2, None), (1, None), (1, 16384), (1, 4096), (1, 1024), (1, 256)]


def test_on_a_gpu_what_costs_least_is_given_up_first():
    said = [str(plan) for plan in ladder(Plan(batch=2, guidance_together=True), on_gpu=True)]
    assert said == [
        "batch 2, guidance together",
        "batch 2",
        "batch 1",
        "batch 1, feed-forward in pieces of 16384 tokens",
        "batch 1, feed-forward in pieces of 16384 tokens, parts moved in turn",
        "batch 1, feed-forward in pieces of 4096 tokens, parts moved in turn",
        "batch 1, feed-forward in pieces of 4096 tokens, denoiser moved in groups of blocks",
        "batch 1, feed-forward in pieces of 1024 tokens, denoiser moved in groups of blocks",
        "batch 1, feed-forward in pieces of 256 tokens, denoiser moved in groups of blocks",
    ]


@pytest.mark.parametrize("needs", [SVD_XT, Needs(FULL, (25, 4, 72, 128))])
def test_no_rung_needs_more_than_the_one_before(needs):
    taken = [needs.sampling(plan) for plan in ladder(Plan(4, guidance_together=needs.on_gpu), needs.on_gpu)]
    assert taken == sorted(taken, reverse=True)
    assert taken[0] > 3 * taken[-1]


def test_where_the_weights_themselves_do_not_fit_less_of_them_is_brought_at_once():
    first = Plan(batch=4)
    second = find_next_placement(first)
    assert second == Plan(batch=4, feed_forward=16384, offload="parts")
    assert second is not None
    assert find_next_placement(second) == Plan(batch=4, feed_forward=4096, offload="groups")
    assert find_next_placement(replace(second, offload="groups", feed_forward=256)) is None


def test_decoding_goes_from_whole_to_ever_narrower_strips():
    sizes, plan = [], Plan()
    while plan:
        sizes.append(plan.strip_mib)
        plan = find_next_strip(plan)
    assert sizes == [None, 512, 128, 32, 16]
    assert find_next_strip(Plan(), on_gpu=True) == Plan(offload="parts"), "the other parts leave the GPU first"
    assert find_next_strip(Plan(offload="parts"), on_gpu=True) == Plan(offload="parts", strip_mib=512)


@pytest.mark.parametrize(
    ("gib", "sampled", "decoded"),
    [
        (139, Plan(guidance_together=True), Plan()),
        (24, Plan(guidance_together=True), Plan(strip_mib=512)),
        (12, Plan(), Plan(strip_mib=512)),
        (8, Plan(feed_forward=16384), Plan(strip_mib=512)),
        (6, Plan(feed_forward=16384, offload="parts"), Plan(offload="parts", strip_mib=512)),
        (4, Plan(feed_forward=4096, offload="groups"), Plan(offload="parts", strip_mib=512)),
    ],
)
def test_full_size_plans_on_gpus_of_several_sizes(gib, sampled, decoded):
    assert choose_sampling_plan(SVD_XT, 1, gib * 2**30) == sampled
    assert choose_decoding_plan(SVD_XT, gib * 2**30) == decoded


@given(free=st.integers(0, 2**40), batch=st.integers(1, 64), on_gpu=st.booleans())
def test_a_plan_fits_or_is_the_last_one(free, batch, on_gpu):
    needs = replace(SVD_XT, on_gpu=on_gpu)
    plan = choose_sampling_plan(needs, batch, free)
    assert needs.sampling(plan) <= USABLE * free or find_next_rung(plan, on_gpu) is None
    decoding = choose_decoding_plan(needs, free)
    assert needs.decoding(decoding) <= USABLE * free or (decoding.strip_mib or 0) >= 16


def test_a_measured_figure_stands_in_the_estimates_place_on_a_gpu():
    measured = {Plan().rung: 10.0, "decoded " + Plan().rung: 20.0}
    gpu = replace(SVD_XT, measured=measured)
    assert gpu.sampling(Plan()) == gpu.weights("none") + 10 * gpu.cells
    assert gpu.decoding(Plan()) == gpu.weights("none") + 20 * gpu.cells
    assert gpu.sampling(Plan(batch=3, guidance_together=True)) == gpu.weights("none") + 60 * gpu.cells
    assert gpu.sampling(Plan(feed_forward=16384)) == SVD_XT.sampling(Plan(feed_forward=16384)), "measured apart"


def test_in_host_memory_a_measured_figure_counts_where_it_is_larger():
    needs = Needs(SMALL, SHAPE)
    assert replace(needs, measured={"whole": 1.0}).sampling(Plan()) == needs.sampling(Plan())
    assert replace(needs, measured={"whole": 1e9}).sampling(Plan()) == 1e9 * needs.cells


def test_the_group_of_blocks_is_the_two_largest_and_what_lies_outside():
    unet: dict[str, Any] = {"block_out_channels": (8, 8), "layers_per_block": (1, 2)}
    sizes = {
        "conv_in.weight": 5,
        "down_blocks.0.a": 100,
        "down_blocks.0.b": 1,
        "down_blocks.1.a": 10,
        "up_blocks.0.a": 50,
    }
    weights = {"unet": sizes.items(), "vae": [("x", 3)], "image_encoder": [("y", 4)]}
    found = describe_networks(unet, {"block_out_channels": (4, 4)}, weights)
    assert (found.unet, found.unet_group, found.unet_layers, found.vae) == (166, 5 + 101 + 50, 2, 3)


def test_strips_fit_the_budget_they_are_planned_for():
    small = choose_decoding_plan(SVD_XT, 100 * MIB)
    assert small == Plan(offload="parts", strip_mib=20)
