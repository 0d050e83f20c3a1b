"""An adapter's latents and frames are those of diffusers' own pipeline for the same noise, bit for bit."""

import numpy as np
import pytest
import torch
from diffusers.video_processor import VideoProcessor

from models.errors import BadModel
from models.families.latents import convert_to_frames, denormalise_latents


class Decoder:
    """What of a pipeline turns a decoded clip into frames."""

    video_processor = VideoProcessor()


def test_a_decoded_clip_of_minus_1_to_1_becomes_bytes_by_rounding():
    decoded = torch.tensor([-1.0, 0.0, 1.0, 3.0]).expand(1, 3, 1, 1, 4)
    assert convert_to_frames(Decoder(), decoded)[0, 0, :, 0].tolist() == [0, 128, 255, 255]
    assert convert_to_frames(Decoder(), decoded).dtype == np.uint8


@pytest.mark.parametrize(("precision", "likely"), [(torch.float16, "try --dtype float32"), (torch.float32, "damaged")])
def test_a_decoded_clip_with_a_number_that_is_none_is_refused_with_what_is_likely(precision, likely):
    decoded = torch.zeros(1, 3, 2, 4, 4, dtype=precision)
    decoded[0, 1, 1, 2, 3] = float("inf")
    with pytest.raises(BadModel, match=f"The decoded pictures are not finite numbers: .*{likely}"):
        convert_to_frames(Decoder(), decoded)


def test_latents_get_the_mean_and_deviation_of_each_channel():
    vae = {"latents_mean": [1.0, -2.0], "latents_std": [0.5, 4.0]}
    made = denormalise_latents(torch.ones(1, 2, 3, 1, 1), vae)
    assert made[0, 0].flatten().tolist() == pytest.approx([1.5] * 3)
    assert made[0, 1].flatten().tolist() == pytest.approx([2.0] * 3)
