"""What a failed clip says: the error's own sentence, or what to do where memory was too small, or what happened."""

import pytest
import torch

from models.errors import BadMedia, EncoderOutOfMemory
from tasks.attempts import failure_of

RAW = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(RAW), MemoryError(), RuntimeError(f"DefaultCPU: {RAW}")])
@pytest.mark.parametrize("doing", ["sampling", "decoding", "encoding"])
def test_where_memory_ran_out_the_row_says_what_to_do_in_place_of_torchs_text(error: BaseException, doing: str):
    assert failure_of(error, "a", doing) == {
        "error_code": "out_of_memory",
        "error_message": f"a: {doing} ran out of memory, however little it took at a time; ask for a smaller size or "
        "fewer frames, or choose another --device.",
    }


def test_an_error_raised_on_purpose_keeps_its_word_and_its_sentence():
    assert failure_of(BadMedia("x: broken."), "a", "decoding") == {
        "error_code": "bad_media",
        "error_message": "x: broken.",
    }
    assert failure_of(EncoderOutOfMemory("x: ffmpeg."), "a", "encoding")["error_message"] == "x: ffmpeg."


def test_an_unforeseen_error_is_named_with_what_was_being_done():
    failed = failure_of(RuntimeError("no kernel\n"), "a", "decoding")
    assert failed == {"error_code": "decoding_failed", "error_message": "a: decoding failed (no kernel)."}
    assert failure_of(ValueError(), "a", "sampling")["error_message"] == "a: sampling failed (ValueError)."
