"""Golden values for the ControlNet of a UNet, from diffusers' ControlNetModel; and a check of what a run exports.

    python tests/goldens/controlnet.py                              writes the goldens
    python tests/goldens/controlnet.py FOLDER [OTHER]               loads FOLDER as diffusers does, and compares its residuals with OTHER's

Two tiny models for the UNets of the same names in `unet/`, whose weights and inputs both sides compute from names (`numbers` of unet.py):

- `sd1`: pictures 8 times the size of latents, and the published channels of the hint's embedding.
- `sdxl`: pictures 4 times the size, channels of its own, hints whose blue comes first.

A folder a model: `config.json` as diffusers writes it, and `case.safetensors` with `residuals`, a row for each site (skips from the input inwards, then the middle): 48 of its
numbers at even distances; and `grad`, a row for each parameter in the order of their names: 8 numbers of its gradient of `sum(residual * weights)` over all sites.

Written with torch 2.13.0, diffusers 0.42.1, safetensors 0.8.0.
"""

import json
import pathlib
import shutil
import sys

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file

from unet import OUT as UNETS, TIMESTEPS, fill, inputs, numbers, sampled

OUT = pathlib.Path(__file__).parent / "controlnet"
KEPT = 48


def control(name, channels, order):
    config = json.loads((UNETS / name / "config.json").read_text())
    unet = UNet2DConditionModel.from_config(config)
    model = ControlNetModel.from_unet(
        unet, controlnet_conditioning_channel_order=order, conditioning_embedding_out_channels=channels, load_weights_from_unet=False,
    )
    return fill(model)


def run(model, factor, size=8):
    given = inputs(model.config, size, size)
    hint = numbers("hint", (len(TIMESTEPS), 3, size * factor, size * factor)) * 0.5 + 0.5
    added = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    down, middle = model(
        given["latents"], torch.tensor(TIMESTEPS), given["encoder_hidden_states"], hint, added_cond_kwargs=added, return_dict=False,
    )
    return [*down, middle]


def kept(values):
    flat = values.detach().flatten()
    return flat[[i * len(flat) // KEPT for i in range(KEPT)]]


def write(name, channels, order, factor):
    model = control(name, channels, order)
    residuals = run(model, factor)
    weighed = [(residual * numbers(f"weights.{site}", residual.shape)).sum() for site, residual in enumerate(residuals)]
    sum(weighed).backward()
    parameters = dict(model.named_parameters())
    stored = {
        "residuals": torch.stack([kept(residual) for residual in residuals]),
        "grad": torch.stack([sampled(parameters[name].grad) for name in sorted(parameters)]),
    }
    folder = OUT / name
    folder.mkdir(parents=True)
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    config = {"_class_name": "ControlNetModel", "_diffusers_version": "0.42.1", **config}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(stored, folder / "case.safetensors")


def compare(folder, other):
    """Whether two folders are ControlNets that diffusers loads whole, with equal residuals."""
    models = []
    for path in (folder, other):
        model, told = ControlNetModel.from_pretrained(path, output_loading_info=True)
        if told["missing_keys"] or told["unexpected_keys"]:
            sys.exit(f"{path}: {told}")
        models.append(model.eval())
    factor = 2 ** (len(models[0].config.conditioning_embedding_out_channels) - 1)
    with torch.no_grad():
        ours, theirs = (run(model, factor) for model in models)
    worst = max(float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(ours, theirs, strict=True))
    print(f"{len(ours)} residuals, largest relative difference {worst:.1e}, sizes {[round(float(b.norm()), 3) for b in theirs]}")
    if worst > 1e-4:
        sys.exit("the residuals differ")


def main():
    if len(sys.argv) > 1:
        compare(sys.argv[1], sys.argv[-1])
        return
    shutil.rmtree(OUT, ignore_errors=True)
    write("sd1", (16, 32, 96, 256), "rgb", 8)
    write("sdxl", (4, 6, 8), "bgr", 4)


if __name__ == "__main__":
    main()
