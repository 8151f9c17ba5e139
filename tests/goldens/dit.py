"""Golden values for the DiT backbone, from diffusers' DiTTransformer2DModel.

Four tiny models with random weights (adaLN included, which a fresh DiT has at zero), each with inputs and what diffusers computes from them in f32:

- `small`: a pipeline root; learned variance, a batch of three, embedders that differ between blocks, one f32 file.
- `sharded`: a model folder; fp16 in shards, three heads, patch 4, no attention bias, exact GELU, norms with parameters; also run at another size.
- `pickled`: a model folder as before diffusers 0.30 (`Transformer2DModel`, a flat `.bin`), with GEGLU.
- `original`: the layout of the original code, in f16, nested as its training script saves it (`ema`, `model`, `opt`, `args`).

`case.safetensors` holds `latents`, `timesteps`, `class_labels`, `prediction`; where there is a `target`, also `loss` (the mean squared error) and its gradients, `grad.<parameter>` and
`grad_latents`.

Written with torch 2.13.0, diffusers 0.42.1, safetensors 0.8.0, by

    python tests/goldens/dit.py
"""

import argparse
import json
import math
import pathlib
import shutil

import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "dit"

GRADIENTS = [
    "pos_embed.proj.weight",
    "pos_embed.proj.bias",
    "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.bias",
    "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2.weight",
    "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.weight",
    "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight",
    "transformer_blocks.0.norm1.linear.weight",
    "transformer_blocks.1.norm1.linear.bias",
    "transformer_blocks.0.attn1.to_q.weight",
    "transformer_blocks.1.attn1.to_k.weight",
    "transformer_blocks.0.attn1.to_v.weight",
    "transformer_blocks.0.attn1.to_out.0.weight",
    "transformer_blocks.1.ff.net.0.proj.weight",
    "transformer_blocks.0.ff.net.2.bias",
    "transformer_blocks.0.norm3.weight",
    "transformer_blocks.1.norm3.bias",
    "proj_out_1.bias",
    "proj_out_2.weight",
]


def build(half, **config):
    """A model whose every parameter is random, of a size that keeps activations near one."""
    model = DiTTransformer2DModel(**config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embedding_table" not in name:
                parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()))
            else:
                parameter.normal_(0, 0.3)
            if name.endswith("norm3.weight"):
                parameter.add_(1)
            if half:
                # Values that f16 holds exactly, so that the stored model is the one that was run.
                parameter.copy_(parameter.half())
    return model


def inputs(config, timesteps, labels, size=None):
    batch = len(timesteps)
    size = size or config["sample_size"]
    return {
        "latents": torch.randn(batch, config["in_channels"], size, size),
        "timesteps": torch.tensor(timesteps),
        "class_labels": torch.tensor(labels),
    }


def predict(model, case):
    return model(case["latents"], case["timesteps"], case["class_labels"]).sample


def with_prediction(model, case):
    with torch.no_grad():
        return {**case, "prediction": predict(model, case)}


def with_gradients(model, case):
    model.zero_grad()
    latents = case["latents"].clone().requires_grad_()
    prediction = predict(model, {**case, "latents": latents})
    target = torch.randn_like(prediction)
    loss = torch.nn.functional.mse_loss(prediction, target)
    loss.backward()
    parameters = dict(model.named_parameters())
    gradients = {f"grad.{name}": parameters[name].grad for name in GRADIENTS if name in parameters}
    return {
        **case,
        "prediction": prediction.detach(),
        "target": target,
        "loss": loss.detach().reshape(1),
        "grad_latents": latents.grad,
        **gradients,
    }


