"""The smallest UNet of Stable Video Diffusion's shape that has all its kinds of blocks, and a table of clips."""

import pyarrow as pa
from diffusers import UNetSpatioTemporalConditionModel

CLIPS = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("video_id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("camera_motion", pa.string()),
        pa.field("motion_score", pa.float64()),
        pa.field("keep", pa.bool_()),
    ]
)
"""What training reads of a dataset's clips and videos."""


def make_small_unet() -> UNetSpatioTemporalConditionModel:
    """A random UNet of two levels over four latent channels, with attention at both."""
    return UNetSpatioTemporalConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        num_attention_heads=(1, 2),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2,
        up_block_types=("CrossAttnUpBlockSpatioTemporal",) * 2,
        cross_attention_dim=64,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        num_frames=8,
    )
