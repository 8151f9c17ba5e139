"""The names that tensors have in files of the original layout of Stable Diffusion, as diffusers' own converters read them.

For the UNets `sd1` and `sdxl` of `unet.py` and an autoencoder of three levels: the SHA-256 of lines `DIFFUSERS ORIGINAL`, in the order of diffusers'
names. The original names are made here; that they are right is checked by diffusers, whose converters must make of them the names and values that the models have.

Written with torch 2.13.0, diffusers 0.42.1, by

    python tests/goldens/original.py
"""

import hashlib
import json
import pathlib

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

HERE = pathlib.Path(__file__).parent
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2", "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_names(model):
    names, layers = {}, model.config.layers_per_block
    for name in model.state_dict():
        path, parameter = name.rsplit(".", 1)
        words = path.split(".")
        if path in OUTSIDE:
            original = OUTSIDE[path]
        elif words[0] == "mid_block":
            place = {("resnets", "0"): 0, ("attentions", "0"): 1, ("resnets", "1"): 2}[words[1], words[2]]
            original = f"middle_block.{place}." + inside(words[1], words[3:])
        else:
            level, part, index = int(words[1]), words[2], int(words[3])
            if words[0] == "down_blocks":
                block = 1 + level * (layers + 1)
                if part == "downsamplers":
                    original = f"input_blocks.{block + layers}.0.op"
                else:
                    original = f"input_blocks.{block + index}.{['resnets', 'attentions'].index(part)}." + inside(part, words[4:])
            else:
                block = level * (layers + 1)
                if part == "upsamplers":
                    place = 2 if hasattr(model.up_blocks[level], "attentions") else 1
                    original = f"output_blocks.{block + layers}.{place}.conv"
                else:
                    original = f"output_blocks.{block + index}.{['resnets', 'attentions'].index(part)}." + inside(part, words[4:])
        names[name] = f"model.diffusion_model.{original}.{parameter}"
    return names


def inside(part, words):
    rest = ".".join(words)
    return RESNET[rest] if part == "resnets" else rest


def vae_names(model):
    names, levels = {}, len(model.config.block_out_channels)
    for name in model.state_dict():
        half, _, rest = name.partition(".")
        words = rest.split(".")
        if words[0] == "conv_norm_out":
            rest = "norm_out." + words[1]
        elif words[:2] == ["mid_block", "resnets"]:
            rest = f"mid.block_{int(words[2]) + 1}." + ".".join(words[3:])
        elif words[:2] == ["mid_block", "attentions"]:
            rest = "mid.attn_1." + ATTENTION[".".join(words[3:-1])] + "." + words[-1]
        elif words[0] in ("down_blocks", "up_blocks"):
            level = int(words[1]) if words[0] == "down_blocks" else levels - 1 - int(words[1])
            way = words[0].removesuffix("_blocks")
            if words[2] == "resnets":
                rest = f"{way}.{level}.block.{words[3]}." + ".".join(words[4:]).replace("conv_shortcut", "nin_shortcut")
            else:
                rest = f"{way}.{level}.{words[2].removesuffix('rs')}." + ".".join(words[4:])
        names[name] = f"first_stage_model.{half}.{rest}"
    return names


def check(model, names, convert):
    """diffusers makes of the original names what the model has."""
    state = model.state_dict()
    original = {}
    for name, value in state.items():
        is_conv = "mid.attn_1" in names[name] and value.dim() == 2
        original[names[name]] = value[:, :, None, None] if is_conv else value
    converted = convert(original, dict(model.config))
    assert converted.keys() == state.keys(), converted.keys() ^ state.keys()
    assert all(torch.equal(converted[name], state[name]) for name in state)
    lines = "".join(f"{name} {names[name]}\n" for name in sorted(names))
    return hashlib.sha256(lines.encode()).hexdigest()


def main():
    hashes = {}
    for name in ("sd1", "sdxl"):
        config = json.loads((HERE / "unet" / name / "config.json").read_text())
        model = UNet2DConditionModel.from_config(config)
        hashes[name] = check(model, unet_names(model), convert_ldm_unet_checkpoint)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3, block_out_channels=[32, 64, 64], layers_per_block=1,
    )
    hashes["vae"] = check(vae, vae_names(vae), convert_ldm_vae_checkpoint)
    (HERE / "original.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    main()
