"""Captions by networks in this process: of a picture, of a stretch of video, and one sentence made from both.

Source: Stable Video Diffusion (arXiv 2311.15127, C.1), which captions the middle frame with CoCa and the video with
V-BLIP, and has a language model merge the two. Here these are any image captioner of transformers that needs no prompt
(BLIP: arXiv 2201.12086), GIT for video (arXiv 2205.14100), and any instruct model with a chat template. Each step takes
the likeliest word, so that the same input gives the same caption.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from models.errors import BadModel
from models.pictures import Frames
from models.weights.hub_cache import load_part
from models.weights.kept import kept_in_memory

T = TypeVar("T")


BATCH = 16
"""Items in one forward pass."""

_RUNNING = threading.Lock()


@dataclass(frozen=True)
class Captioner:
    """A network that describes pictures, or stretches of video of `frames` frames where that is not null."""

    network: Any
    pictures: Any
    tokenizer: Any
    frames: int | None

    def describe(self, clips: Sequence[Frames], max_words: int = 40) -> list[str]:
        """Describe each clip, uint8 RGB [frames, height, width, 3] with `frames` (or 1) frames.

        `max_words` counts the tokenizer's words; a description may be empty.
        """
        return [text for batch in _split_batches(clips) for text in self._describe(batch, max_words)]

    def _describe(self, clips: Sequence[Frames], max_words: int) -> list[str]:
        import torch

        prepared = self.pictures(images=[frame for clip in clips for frame in clip], return_tensors="pt")
        pixels = prepared["pixel_values"].to(self.network.device)
        if self.frames:
            pixels = pixels.unflatten(0, (len(clips), self.frames))
        with _RUNNING, torch.no_grad():
            words = self.network.generate(pixel_values=pixels, max_new_tokens=max_words, do_sample=False, num_beams=1)
        return [text.strip() for text in self.tokenizer.batch_decode(words, skip_special_tokens=True)]


@dataclass(frozen=True)
class Writer:
    """A language model that answers prompts."""

    network: Any
    tokenizer: Any

    def answer(self, prompts: Sequence[str], max_words: int = 80) -> list[str]:
        """Answer each prompt in at most `max_words` of the tokenizer's words; an answer may be empty."""
        return [text for batch in _split_batches(prompts) for text in self._answer(batch, max_words)]

    def _answer(self, prompts: Sequence[str], max_words: int) -> list[str]:
        import torch

        chats = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
        # The template already wrote the special tokens. Padding goes first, so that all answers begin at the same
        # place.
        read = self.tokenizer(chats, padding=True, add_special_tokens=False, return_tensors="pt")
        inputs = {name: read[name].to(self.network.device) for name in ("input_ids", "attention_mask")}
        with _RUNNING, torch.no_grad():
            words = self.network.generate(
                **inputs,
                max_new_tokens=max_words,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        answers = words[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]


def load_image_captioner(folder: Path) -> Captioner:
    """Load and keep in memory a folder's image captioner, in transformers' layout; raises BadModel for any other."""
    return _load_captioner(folder, video=False)


def load_video_captioner(folder: Path) -> Captioner:
    """Load and keep in memory a folder's video captioner of GIT's kind; raises BadModel for any other."""
    return _load_captioner(folder, video=True)


@kept_in_memory(most=2)
def _load_captioner(folder: Path, video: bool) -> Captioner:
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    network, pictures, tokenizer = (
        load_part(part, folder) for part in (AutoModelForImageTextToText, AutoImageProcessor, AutoTokenizer)
    )
    frames = getattr(network.config, "num_image_with_embedding", None)
    if bool(frames) != video:
        kinds = ("an image captioner", "a video captioner that sees several frames (GIT)")
        raise BadModel(f"{folder}: is {kinds[bool(frames)]}. Name {kinds[video]}.")
    return Captioner(network, pictures, tokenizer, frames)


@kept_in_memory()
def load_writer(folder: Path) -> Writer:
    """Load the language model in a folder, kept in memory; raises BadModel when it is none or has no chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = load_part(AutoTokenizer, folder, padding_side="left")
    if not tokenizer.chat_template:
        raise BadModel(f"{folder}: its tokenizer has no chat template. Name an instruct model.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Writer(load_part(AutoModelForCausalLM, folder), tokenizer)


def _split_batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))
