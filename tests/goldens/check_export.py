"""Loads what a run exports in diffusers and PEFT, and compares predictions with `host model forward`. Run by hand; it needs a run folder and a host:

    python tests/goldens/check_export.py RUN --backbone DIR [--adapter PATH=SCALE] [--host target/debug/host] [--plugin-dir DIR]

RUN's adapter is loaded as diffusers loads it (`load_lora_adapter` on the run's own file, where it is a LoRA) and as PEFT does (`host export --format peft`), and the merged pipeline with
`DiTPipeline.from_pretrained`. DIR is the run's backbone as a diffusers folder. Prints the largest difference of each, and fails above 1e-4.

Written for torch 2.13.0, diffusers 0.42.1, peft 0.21.2, safetensors 0.8.0.
"""

import argparse
import pathlib
import subprocess
import tempfile

import torch
from diffusers import DiTPipeline, DiTTransformer2DModel
from diffusers.loaders import PeftAdapterMixin
from peft import PeftModel
from safetensors.torch import load_file, save_file


class DiT(DiTTransformer2DModel, PeftAdapterMixin):
    """diffusers gives every transformer but this one its methods for adapters."""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--backbone", type=pathlib.Path, required=True)
    parser.add_argument("--adapter", action="append", default=[], help="each adapter that the run began with, as PATH=SCALE")
    parser.add_argument("--host", default="target/debug/host")
    parser.add_argument("--plugin-dir", action="append", default=[])
    arguments = parser.parse_args()
    nested = arguments.backbone / "transformer"
    transformer = nested if nested.is_dir() else arguments.backbone
    places = [word for folder in arguments.plugin_dir for word in ("--plugin-dir", folder)]

    def host(*words):
        return subprocess.run([arguments.host, *map(str, words)], check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        base = DiT.from_pretrained(transformer).eval()
        config = base.config
        torch.manual_seed(0)
        case = {
            "latents": torch.randn(3, config.in_channels, config.sample_size, config.sample_size),
            "timesteps": torch.tensor([0, 417, 999]),
            "class_labels": torch.tensor([0, config.num_embeds_ada_norm, 1]),
        }
        save_file(case, scratch / "in.safetensors")

        def ours(*words):
            host("model", "forward", *words, "--inputs", scratch / "in.safetensors", "--output", scratch / "out.safetensors")
            return load_file(scratch / "out.safetensors")["prediction"]

        def theirs(model):
            with torch.no_grad():
                return model(case["latents"], case["timesteps"], case["class_labels"]).sample

        failed = False

        def compare(name, theirs, ours):
            nonlocal failed
            difference = (theirs - ours).abs().max().item()
            failed |= not difference < 1e-4
            print(f"{name:44} {difference:.2e}")

        print(f"the backbone alone                           {(theirs(base) - ours('--backbone', arguments.backbone)).abs().max():.2e}")
        host("export", "--run", arguments.run, "--out", scratch / "pipeline", *places)
        # A model of pixels has no autoencoder, which diffusers wants to be told.
        without = {} if (scratch / "pipeline" / "vae").is_dir() else {"vae": None}
        pipeline = DiTPipeline.from_pretrained(scratch / "pipeline", **without)
        merged = theirs(pipeline.transformer.eval())
        print(f"what training moved                          {(merged - theirs(base)).abs().max():.2e}")
        compare("DiTPipeline, against host on the same folder", merged, ours("--backbone", scratch / "pipeline"))

        adapter = arguments.run / "adapter"
        if not any(adapter.glob("*.safetensors")):
            return failed
        began = [word for path in arguments.adapter for word in ("--adapter", path)]
        # Where the backbone trained too, the run keeps it beside the adapter.
        trained = adapter if (adapter / "transformer").is_dir() else arguments.backbone
        compare("DiTPipeline, against host --adapter RUN", merged, ours("--backbone", trained, *began, "--adapter", arguments.run))
        peft = scratch / "peft"
        try:
            host("export", "--run", arguments.run, "--format", "peft", "--out", peft, *places)
        except subprocess.CalledProcessError as error:
            print(f"PEFT: {error.stderr.decode().strip()}")
        else:
            model = PeftModel.from_pretrained(DiT.from_pretrained(transformer), peft).eval()
            compare("PeftModel, against host --adapter RUN", theirs(model), ours("--backbone", arguments.backbone, "--adapter", arguments.run))
        own = adapter / "pytorch_lora_weights.safetensors"
        if own.is_file():
            model = DiT.from_pretrained(transformer)
            model.load_lora_adapter(adapter, prefix="transformer", weight_name=own.name, use_safetensors=True)
            compare("load_lora_adapter, against host --adapter RUN", theirs(model.eval()), ours("--backbone", arguments.backbone, "--adapter", arguments.run))
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
