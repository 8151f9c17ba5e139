"""Golden values for the autoencoder, from diffusers' AutoencoderKL.

Two tiny models with random weights that f16 holds exactly, each a `vae/` folder, with pictures and latents and what diffusers computes from them in f32:

- `plain`: as Stable Diffusion's, with two levels.
- `old`: three levels, two blocks each, without the 1x1 convolutions, with a shift, and the attention named as before diffusers 0.18.

`case.safetensors` holds `images`, `mean`, `std` (of the posterior), `latents`, `decoded` (of the unscaled latents), and gradients of `sum(mean * weight_mean) + sum(std)` to the
images, `grad_images`, and of `sum(decoded * weight_decoded)` to the latents, `grad_latents`.

Written with torch 2.13.0, diffusers 0.42.1, safetensors 0.8.0, by

    python tests/goldens/vae.py
"""

import json
import math
import pathlib
import shutil

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

OUT = pathlib.Path(__file__).parent / "vae"


def build(**config):
    model = AutoencoderKL(**config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()))
            else:
                parameter.normal_(0, 0.2)
                if "norm" in name and name.endswith("weight"):
                    parameter.add_(1)
            parameter.copy_(parameter.half())
    return model


def case(model, height, width):
    factor = 2 ** (len(model.config.block_out_channels) - 1)
    images = (torch.rand(2, 3, height, width) * 2 - 1).requires_grad_()
    posterior = model.encode(images).latent_dist
    weight_mean = torch.randn_like(posterior.mean)
    ((posterior.mean * weight_mean).sum() + posterior.std.sum()).backward()
    latents = torch.randn(2, model.config.latent_channels, height // factor, width // factor, requires_grad=True)
    decoded = model.decode(latents).sample
    weight_decoded = torch.randn_like(decoded)
    (decoded * weight_decoded).sum().backward()
    return {
        "images": images.detach(),
        "mean": posterior.mean.detach(),
        "std": posterior.std.detach(),
        "weight_mean": weight_mean,
        "grad_images": images.grad,
        "latents": latents.detach(),
        "decoded": decoded.detach(),
        "weight_decoded": weight_decoded,
        "grad_latents": latents.grad,
    }


def write(name, model, height, width, rename=lambda key: key):
    folder = OUT / name
    model.half().save_pretrained(folder)
    model.float()
    weights = folder / "diffusion_pytorch_model.safetensors"
    save_file({rename(key): value for key, value in load_file(weights).items()}, weights)
    tensors = {key: value.contiguous() for key, value in case(model, height, width).items()}
    save_file(tensors, folder / "case.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def old_names(key):
    if ".attentions." in key:
        for new, old in [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")]:
            key = key.replace(f".{new}.", f".{old}.")
    return key


def main():
    torch.manual_seed(0)
    shutil.rmtree(OUT, ignore_errors=True)
    kinds = lambda count: {
        "down_block_types": ["DownEncoderBlock2D"] * count,
        "up_block_types": ["UpDecoderBlock2D"] * count,
    }
    plain = build(**kinds(2), block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4, latent_channels=4)
    write("plain", plain, 12, 8)
    old = build(
        **kinds(3),
        block_out_channels=[4, 8, 12],
        layers_per_block=2,
        norm_num_groups=2,
        latent_channels=6,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5,
        shift_factor=0.25,
    )
    write("old", old, 16, 24, old_names)


if __name__ == "__main__":
    main()
