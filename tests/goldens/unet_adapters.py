"""LoRA files for UNets, and what diffusers predicts with them.

For the models of `unet.py`, with its weights and inputs:

- `diffusers.safetensors` for `sd1`: attention, a transformer's projections and convolutions, as `StableDiffusionPipeline.save_lora_weights` writes what PEFT trains, its configuration in the
  header.
- `kohya.safetensors` for `sdxl`: keys of texts and feed-forward layers under the names of kohya's tools, which for Stable Diffusion XL are those of the original code (`original.py`).

`predictions.safetensors` has the prediction with each, once loaded by diffusers. All values are drawn by name (`numbers`), in f16.

Written with torch 2.13.0, diffusers 0.42.1, peft 0.21.2, safetensors 0.8.0, by

    python tests/goldens/unet_adapters.py
"""

import pathlib
import shutil
import tempfile

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from original import unet_names
from unet import OUT as UNETS
from unet import fill, inputs, numbers, predict

OUT = pathlib.Path(__file__).parent / "unet_adapters"


def model(name):
    return fill(UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(UNETS / name)))


def drawn(name, shape):
    """Numbers that f16 holds exactly."""
    return (numbers(name, shape) * 0.5).half().float()


def first():
    unet = model("sd1")
    targets = ["attn2.to_q", "attn1.to_out.0", "proj_in", "mid_block.resnets.0.conv1", "down_blocks.0.downsamplers.0.conv"]
    unet.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=targets, rank_pattern={"mid_block.resnets.0.conv1": 1}))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_" in name:
                parameter.copy_(drawn(name, parameter.shape))
    layers = {name: tensor.half() for name, tensor in get_peft_model_state_dict(unet).items()}
    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, **_collate_lora_metadata({"unet": unet}))
        shutil.copy(pathlib.Path(folder) / "pytorch_lora_weights.safetensors", OUT / "diffusers.safetensors")
    loaded = model("sd1")
    state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(str(OUT), weight_name="diffusers.safetensors", unet_config=loaded.config, return_lora_metadata=True)
    StableDiffusionPipeline.load_lora_into_unet(state, network_alphas=alphas, unet=loaded, metadata=metadata)
    return predict(loaded, inputs(loaded.config, 8, 8)), predict(model("sd1"), inputs(loaded.config, 8, 8))


def second():
    unet = model("sdxl")
    names = unet_names(unet)
    tensors = {}
    for name, module in unet.named_modules():
        if not name.endswith((".transformer_blocks.0.attn2.to_k", ".transformer_blocks.0.ff.net.2")):
            continue
        original = names[f"{name}.weight"].removeprefix("model.diffusion_model.").removesuffix(".weight")
        key = "lora_unet_" + original.replace(".", "_")
        outputs, inner = module.weight.shape
        tensors[f"{key}.lora_down.weight"] = drawn(f"{name}.down", (1, inner)).half()
        tensors[f"{key}.lora_up.weight"] = drawn(f"{name}.up", (outputs, 1)).half()
        tensors[f"{key}.alpha"] = torch.tensor(1.5).half()
    save_file(tensors, OUT / "kohya.safetensors")
    state, alphas = StableDiffusionXLPipeline.lora_state_dict(str(OUT), weight_name="kohya.safetensors", unet_config=unet.config)
    plain = predict(unet, inputs(unet.config, 8, 8))
    StableDiffusionXLPipeline.load_lora_into_unet(state, network_alphas=alphas, unet=unet)
    return predict(unet, inputs(unet.config, 8, 8)), plain


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    stored = {}
    for name, make in [("diffusers", first), ("kohya", second)]:
        with torch.no_grad():
            adapted, plain = make()
        assert (adapted - plain).abs().max() > 0.1, "the adapter does nothing"
        stored[name] = adapted.contiguous()
    save_file(stored, OUT / "predictions.safetensors")


if __name__ == "__main__":
    main()
