"""Golden values for the UNet, from diffusers' UNet2DConditionModel.

Four tiny models, whose weights and inputs both sides compute from names (`numbers`):

- `sd1`: as Stable Diffusion 1: convolutions lead into the transformers; also run at an odd size, and with the residuals of a ControlNet.
- `sd2`: as Stable Diffusion 2: linear layers do, heads differ by level; with two layers in the deepest transformers and sines first.
- `sdxl`: as Stable Diffusion XL: a first level without attention, deep transformers, the text's embedding and the picture's size beside the timestep.
- `odd`: what else a configuration may say: another count of layers at each level, another depth on the way up, a middle without attention.

A folder a model: `config.json` as diffusers writes it, and `case.safetensors` with the prediction; where there are gradients, of the mean squared error to `target`, those by
`latents` and `encoder_hidden_states` whole, and `grad` with a row for each parameter in the order of their names: 4 of its numbers at even distances.

Written with torch 2.13.0, diffusers 0.42.1, safetensors 0.8.0, by

    python tests/goldens/unet.py
"""

import json
import math
import pathlib
import shutil

import numpy
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "unet"
TIMESTEPS = [3, 871]
KEPT = 4


def numbers(name, shape):
    """Numbers in -1..1 that follow from a name: splitmix64, seeded by the FNV-1a hash of the name."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + numpy.arange(1, math.prod(shape) + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    unit = (z >> numpy.uint64(40)).astype(numpy.float64) / 2**23 - 1
    return torch.from_numpy(unit.astype(numpy.float32)).reshape(shape)


def fill(model):
    """Weights that keep activations near one, and norms that are not trivial."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = numbers(name, parameter.shape)
            if parameter.dim() > 1:
                values = values * torch.tensor(math.sqrt(3 / parameter[0].numel()))
            else:
                values = values * 0.25 + (1 if "norm" in name and name.endswith("weight") else 0)
            parameter.copy_(values)
    return model.eval()


def inputs(config, height, width):
    batch = len(TIMESTEPS)
    unit = math.sqrt(3)
    given = {
        "latents": numbers("latents", (batch, config.in_channels, height, width)) * unit,
        "encoder_hidden_states": numbers("encoder_hidden_states", (batch, 5, config.cross_attention_dim)) * unit,
    }
    if config.addition_embed_type:
        whole = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        given["text_embeds"] = numbers("text_embeds", (batch, whole)) * unit
        given["time_ids"] = (numbers("time_ids", (batch, 6)) * 512).round().abs()
    return given


def predict(model, given, **more):
    added = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    states = given["encoder_hidden_states"]
    return model(given["latents"], torch.tensor(TIMESTEPS), states, added_cond_kwargs=added, **more).sample


def sampled(values):
    flat = values.flatten()
    return flat[[i * len(flat) // KEPT for i in range(KEPT)]]


def gradients(model):
    given = inputs(model.config, 8, 8)
    for name in ("latents", "encoder_hidden_states"):
        given[name].requires_grad_()
    prediction = predict(model, given)
    torch.nn.functional.mse_loss(prediction, numbers("target", prediction.shape)).backward()
    stored = {"prediction": prediction.detach()}
    for name in ("latents", "encoder_hidden_states"):
        stored[f"grad.{name}"] = given[name].grad
    parameters = dict(model.named_parameters())
    stored["grad"] = torch.stack([sampled(parameters[name].grad) for name in sorted(parameters)])
    return stored


def residuals(model, height, width):
    """Random residuals of the shapes that a ControlNet would give."""
    shapes = []
    hooked = [model.conv_in, *(part for block in model.down_blocks for part in parts(block))]
    handles = [part.register_forward_hook(lambda _, __, output: shapes.append(shape_of(output))) for part in [*hooked, model.mid_block]]
    with torch.no_grad():
        predict(model, inputs(model.config, height, width))
    for handle in handles:
        handle.remove()
    return [numbers(f"residual.{site}", shape) for site, shape in enumerate(shapes)]


def parts(block):
    layers = block.attentions if hasattr(block, "attentions") else block.resnets
    return [*layers, *(block.downsamplers or [])]


def shape_of(output):
    return tuple((output[0] if isinstance(output, tuple) else output.sample if hasattr(output, "sample") else output).shape)


def write(name, config, stored):
    folder = OUT / name
    folder.mkdir(parents=True)
    values = {key: value for key, value in config.items() if not key.startswith("_")}
    values = {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.42.1", **values}
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    save_file({key: value.contiguous() for key, value in stored.items()}, folder / "case.safetensors")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    attends = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]
    ascends = ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
    common = {"sample_size": 8, "norm_num_groups": 4, "cross_attention_dim": 12}

    sd1 = fill(UNet2DConditionModel(
        down_block_types=attends, up_block_types=ascends, block_out_channels=[8, 16, 16], layers_per_block=1, attention_head_dim=2, **common,
    ))
    stored = gradients(sd1)
    with torch.no_grad():
        stored["odd_size"] = predict(sd1, inputs(sd1.config, 9, 7))
        *down, mid = residuals(sd1, 8, 8)
        stored["with_residuals"] = predict(
            sd1, inputs(sd1.config, 8, 8), down_block_additional_residuals=down, mid_block_additional_residual=mid,
        )
    write("sd1", sd1.config, stored)

    sd2 = fill(UNet2DConditionModel(
        down_block_types=attends, up_block_types=ascends, block_out_channels=[8, 16, 24], layers_per_block=1, attention_head_dim=[1, 2, 4],
        use_linear_projection=True, upcast_attention=True, norm_eps=1e-6, transformer_layers_per_block=[1, 1, 2], flip_sin_to_cos=False, freq_shift=1,
        **common,
    ))
    write("sd2", sd2.config, gradients(sd2))

    sdxl = fill(UNet2DConditionModel(
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], block_out_channels=[8, 16, 16], layers_per_block=2,
        attention_head_dim=[1, 2, 4], use_linear_projection=True, transformer_layers_per_block=[1, 2, 3], addition_embed_type="text_time",
        addition_time_embed_dim=6, projection_class_embeddings_input_dim=46, **common,
    ))
    write("sdxl", sdxl.config, gradients(sdxl))

    odd = fill(UNet2DConditionModel(
        down_block_types=attends[:2], up_block_types=ascends[1:], block_out_channels=[8, 16], layers_per_block=[1, 2], attention_head_dim=2,
        in_channels=8, mid_block_type="UNetMidBlock2D", transformer_layers_per_block=[1, 2], reverse_transformer_layers_per_block=[1, 2],
        **common,
    ))
    with torch.no_grad():
        write("odd", odd.config, {"prediction": predict(odd, inputs(odd.config, 8, 8))})


if __name__ == "__main__":
    main()