def save(tensors, path):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def to_original(state, depth):
    """The same values under the names of the original code; its single embedder is block 0's."""
    first = "transformer_blocks.0.norm1.emb."
    layers = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": first + "timestep_embedder.linear_1",
        "t_embedder.mlp.2": first + "timestep_embedder.linear_2",
        "y_embedder.embedding_table": first + "class_embedder.embedding_table",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    original = {}
    for index in range(depth):
        ours, theirs = f"blocks.{index}", f"transformer_blocks.{index}"
        layers |= {
            f"{ours}.adaLN_modulation.1": f"{theirs}.norm1.linear",
            f"{ours}.attn.proj": f"{theirs}.attn1.to_out.0",
            f"{ours}.mlp.fc1": f"{theirs}.ff.net.0.proj",
            f"{ours}.mlp.fc2": f"{theirs}.ff.net.2",
        }
        for kind in ["weight", "bias"]:
            parts = [state[f"{theirs}.attn1.to_{part}.{kind}"] for part in "qkv"]
            original[f"{ours}.attn.qkv.{kind}"] = torch.cat(parts)
    for ours, theirs in layers.items():
        for kind in ["weight", "bias"]:
            if f"{theirs}.{kind}" in state:
                original[f"{ours}.{kind}"] = state[f"{theirs}.{kind}"]
    return original


def small():
    config = dict(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2)
    config |= dict(sample_size=8, patch_size=2, num_embeds_ada_norm=10)
    model = build(half=False, **config)
    folder = OUT / "small"
    model.save_pretrained(folder / "transformer")
    index = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    save(with_gradients(model, inputs(config, [0, 417, 999], [3, 10, 0])), folder / "case.safetensors")


def sharded():
    config = dict(num_attention_heads=3, attention_head_dim=16, in_channels=3, num_layers=2, sample_size=16)
    config |= dict(patch_size=4, num_embeds_ada_norm=5, attention_bias=False, activation_fn="gelu")
    config |= dict(norm_elementwise_affine=True, norm_eps=1e-4)
    model = build(half=True, **config)
    folder = OUT / "sharded"
    save_as_half(model, folder)
    save(with_gradients(model, inputs(config, [3, 998], [5, 2])), folder / "case.safetensors")
    resized = inputs(config, [500], [1], size=24)
    save(with_prediction(model, resized), folder / "resized.safetensors")


def save_as_half(model, folder):
    copy = DiTTransformer2DModel.from_config(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(folder, max_shard_size="150KB", variant="fp16")


def pickled():
    config = dict(num_attention_heads=2, attention_head_dim=8, in_channels=2, num_layers=1, sample_size=4)
    config |= dict(patch_size=1, num_embeds_ada_norm=3, activation_fn="geglu")
    model = build(half=True, **config)
    folder = OUT / "pickled"
    folder.mkdir(parents=True)
    torch.save(model.half().state_dict(), folder / "diffusion_pytorch_model.bin")
    config |= dict(_class_name="Transformer2DModel", norm_type="ada_norm_zero", norm_elementwise_affine=False)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    plain = DiTTransformer2DModel.from_pretrained(folder, use_safetensors=False, torch_dtype=torch.float32)
    save(with_prediction(plain, inputs(config, [20, 640], [3, 1])), folder / "case.safetensors")


def original():
    config = dict(num_attention_heads=1, attention_head_dim=64, in_channels=3, out_channels=6, num_layers=1)
    config |= dict(sample_size=8, patch_size=2, num_embeds_ada_norm=7)
    model = build(half=True, **config)
    weights = to_original(model.state_dict(), depth=1) | {"pos_embed": model.pos_embed.pos_embed}
    weights = {name: tensor.half() for name, tensor in weights.items()}
    folder = OUT / "original"
    folder.mkdir(parents=True)
    stale = {name: torch.zeros(1).half().expand(tensor.shape) for name, tensor in weights.items()}
    nested = {"model": stale, "ema": weights, "opt": {"state": {}}, "args": argparse.Namespace(model="DiT")}
    torch.save(nested, folder / "DiT.pt")
    save(with_prediction(model, inputs(config, [1, 250, 750], [0, 7, 6])), folder / "case.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shutil.rmtree(OUT, ignore_errors=True)
    small()
    sharded()
    pickled()
    original()
