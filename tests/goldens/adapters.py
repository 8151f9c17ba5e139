"""Golden adapters: files of every kind that PEFT, diffusers and kohya write, and what diffusers + PEFT predict with each.

The backbone and the inputs are `dit/small` and its `case.safetensors` (written by dit.py). Each folder or file of `adapters/` is one adapter with random weights, none of them zero;
`adapters/predictions.safetensors` holds the prediction with each, by the name of the file or folder; `NAME@SCALE` is with that strength.

Written with torch 2.13.0, diffusers 0.42.1, peft 0.21.2, safetensors 0.8.0, by

    python tests/goldens/adapters.py
"""

import copy
import pathlib
import shutil

import torch
from diffusers import DiTTransformer2DModel
from diffusers.loaders import PeftAdapterMixin
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

GOLDENS = pathlib.Path(__file__).parent
OUT = GOLDENS / "adapters"
SMALL = GOLDENS / "dit" / "small"
PREDICTIONS = {}


class DiT(DiTTransformer2DModel, PeftAdapterMixin):
    """diffusers gives every transformer but this one its methods for adapters."""


def base():
    return DiT.from_pretrained(SMALL / "transformer").eval()


def predict(model):
    case = load_file(SMALL / "case.safetensors")
    with torch.no_grad():
        return model(case["latents"], case["timesteps"], case["class_labels"]).sample


def shake(model):
    """Random adapters; (IA)3's scales and DoRA's magnitudes stay near what they begin at."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if "ia3_l" in name or "lora_magnitude_vector" in name:
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
            elif any(part in name for part in ["lora_", "hada_", "lokr_"]):
                parameter.normal_(0, 0.25)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))


def peft(name, config, scale=None):
    """A folder as PEFT writes it."""
    model = get_peft_model(base(), config)
    model.eval()
    shake(model)
    model.save_pretrained(OUT / name)
    (OUT / name / "README.md").unlink()
    PREDICTIONS[name] = predict(model)
    if scale is not None:
        for module in model.modules():
            if hasattr(module, "scale_layer"):
                module.scale_layer(scale)
        PREDICTIONS[f"{name}@{scale}"] = predict(model)
    return model


def diffusers():
    """A file as diffusers writes it, with PEFT's configuration in its header; and one with the name of the part before every key, in halves and without one."""
    config = LoraConfig(r=4, lora_alpha=7, target_modules=["to_q", "to_k", "to_out.0", "linear_2"])
    config.rank_pattern = {"transformer_blocks.0.attn1.to_q": 2, "transformer_blocks.1.attn1.to_q": 3}
    config.alpha_pattern = {"transformer_blocks.0.attn1.to_q": 5, "transformer_blocks.1.attn1.to_q": 1, "linear_2": 2}
    model = base()
    model.add_adapter(config)
    shake(model)
    model.save_lora_adapter(OUT / "diffusers")
    # As a reader sees it: the header lists patterns by the alphabet, and the first that matches counts.
    model = base()
    model.load_lora_adapter(OUT / "diffusers", prefix=None, use_safetensors=True)
    PREDICTIONS["diffusers"] = predict(model)

    model = base()
    model.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=["to_q", "net.2"]))
    shake(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.half())
    state = get_peft_model_state_dict(model)
    save_file({f"transformer.{key}": value.half().contiguous() for key, value in state.items()}, OUT / "halves.safetensors", {"format": "pt"})
    PREDICTIONS["halves.safetensors"] = predict(model)

    # As before PEFT: `lora.down`, `lora.up`, and a text encoder's layers in the same file.
    old = {}
    for key, value in state.items():
        key = key.replace("lora_A", "lora.down").replace("lora_B", "lora.up")
        old[f"unet.{key}"] = value.contiguous()
    old["text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora.down.weight"] = torch.ones(2, 3)
    save_file(old, OUT / "down_up.safetensors")
    PREDICTIONS["down_up.safetensors"] = PREDICTIONS["halves.safetensors"].clone()


