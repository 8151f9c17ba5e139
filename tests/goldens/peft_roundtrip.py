"""What the lora plugin trains, loaded by diffusers and PEFT: the same prediction as the host's, for every kind and format they read.

Makes a tiny DiT, a tiny UNet in the shape of Stable Diffusion 1, one in that of XL, and a few pictures in a temporary folder, and for each kind lets `host run` train an adapter there. diffusers
(`load_lora_adapter`, and for kohya's file a UNet's `lora_state_dict` and `load_lora_into_unet`) or PEFT (`inject_adapter_in_model` and `set_peft_model_state_dict`, as `PeftModel` does) loads it
into the network; what they predict is compared with `host model forward --adapter`. Prints the largest difference of each case relative to the largest prediction, beside how far the adapter moves
the prediction, and fails above 1e-4.

Run by hand, with torch 2.13.0, diffusers 0.42.1, peft 0.21.2, transformers 5.23.0, safetensors 0.8.0:

    python tests/goldens/peft_roundtrip.py target/debug/host [dit|sd1|sdxl ...]

DiT's own class has no `load_lora_adapter` in diffusers; it gets the mixin that has it.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders import PeftAdapterMixin
from peft import PeftConfig, PEFT_TYPE_TO_CONFIG_MAPPING, inject_adapter_in_model, set_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from text import LENGTH, tokenizer, vocabulary

EVERYWHERE = {
    "dit": ["pos_embed.proj", "**.to_q", "**.to_out.0", "**.ff.net.2", "proj_out_2"],
    "unet": ["conv_in", "**.to_q", "**.to_out.0", "**.ff.net.2", "**.proj_in", "**.resnets.0.conv1", "**.downsamplers.0.conv", "**.time_emb_proj", "conv_out"],
}
PATTERNS = ['lora.rank_pattern={"**.to_q" = 2}', 'lora.alpha_pattern={"**.to_out.0" = 7}']
# Of linear layers diffusers reads kohya's names everywhere, of convolutions only in some places.
KOHYA = 'lora.targets=["**.attn2.to_k","**.ff.net.2","**.to_out.0"]'

# Settings, and the formats in which others read the result; where `everywhere` is among the settings, targets are all kinds of layers.
CASES = {
    "lora": (["everywhere"], ["diffusers", "peft"]),
    "lora attention": ([], ["diffusers", "peft"]),
    "lora patterns": (["everywhere", "lora.alpha=6", *PATTERNS], ["diffusers", "peft"]),
    "rslora": (["everywhere", "lora.rslora=true", *PATTERNS], ["diffusers", "peft"]),
    "dora": (["everywhere", "lora.dora=true", "lora.dropout=0.2", *PATTERNS], ["diffusers", "peft"]),
    "loha": (["everywhere", "lora.kind=loha", *PATTERNS], ["peft"]),
    "loha effective": (["everywhere", "lora.kind=loha", "lora.effective_conv=true"], ["peft"]),
    "lokr": (["everywhere", "lora.kind=lokr", *PATTERNS], ["diffusers", "peft"]),
    "lokr both": (["everywhere", "lora.kind=lokr", "lora.rank=1", "lora.decompose_both=true", "lora.effective_conv=true"], ["diffusers", "peft"]),
    "lokr factor": (["everywhere", "lora.kind=lokr", "lora.decompose_factor=2"], ["diffusers", "peft"]),
    "ia3": (["everywhere", "lora.kind=ia3", "lora.rank=16"], ["peft"]),
    "kohya": ([KOHYA, "lora.alpha=6"], ["kohya"]),
}


class Adaptable(DiTTransformer2DModel, PeftAdapterMixin):
    """diffusers' DiT with diffusers' way to load adapters, which its other transformers have."""


def drawn(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


class Dit:
    """A DiT of pixels."""

    part, kind = "transformer", "dit"

    def __init__(self, folder):
        model = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=3, out_channels=6, num_layers=2, sample_size=8, patch_size=2, num_embeds_ada_norm=4
        )
        drawn(model).save_pretrained(folder / "transformer")
        DDIMScheduler().save_pretrained(folder / "scheduler")
        self.fresh = lambda: Adaptable.from_pretrained(folder / "transformer").eval()
        self.inputs = {"class_labels": torch.tensor([0, 4, 2])}

    def predict(self, model, inputs):
        return model(inputs["latents"], timestep=inputs["timesteps"], class_labels=inputs["class_labels"]).sample


class Unet:
    """A pipeline of pixels with text encoders."""

    part, kind = "unet", "unet"

    def __init__(self, folder, xl):
        attends, plain = ["CrossAttnDownBlock2D", "CrossAttnUpBlock2D"], ["DownBlock2D", "UpBlock2D"]
        down = [plain[0], attends[0]] if xl else [attends[0], plain[0]]
        up = [attends[1], plain[1]] if xl else [plain[1], attends[1]]
        more = dict(
            addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=24 + 20,
            use_linear_projection=True, transformer_layers_per_block=[1, 2],
        )
        model = UNet2DConditionModel(
            sample_size=8, in_channels=3, out_channels=3, down_block_types=down, up_block_types=up, block_out_channels=[8, 16], layers_per_block=2,
            norm_num_groups=4, attention_head_dim=[2, 4], cross_attention_dim=48 if xl else 24, **(more if xl else {}),
        )
        drawn(model).save_pretrained(folder / "unet")
        DDIMScheduler().save_pretrained(folder / "scheduler")
        tokens, merges = vocabulary()
        for suffix, kind in [("", CLIPTextModel), ("_2", CLIPTextModelWithProjection)][: 1 + xl]:
            tokenizer(tokens, merges, "!").save_pretrained(folder / f"tokenizer{suffix}")
            config = CLIPTextConfig(
                vocab_size=len(tokens), hidden_size=24, intermediate_size=48, projection_dim=20, num_hidden_layers=2, num_attention_heads=3,
                max_position_embeddings=LENGTH, bos_token_id=len(tokens) - 2, eos_token_id=len(tokens) - 1,
            )
            drawn(kind(config)).save_pretrained(folder / f"text_encoder{suffix}")
        self.fresh = lambda: UNet2DConditionModel.from_pretrained(folder / "unet").eval()
        self.pipeline = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
        self.inputs = {"encoder_hidden_states": torch.randn(3, 5, model.config.cross_attention_dim)}
        if xl:
            self.inputs |= {"text_embeds": torch.randn(3, 20), "time_ids": torch.tensor([[8.0, 8, 0, 0, 8, 8]] * 3)}

    def predict(self, model, inputs):
        added = {name: inputs[name] for name in ("text_embeds", "time_ids") if name in inputs}
        return model(inputs["latents"], inputs["timesteps"], inputs["encoder_hidden_states"], added_cond_kwargs=added).sample


FAMILIES = {"dit": Dit, "sd1": lambda folder: Unet(folder, xl=False), "sdxl": lambda folder: Unet(folder, xl=True)}


def pictures(folder):
    random = numpy.random.default_rng(0)
    for number in range(4):
        (folder / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=numpy.uint8)).save(folder / "a" / f"{number}.png")


def with_kohya(family, model, adapter):
    state, alphas = family.pipeline.lora_state_dict(str(adapter), weight_name="kohya.safetensors", unet_config=model.config)
    family.pipeline.load_lora_into_unet(state, network_alphas=alphas, unet=model)
    return model


def with_diffusers(family, model, adapter):
    # With its name given, as pipelines do; a bare path is read without the header, and so without alphas.
    model.load_lora_adapter(adapter, weight_name="pytorch_lora_weights.safetensors", prefix=family.part)
    return model


def with_peft(_, model, adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    config = PEFT_TYPE_TO_CONFIG_MAPPING[config.pop("peft_type")](**config)
    assert isinstance(config, PeftConfig)
    model = inject_adapter_in_model(config, model)
    state = load_file(adapter / "adapter_model.safetensors")
    loaded = set_peft_model_state_dict(model, {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()})
    assert not loaded.unexpected_keys, loaded.unexpected_keys
    trained = [name for name, _ in model.named_parameters() if "lora_" in name or "hada_" in name or "lokr_" in name or "ia3_" in name]
    assert len(trained) == len(state), f"{len(state)} tensors in the file, {len(trained)} parameters in the model"
    return model.eval()


READERS = {"diffusers": with_diffusers, "peft": with_peft, "kohya": with_kohya}
FILES = {"diffusers": "pytorch_lora_weights.safetensors", "peft": "adapter_model.safetensors", "kohya": "kohya.safetensors"}


def check(host, folder, name, make):
    """The largest difference of all cases of a family."""
    (folder / "backbone").mkdir()
    torch.manual_seed(0)
    family = make(folder / "backbone")
    pictures(folder / "pictures")
    torch.manual_seed(1)
    inputs = {"latents": torch.randn(3, 3, 8, 8), "timesteps": torch.tensor([3, 400, 999]), **family.inputs}
    save_file(inputs, folder / "inputs.safetensors")

    def predict(model):
        with torch.no_grad():
            return family.predict(model, inputs)

    plain = predict(family.fresh())

    def run(*arguments):
        done = subprocess.run([host, *map(str, arguments)], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)

    worst = 0
    for number, (case, (settings, formats)) in enumerate(CASES.items()):
        if formats == ["kohya"] and name == "dit":
            continue
        adapter = folder / f"run{number}" / "adapter"
        everywhere = f"lora.targets={json.dumps(EVERYWHERE[family.kind])}"
        settings = [everywhere if setting == "everywhere" else setting for setting in settings]
        sets = ["lora.rank=3", *settings, f"lora.formats={json.dumps(formats)}", "sample.count=0", "train.warmup_steps=0", "data.workers=1", "train.ema_decay=0"]
        if family.kind == "unet":
            sets.append("data.caption=a red cone")
        run(
            "run", "--backbone", "backbone", "--data", "pictures", "--plugin", "lora", "--steps", 8, "--batch-size", 4, "--lr", 0.02, "--threads", 1,
            "--out", f"run{number}", *(word for setting in sets for word in ("--set", setting)),
        )
        for form in formats:
            theirs = predict(READERS[form](family, family.fresh(), adapter))
            path = adapter / FILES[form]
            if form == "peft":
                # The folder may hold diffusers' file as well; PEFT's alone is a folder of two files.
                path = folder / f"peft{number}"
                path.mkdir()
                for file in ("adapter_model.safetensors", "adapter_config.json"):
                    (path / file).write_bytes((adapter / file).read_bytes())
            output = folder / "output.safetensors"
            run("model", "forward", "--backbone", "backbone", "--adapter", path, "--inputs", folder / "inputs.safetensors", "--output", output)
            ours = load_file(output)["prediction"]
            error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
            moved = ((theirs - plain).abs().max() / plain.abs().max()).item()
            worst = max(worst, error)
            print(f"{name:5} {case:16} {form:10} differs by {error:.1e}, the adapter moves by {moved:.1e}", flush=True)
            assert moved > 1e-3, "the adapter does nothing"
    return worst


def main():
    host = pathlib.Path(sys.argv[1]).resolve()
    for name in sys.argv[2:] or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            worst = check(host, pathlib.Path(folder), name, FAMILIES[name])
        assert worst < 1e-4, worst


if __name__ == "__main__":
    main()
