"""Small random models of several families, as diffusers saves them: text encoders read single letters."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    MotionAdapter,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

WORDS = ("[PAD]", "[UNK]", "a", "red", "ball", "blue", "cube")
"""What the small HunyuanVideo can read."""


def save(make: Callable[[], Any], folder: Path) -> Path:
    """Saves what a function makes with random weights, the same each time; the folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make().save_pretrained(folder)
    return folder


def clip_text(positions: int = 16) -> dict[str, Any]:
    """A CLIP text encoder of width 32 with its tokenizer, for so many tokens."""
    letters = string.ascii_lowercase
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    config = CLIPTextConfig(
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=positions,
        vocab_size=len(pieces),
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    tokenizer = CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=positions)
    return {"text_encoder": CLIPTextModel(config), "tokenizer": tokenizer}


def t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer of single letters, of 30 pieces."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(
        vocab=[*pieces, *((letter, -3.0) for letter in string.ascii_lowercase)], extra_ids=0, model_max_length=16
    )


def t5_text() -> dict[str, Any]:
    """A T5 text encoder of width 32 with its tokenizer."""
    config = T5Config(vocab_size=32, d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=2)
    return {"text_encoder": T5EncoderModel(config), "tokenizer": t5_tokenizer()}


def drawing_pipeline() -> StableDiffusionPipeline:
    """A text-to-image model of Stable Diffusion's shape: pictures of 32x32 pixels, latents of 16x16."""
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    layers: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    vae = AutoencoderKL(**layers, latent_channels=4, norm_num_groups=8)
    scheduler: Any = DDIMScheduler(beta_schedule="linear", clip_sample=False, steps_offset=1)
    rest: Any = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(vae=vae, unet=unet, scheduler=scheduler, **clip_text(), **rest)


def drawing_xl_pipeline(**vae: Any) -> StableDiffusionXLPipeline:
    """A text-to-image model of Stable Diffusion XL's shape, with two text encoders; settings are the autoencoder's."""
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    layers: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    scheduler: Any = EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading")
    first, second = clip_text(positions=77), clip_text(positions=77)
    second["text_encoder"].config.projection_dim = 32
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(**layers, latent_channels=4, norm_num_groups=8, force_upcast=True, **vae),
        unet=unet,
        scheduler=scheduler,
        **first,
        text_encoder_2=CLIPTextModelWithProjection(second["text_encoder"].config),
        tokenizer_2=second["tokenizer"],
        add_watermarker=False,
    )


def ltx_parts(timestep_conditioning: bool = False) -> dict[str, Any]:
    """The parts of an LTX pipeline whose autoencoder packs 8 frames of 8x8 pixels into one latent of 8 channels."""
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    layers: dict[str, Any] = {
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
    }
    vae = AutoencoderKLLTXVideo(**layers, latent_channels=8, patch_size=4, timestep_conditioning=timestep_conditioning)
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        **t5_text(),
    }


def wan_parts(**settings: Any) -> dict[str, Any]:
    """The parts of a Wan pipeline: latents of an eighth of the sides, of 16 channels, for 4 frames each."""
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        out_channels=16,
        text_dim=32,
        freq_dim=64,
        ffn_dim=32,
        num_layers=1,
        cross_attn_norm=True,
        rope_max_seq_len=32,
        **settings,
    )
    config = UMT5Config(vocab_size=32, d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=2)
    return {
        "transformer": transformer,
        "vae": AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "text_encoder": UMT5EncoderModel(config),
        "tokenizer": t5_tokenizer(),
    }


def motion_adapter() -> MotionAdapter:
    """A motion adapter for the model that draws, which knows positions of 8 frames."""
    return MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
        motion_max_seq_length=8,
    )


def cogvideox_parts(in_channels: int = 4, **settings: Any) -> dict[str, Any]:
    """The parts of a CogVideoX pipeline: latents of half the sides, of 4 channels, natively 9 frames of 32x32."""
    layers: dict[str, Any] = {
        "block_out_channels": (8, 8, 8, 8),
        "down_block_types": ("CogVideoXDownBlock3D",) * 4,
        "up_block_types": ("CogVideoXUpBlock3D",) * 4,
    }
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        max_text_seq_length=16,
        **settings,
    )
    vae = AutoencoderKLCogVideoX(**layers, latent_channels=4, layers_per_block=1, norm_num_groups=2)
    return {"transformer": transformer, "vae": vae, "scheduler": CogVideoXDDIMScheduler(), **t5_text()}


def hunyuan_parts() -> dict[str, Any]:
    """The parts of a HunyuanVideo pipeline: latents of an eighth of the sides, of 4 channels, for 4 frames each."""
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=32,
        rope_axes_dim=(2, 4, 4),
    )
    layers: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
    vae = AutoencoderKLHunyuanVideo(**layers, latent_channels=4)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 37, "num_attention_heads": 4}
    seen = clip_text(positions=77)
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder": LlamaModel(LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=len(WORDS), pad_token_id=0)),
        "tokenizer": PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"),
        "text_encoder_2": seen["text_encoder"],
        "tokenizer_2": seen["tokenizer"],
    }


def framepack_parts() -> dict[str, Any]:
    """The parts of a FramePack pipeline: HunyuanVideo's, with a transformer that reads pictures and what was made."""
    transformer = HunyuanVideoFramepackTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=32,
        rope_axes_dim=(2, 4, 4),
        has_image_proj=True,
        image_proj_dim=16,
        has_clean_x_embedder=True,
    )
    eyes = SiglipVisionConfig(
        hidden_size=16, intermediate_size=37, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    return {
        **hunyuan_parts(),
        "transformer": transformer,
        "image_encoder": SiglipVisionModel(eyes),
        "feature_extractor": SiglipImageProcessor(size={"height": 32, "width": 32}),
    }
