"""Small networks of each kind that curation loads, with weights whose answers are known, saved as the real ones are."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")

WORDS = [*SPECIAL, "a", "dog", "runs", "on", "the", "beach", "camera", "pans", "left", "user", "assistant", ":"]

SIDE = 16
"""Pixels of a side of the pictures that the networks see."""

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
SEEING = SIZES | {"image_size": SIDE, "patch_size": 8}
TOKENS: dict[str, Any] = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

CHAT = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def save_tokenizer(folder: Path, **options: Any) -> None:
    """A tokenizer of WORDS."""
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    tokenizer.chat_template = options.get("chat_template")
    tokenizer.save_pretrained(folder)


def save_image_captioner(folder: Path, word: str = "dog", seed: int = 0) -> Path:
    """A BLIP that says one word again and again, or, of the word "", whatever its random weights say."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

    torch.manual_seed(seed)
    text = SIZES | TOKENS | {"encoder_hidden_size": 16, "sep_token_id": 2, "max_position_embeddings": 64}
    network = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=SEEING))
    if word:
        network.text_decoder.cls.predictions.bias.data[WORDS.index(word)] = 100.0
    network.save_pretrained(folder)
    BlipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_video_captioner(folder: Path, word: str = "pans", frames: int | None = 6) -> Path:
    """A GIT that looks at `frames` frames and says one word again and again."""
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM

    torch.manual_seed(0)
    settings: dict[str, Any] = SIZES | TOKENS | {"max_position_embeddings": 64, "num_image_with_embedding": frames}
    network = GitForCausalLM(GitConfig(vision_config=SEEING, **settings))
    network.output.bias.data[WORDS.index(word)] = 100.0
    network.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_writer(folder: Path, answer: str = "the camera pans left", chat_template: str | None = CHAT) -> Path:
    """A language model that says, after a colon, `answer` word by word, and then ends."""
    from transformers import MistralConfig, MistralForCausalLM

    width = len(WORDS)
    sizes: dict[str, Any] = (
        SIZES | TOKENS | {"hidden_size": width, "num_key_value_heads": 2, "tie_word_embeddings": False}
    )
    network = MistralForCausalLM(MistralConfig(**sizes))
    for name, parameter in network.named_parameters():
        parameter.data.fill_(1.0 if "norm" in name else 0.0)
    network.model.embed_tokens.weight.data.copy_(torch.eye(width))
    chain = [WORDS.index(word) for word in [":", *answer.split(), "[SEP]"]]
    for word, following in pairwise(chain):
        network.lm_head.weight.data[following, word] = 1.0
    network.save_pretrained(folder)
    save_tokenizer(folder, chat_template=chat_template)
    return folder


def save_clip(folder: Path, width: int = 8) -> Path:
    """A CLIP of random weights with embeddings of `width` numbers."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    text = SIZES | TOKENS | {"max_position_embeddings": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=SEEING, projection_dim=width)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_head(path: Path, first: float = 10.0, bias: float = 5.0, width: int = 8) -> Path:
    """An aesthetic head: `first` times an embedding's first number, plus `bias`."""
    weight = torch.zeros(1, width)
    weight[0, 0] = first
    save_file({"weight": weight, "bias": torch.tensor([bias])}, path)
    return path


def save_craft(path: Path, prefix: str = "") -> Path:
    """A CRAFT for which whatever is bright red (and so white, too) is text, and nothing else is."""
    from easyocr.craft import CRAFT

    network: Any = CRAFT()
    for name, parameter in network.named_parameters():
        is_scale = name.endswith("weight") and parameter.ndim == 1
        parameter.data.fill_(1.0 if is_scale else 0.0)
    # One tap leads from the red channel through the shallowest layers to the score of text.
    first, merging, last = network.basenet.slice1, network.upconv4.conv, network.conv_cls
    path_of_red = [(first[0], 0), (first[3], 0), (first[7], 0), (first[10], 0), (merging[0], 64), (merging[3], 0)]
    for layer, channel in [*path_of_red, *((last[number], 0) for number in (0, 2, 4, 6, 8))]:
        middle = layer.kernel_size[0] // 2
        layer.weight.data[0, channel, middle, middle] = 1.0
    save_file({prefix + name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return path


def save_raft(path: Path, step: tuple[float, float] = (0.1, -0.05)) -> Path:
    """A small RAFT that moves every pixel by 8 times `step` (x, y), in pixels as it sees them, in each of 12 rounds."""
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    network = raft_small(weights=None, progress=False)
    network.update_block.flow_head.conv2.weight.data.zero_()
    network.update_block.flow_head.conv2.bias.data.copy_(torch.tensor(step))
    save_file(network.state_dict(), path)
    return path
