"""The reference autoencoder of latent diffusion, which several test files compare with."""

import json

from maskflow_jax.tokenizers.vqgan import VQGANConfig


def ldm_config(reference) -> VQGANConfig:
    """The reference's settings in this project's names."""
    settings = json.loads(str(reference["config"]))
    ddconfig = settings["ddconfig"]
    return VQGANConfig(
        frame_size=ddconfig["resolution"],
        base_width=ddconfig["ch"],
        width_multipliers=tuple(ddconfig["ch_mult"]),
        num_res_blocks=ddconfig["num_res_blocks"],
        attention_resolutions=tuple(ddconfig["attn_resolutions"]),
        z_channels=ddconfig["z_channels"],
        embed_dim=settings["embed_dim"],
        codebook_size=settings["n_embed"],
    )
