"""Small real codecs with random weights, saved as diffusers saves them."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.models.codec import TrainableCodec, save_codec

KL = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (4, 4, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "mid_block_add_attention": False,
}


def save_kl(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Write an AutoencoderKL of 4 channels, f8, into `folder` and return that."""
    torch.manual_seed(seed)
    save_codec(TrainableCodec(**{**KL, **changes}).autoencoder, folder)
    return folder


def save_dc(folder: Path, seed: int = 0, channels: int = 32) -> Path:
    """Write an AutoencoderDC of f16 into `folder` and return that."""
    from diffusers import AutoencoderDC

    torch.manual_seed(seed)
    widths, layers = (8, 8, 8, 8, 8), (1,) * 5
    made = AutoencoderDC(
        latent_channels=channels,
        attention_head_dim=4,
        encoder_block_types=("ResBlock",) * 4 + ("EfficientViTBlock",),
        decoder_block_types=("ResBlock",) * 4 + ("EfficientViTBlock",),
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((),) * 5,
        decoder_qkv_multiscales=((),) * 5,
        scaling_factor=0.4,
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
    )
    save_codec(made, folder)
    return folder


def save_tiny(folder: Path, seed: int = 0) -> Path:
    """Write an AutoencoderTiny of 3 channels, f8, into `folder` and return that."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(seed)
    widths = (8, 8, 8, 8)
    made = AutoencoderTiny(
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, latent_channels=3
    )
    save_codec(made, folder)
    return folder