def kohya():
    """The same updates under kohya's and LyCORIS's names, each with an alpha of its own."""
    names = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight", "lora_magnitude_vector": "dora_scale"}
    cases = {
        "kohya_lora": LoraConfig(r=4, lora_alpha=3, target_modules=["to_q", "pos_embed.proj", "ff.net.0.proj"]),
        "kohya_dora": LoraConfig(r=4, lora_alpha=3, use_dora=True, target_modules=["to_q", "net.2"]),
        "lycoris_loha": LoHaConfig(r=3, alpha=2, target_modules=["to_k", "net.2"]),
        "lycoris_lokr": LoKrConfig(r=2, alpha=5, target_modules=["to_k", "net.2"]),
    }
    for name, config in cases.items():
        model = get_peft_model(base(), config)
        model.eval()
        shake(model)
        prefix = "lora_unet_" if name.startswith("kohya") else "lycoris_"
        tensors = {}
        for key, value in get_peft_model_state_dict(model).items():
            path = key.removeprefix("base_model.model.")
            part = next(part for part in [*names, "hada_", "lokr_"] if f".{part}" in path)
            at = path.index(f".{part}")
            module, part = prefix + path[:at].replace(".", "_"), path[at + 1 :]
            if part == "lora_magnitude_vector":
                value = value.reshape(-1, 1)
            tensors[f"{module}.{names.get(part, part)}"] = value.contiguous()
            tensors[f"{module}.alpha"] = torch.tensor(float(getattr(config, "lora_alpha", None) or config.alpha))
        save_file(tensors, OUT / f"{name}.safetensors")
        PREDICTIONS[f"{name}.safetensors"] = predict(model)


def main():
    torch.manual_seed(4)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    attention = ["to_q", "to_k", "to_v", "to_out.0"]
    peft("lora", LoraConfig(r=4, lora_alpha=6, target_modules=[*attention, "proj_out_1"], rank_pattern={"to_v": 2}, alpha_pattern={"to_k": 1}), scale=0.5)
    peft("rslora", LoraConfig(r=4, lora_alpha=2, use_rslora=True, lora_bias=True, target_modules=["to_v", "net.0.proj"]))
    peft("conv_and_table", LoraConfig(r=2, lora_alpha=4, target_modules=["pos_embed.proj", "embedding_table", "linear_1"]))
    peft("dora", LoraConfig(r=3, lora_alpha=4, use_dora=True, target_modules=["to_q", "net.2", "pos_embed.proj"]), scale=0.5)
    peft("biases", LoraConfig(r=2, lora_alpha=2, bias="lora_only", modules_to_save=["proj_out_2"], target_modules=["to_q"]))
    peft("loha", LoHaConfig(r=3, alpha=5, target_modules=["to_q", "net.0.proj", "pos_embed.proj"], rank_pattern={"to_q": 2}))
    peft("loha_conv", LoHaConfig(r=3, alpha=5, use_effective_conv2d=True, target_modules=["pos_embed.proj"]))
    peft("lokr", LoKrConfig(r=2, alpha=3, target_modules=["to_q", "net.0.proj", "pos_embed.proj"]))
    peft("lokr_conv", LoKrConfig(r=2, alpha=3, decompose_both=True, use_effective_conv2d=True, target_modules=["to_out.0", "pos_embed.proj"]))
    peft("lokr_whole", LoKrConfig(r=16, alpha=4, target_modules=["to_v"]))
    peft("ia3", IA3Config(target_modules=["to_k", "to_v", "net.2", "pos_embed.proj"], feedforward_modules=["net.2"]))
    peft("ia3_inputs", IA3Config(target_modules=["pos_embed.proj", "to_q"], feedforward_modules=["pos_embed.proj"]))
    diffusers()
    kohya()
    save_file({name: value.contiguous() for name, value in PREDICTIONS.items()}, OUT / "predictions.safetensors")
    plain = predict(base())
    for name, value in PREDICTIONS.items():
        moved = (value - plain).abs().max().item()
        print(f"{name:28} moves the prediction by up to {moved:.3f}")
        assert moved > 0.01, name


if __name__ == "__main__":
    main()
