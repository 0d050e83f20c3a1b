from pathlib import Path

import numpy as np
import pytest

from models.captions import captioners
from models.captions.captioners import load_image_captioner, load_video_captioner, load_writer
from models.errors import BadModel
from tests.small_models import save_image_captioner, save_video_captioner, save_writer

RANDOM = np.random.default_rng(0)


def clips(count: int, frames: int) -> list[np.ndarray]:
    return list(RANDOM.integers(0, 255, (count, frames, 36, 64, 3), dtype=np.uint8))


def test_an_image_captioner_says_what_its_weights_say(tmp_path: Path):
    captioner = load_image_captioner(save_image_captioner(tmp_path, word="dog"))
    assert captioner.frames is None
    assert captioner.describe(clips(2, 1), max_words=3) == ["dog dog dog"] * 2


@pytest.mark.slow
def test_what_a_picture_is_called_does_not_depend_on_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(captioners, "BATCH", 2)
    captioner = load_image_captioner(save_image_captioner(tmp_path, word="", seed=3))
    pictures = clips(5, 1)
    together = captioner.describe(pictures)
    assert together == [captioner.describe([picture])[0] for picture in pictures]
    assert together == captioner.describe(pictures)


def test_a_video_captioner_looks_at_several_frames(tmp_path: Path):
    captioner = load_video_captioner(save_video_captioner(tmp_path, word="pans", frames=4))
    assert captioner.frames == 4
    assert captioner.describe(clips(3, 4), max_words=2) == ["pans pans"] * 3


def test_a_captioner_of_the_other_kind_is_refused(tmp_path: Path):
    with pytest.raises(BadModel, match=r"is an image captioner\. Name a video captioner"):
        load_video_captioner(save_image_captioner(tmp_path / "image"))
    with pytest.raises(BadModel, match=r"is a video captioner .* Name an image captioner"):
        load_image_captioner(save_video_captioner(tmp_path / "video"))


def test_a_writer_answers_each_prompt_and_ends_when_it_is_done(tmp_path: Path):
    writer = load_writer(save_writer(tmp_path, answer="the camera pans left"))
    assert writer.answer(["a dog", "a dog runs on the beach"]) == ["the camera pans left"] * 2
    assert writer.answer(["a dog"], max_words=2) == ["the camera"]


def test_a_writer_without_a_chat_template_is_refused(tmp_path: Path):
    with pytest.raises(BadModel, match="has no chat template"):
        load_writer(save_writer(tmp_path, chat_template=None))


def test_networks_stay_in_memory(tmp_path: Path):
    folder = save_writer(tmp_path)
    assert load_writer(folder) is load_writer(folder)
