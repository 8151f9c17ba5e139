"""What the lora plugin trains, loaded by diffusers and PEFT: the same prediction as the host's, for every kind and format they read.

Makes a tiny DiT and a few pictures in a temporary folder, and for each kind lets `host run` train an adapter there. diffusers (`load_lora_adapter`) or PEFT (`inject_adapter_in_model` and
`set_peft_model_state_dict`, as `PeftModel` does) loads it into the DiT; what they predict is compared with `host model forward --adapter`. Prints the largest difference of each case relative
to the largest prediction, beside how far the adapter moves the prediction, and fails above 1e-4.

Run by hand, with torch 2.13.0, diffusers 0.42.1, peft 0.21.2, safetensors 0.8.0:

    python tests/goldens/peft_roundtrip.py target/debug/host
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from peft import PeftConfig, PEFT_TYPE_TO_CONFIG_MAPPING, inject_adapter_in_model, set_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file

EVERYWHERE = 'lora.targets=["pos_embed.proj","**.to_q","**.to_out.0","**.ff.net.2","proj_out_2"]'
PATTERNS = ['lora.rank_pattern={"**.to_q" = 2}', 'lora.alpha_pattern={"proj_out_2" = 7}']

CASES = {
    "lora": ([EVERYWHERE], ["diffusers", "peft"]),
    "lora attention": ([], ["diffusers", "peft"]),
    "lora patterns": ([EVERYWHERE, "lora.alpha=6", *PATTERNS], ["diffusers", "peft"]),
    "rslora": ([EVERYWHERE, "lora.rslora=true", *PATTERNS], ["diffusers", "peft"]),
    "dora": ([EVERYWHERE, "lora.dora=true", "lora.dropout=0.2", *PATTERNS], ["diffusers", "peft"]),
    "loha": ([EVERYWHERE, "lora.kind=loha", *PATTERNS], ["peft"]),
    "loha effective": ([EVERYWHERE, "lora.kind=loha", "lora.effective_conv=true"], ["peft"]),
    "lokr": ([EVERYWHERE, "lora.kind=lokr", *PATTERNS], ["diffusers", "peft"]),
    "lokr both": ([EVERYWHERE, "lora.kind=lokr", "lora.rank=1", "lora.decompose_both=true", "lora.effective_conv=true"], ["diffusers", "peft"]),
    "lokr factor": ([EVERYWHERE, "lora.kind=lokr", "lora.decompose_factor=2"], ["diffusers", "peft"]),
    "ia3": ([EVERYWHERE, "lora.kind=ia3", "lora.rank=16"], ["peft"]),
}


def backbone(folder):
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=3, out_channels=6, num_layers=2, sample_size=8, patch_size=2, num_embeds_ada_norm=4
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    model.save_pretrained(folder / "transformer")
    DDIMScheduler().save_pretrained(folder / "scheduler")


def pictures(folder):
    random = numpy.random.default_rng(0)
    for number in range(4):
        (folder / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=numpy.uint8)).save(folder / "a" / f"{number}.png")


def predict(model, inputs):
    with torch.no_grad():
        return model(inputs["latents"], timestep=inputs["timesteps"], class_labels=inputs["class_labels"]).sample


def with_diffusers(model, adapter):
    model.load_lora_adapter(adapter / "pytorch_lora_weights.safetensors", prefix="transformer")
    return model


def with_peft(model, adapter):
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


def main():
    host = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        backbone(folder / "dit")
        pictures(folder / "pictures")
        torch.manual_seed(1)
        inputs = {"latents": torch.randn(3, 3, 8, 8), "timesteps": torch.tensor([3, 400, 999]), "class_labels": torch.tensor([0, 4, 2])}
        save_file(inputs, folder / "inputs.safetensors")
        fresh = lambda: DiTTransformer2DModel.from_pretrained(folder / "dit" / "transformer").eval()
        plain = predict(fresh(), inputs)

        def run(*arguments):
            subprocess.run([host, *map(str, arguments)], cwd=folder, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

        worst = 0
        for number, (name, (settings, formats)) in enumerate(CASES.items()):
            adapter = folder / f"run{number}" / "adapter"
            sets = ["lora.rank=3", *settings, f"lora.formats={json.dumps(formats)}", "sample.count=0", "train.warmup_steps=0", "data.workers=1", "train.ema_decay=0"]
            run(
                "run", "--backbone", "dit", "--data", "pictures", "--plugin", "lora", "--steps", 8, "--batch-size", 4, "--lr", 0.02, "--threads", 1,
                "--out", f"run{number}", *(word for setting in sets for word in ("--set", setting)),
            )
            for form in formats:
                theirs = predict((with_diffusers if form == "diffusers" else with_peft)(fresh(), adapter), inputs)
                path = adapter / "pytorch_lora_weights.safetensors" if form == "diffusers" else adapter / "adapter_model.safetensors"
                if form == "peft":
                    # The folder may hold diffusers' file as well; PEFT's alone is a folder of two files.
                    path = folder / f"peft{number}"
                    path.mkdir()
                    for file in ("adapter_model.safetensors", "adapter_config.json"):
                        (path / file).write_bytes((adapter / file).read_bytes())
                output = folder / "output.safetensors"
                run("model", "forward", "--backbone", "dit", "--adapter", path, "--inputs", folder / "inputs.safetensors", "--output", output)
                ours = load_file(output)["prediction"]
                error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
                moved = ((theirs - plain).abs().max() / plain.abs().max()).item()
                worst = max(worst, error)
                print(f"{name:16} {form:10} differs by {error:.1e}, the adapter moves by {moved:.1e}")
                assert moved > 1e-3, "the adapter does nothing"
        assert worst < 1e-4, worst


if __name__ == "__main__":
    main()
