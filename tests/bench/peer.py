"""Training steps in PyTorch with diffusers and PEFT: what `host bench` is compared with.

torch 2.13.0, diffusers 0.42.1, peft 0.21.2. Prints one line of JSON, whose keys `host bench --json` has too:

    python tests/bench/peer.py --model dit-s2 --mode lora --batch 8 --threads 1 --steps 5 [--save DIR]
    python tests/bench/peer.py --model sd15 --mode controlnet --batch 1 --threads 1 --steps 2 [--save DIR]

With --save DIR the backbone is left as a diffusers folder and the inputs of all steps as DIR/inputs.safetensors, which `host bench --backbone DIR --inputs
DIR/inputs.safetensors` takes. Models: DiTs, and UNets in the shape of Stable Diffusion 1.5 (`sd15`), of half its width (`sd15-half`) and a small one
(`unet-tiny`); all weights are random. The steps are AdamW at learning rate 1e-4 without decay:

lora        the squared error of the noise on given latents, by LoRA in the attention
full        the same, all weights trained
controlnet  the same on pictures, which the autoencoder turns into latents in every step; a ControlNet with a hint is trained (train_controlnet.py of diffusers)
e2e_ft      depth from pictures in one step: all weights trained, the widened first layer too, by the affine-invariant loss on what the frozen decoder
            makes of the prediction (E2E FT, arXiv 2409.11355)
"""

import argparse
import json
import os
import resource
import time

BEGAN = time.perf_counter()

# name: blocks, heads of 64
DITS = {"dit-tiny": (4, 3), "dit-s2": (12, 6), "dit-b2": (12, 12)}
# name: channels of each level of the UNet, width of the text's tokens, channels of each level of the autoencoder
UNETS = {
    "unet-tiny": ([32, 64, 128, 128], 64, [32, 32, 64, 64]),
    "sd15-half": ([160, 320, 640, 640], 768, [128, 256, 512, 512]),
    "sd15": ([320, 640, 1280, 1280], 768, [128, 256, 512, 512]),
}
MODELS = [*DITS, *UNETS]
# Of the modes, those whose inputs are pictures, and the column of the data that they read.
COLUMNS = {"controlnet": "hint", "e2e_ft": "depth"}
MODES = ["lora", "full", *COLUMNS]
TOKENS = 77
CLASSES = 1000
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
FACTOR = 8
# Tokens of the text encoder beside its two marks.
LETTERS = 512
DEPTH_RANGE = 1.0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="dit-s2")
    parser.add_argument("--mode", choices=MODES, default="lora")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=32, help="height and width of the latents")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="steps after the first, which is told apart")
    parser.add_argument("--save", metavar="DIR", help="leave the backbone and the inputs here")
    asked = parser.parse_args()
    if asked.mode in COLUMNS and asked.model not in UNETS:
        parser.error(f"{asked.mode} is for {', '.join(UNETS)}")
    return asked


def make_inputs(torch, args):
    """What every step works on, the first included; the same for the same seed."""
    generator = torch.Generator().manual_seed(1)
    shape = (args.batch, 4, args.size, args.size)
    plane = (FACTOR * args.size, FACTOR * args.size)
    for _ in range(args.steps + 1):
        given = {"noise": torch.randn(shape, generator=generator), "timesteps": torch.randint(0, 1000, (args.batch,), generator=generator)}
        if args.mode in COLUMNS:
            given["images"] = torch.rand((args.batch, 3, *plane), generator=generator) * 2 - 1
        else:
            given["latents"] = torch.randn(shape, generator=generator)
        if args.mode == "controlnet":
            given["hint"] = torch.rand((args.batch, 3, *plane), generator=generator) * 2 - 1
        if args.mode == "e2e_ft":
            given["depth"] = 0.1 + 0.9 * torch.rand((args.batch, 1, *plane), generator=generator)
        if args.model in DITS:
            given["class_labels"] = torch.randint(0, CLASSES, (args.batch,), generator=generator)
        else:
            given["encoder_hidden_states"] = torch.randn((args.batch, TOKENS, UNETS[args.model][1]), generator=generator)
        yield given


def make_net(args):
    """The network, its part of a pipeline, and the process it is trained with."""
    from diffusers import DDPMScheduler, DiTTransformer2DModel, UNet2DConditionModel

    if args.model in UNETS:
        channels, text, _ = UNETS[args.model]
        net = UNet2DConditionModel(sample_size=args.size, block_out_channels=channels, cross_attention_dim=text)
        return net, "unet", DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    blocks, heads = DITS[args.model]
    net = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=64,
        in_channels=4,
        out_channels=8,
        num_layers=blocks,
        sample_size=args.size,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
    )
    return net, "transformer", DDPMScheduler(beta_schedule="linear")


def make_autoencoder(torch, args):
    """Frozen, and so sure of its latents that drawing from them and taking their mean are one."""
    from diffusers import AutoencoderKL

    channels = UNETS[args.model][2]
    vae = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        layers_per_block=2,
        latent_channels=4,
        sample_size=FACTOR * args.size,
        scaling_factor=0.18215,
    )
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0.0
        vae.quant_conv.bias[4:] = -30.0
    return vae.requires_grad_(False).eval()


def make_text(args):
    """A text encoder of two layers, whose tokenizer knows single bytes."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(vocab_size=LETTERS + 2, hidden_size=UNETS[args.model][1], num_hidden_layers=2, bos_token_id=LETTERS, eos_token_id=LETTERS + 1)
    return CLIPTextModel(config).requires_grad_(False).eval()


def save_tokenizer(folder):
    """CLIP's with no merges: all bytes, all bytes that end a word, and the two marks."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    os.makedirs(folder)
    write = lambda name, text: open(os.path.join(folder, name), "w").write(text)
    write("vocab.json", json.dumps({token: number for number, token in enumerate(tokens)}))
    write("merges.txt", "#version: 0.2\n")
    marks = {"bos_token": tokens[-2], "eos_token": tokens[-1], "unk_token": tokens[-1], "pad_token": tokens[-1]}
    write("tokenizer_config.json", json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, **marks}))


class Noise:
    """The squared error of the noise on given latents; all weights train, or LoRA."""

    def __init__(self, torch, args, net, scheduler, _vae, _text):
        from peft import LoraConfig, inject_adapter_in_model

        if args.mode == "lora":
            net.requires_grad_(False)
            inject_adapter_in_model(LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=TARGETS), net)
        self.torch, self.net, self.scheduler = torch, net, scheduler
        self.nets = [net]

    def loss(self, given):
        noisy = self.scheduler.add_noise(given["latents"], given["noise"], given["timesteps"])
        told = {name: given[name] for name in ("class_labels", "encoder_hidden_states") if name in given}
        prediction = self.net(noisy, timestep=given["timesteps"], **told).sample[:, :4]
        return self.torch.nn.functional.mse_loss(prediction, given["noise"])


class Controlnet:
    """As `Noise` on encoded pictures, a ControlNet beside the frozen network."""

    def __init__(self, torch, _args, net, scheduler, vae, _text):
        from diffusers import ControlNetModel

        self.controlnet = ControlNetModel.from_unet(net)
        self.torch, self.net, self.scheduler, self.vae = torch, net.requires_grad_(False), scheduler, vae
        self.nets = [self.controlnet]

    def loss(self, given):
        with self.torch.no_grad():
            latents = self.vae.encode(given["images"]).latent_dist.sample() * self.vae.config.scaling_factor
        noisy = self.scheduler.add_noise(latents, given["noise"], given["timesteps"])
        at = (noisy, given["timesteps"], given["encoder_hidden_states"])
        hint = given["hint"] / 2 + 0.5
        down, mid = self.controlnet(*at, controlnet_cond=hint, return_dict=False)
        prediction = self.net(*at, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
        return self.torch.nn.functional.mse_loss(prediction, given["noise"])


class E2eFt:
    """Depth in one step from the last timestep with zeros for noise and no words, the loss on the decoded picture."""

    def __init__(self, torch, _args, net, scheduler, vae, text):
        nothing = torch.tensor([[LETTERS, *[LETTERS + 1] * (TOKENS - 1)]])
        self.told = text(nothing).last_hidden_state
        narrow = net.conv_in
        wide = torch.nn.Conv2d(2 * narrow.in_channels, narrow.out_channels, 3, padding=1)
        wide.weight.data = torch.cat([narrow.weight.data, narrow.weight.data], 1) / 2
        wide.bias.data = narrow.bias.data / 2
        net.conv_in = wide
        self.torch, self.net, self.vae = torch, net, vae
        self.last = scheduler.config.num_train_timesteps - 1
        self.kept = scheduler.alphas_cumprod[self.last]
        self.nets = [net]

    def loss(self, given):
        torch, scale = self.torch, self.vae.config.scaling_factor
        with torch.no_grad():
            context = self.vae.encode(given["images"]).latent_dist.mode() * scale
        noisy = torch.zeros_like(context)
        timesteps = torch.full((len(context),), self.last)
        told = self.told.expand(len(context), -1, -1)
        prediction = self.net(torch.cat([context, noisy], 1), timesteps, told).sample
        latents = (noisy - (1 - self.kept).sqrt() * prediction) / self.kept.sqrt()
        depth = self.vae.decode(latents / scale).sample.mean(1, keepdim=True).clamp(-1, 1)
        near, far = torch.quantile(given["depth"].flatten(1), torch.tensor([0.02, 0.98]), dim=1)[..., None, None, None]
        truth = given["depth"].clamp(near, far) * DEPTH_RANGE
        # The least squares over each picture, all of whose pixels are known.
        p, t = depth.flatten(1).double(), truth.flatten(1).double()
        count, pp, sum_p = p.shape[1], (p * p).sum(1), p.sum(1)
        pt, sum_t = (p * t).sum(1), t.sum(1)
        determinant = pp * count - sum_p**2
        scale, shift = (count * pt - sum_p * sum_t) / determinant, (pp * sum_t - sum_p * pt) / determinant
        return (scale[:, None] * p + shift[:, None] - t).abs().mean().float()


def main():
    args = arguments()
    # Before the libraries are loaded: they look once.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    import torch
    import diffusers  # noqa: F401, so that loading it is told from building the network
    from safetensors.torch import save_file

    torch.set_num_threads(args.threads)
    imported = time.perf_counter()

    torch.manual_seed(0)
    net, part, scheduler = make_net(args)
    vae = make_autoencoder(torch, args) if args.mode in COLUMNS else None
    text = make_text(args) if args.mode == "e2e_ft" else None
    built = time.perf_counter() - imported
    if args.save:
        net.save_pretrained(os.path.join(args.save, part))
        scheduler.save_pretrained(os.path.join(args.save, "scheduler"))
        if vae:
            vae.save_pretrained(os.path.join(args.save, "vae"))
        if text:
            text.save_pretrained(os.path.join(args.save, "text_encoder"))
            save_tokenizer(os.path.join(args.save, "tokenizer"))
    again = time.perf_counter()
    method = {"controlnet": Controlnet, "e2e_ft": E2eFt}.get(args.mode, Noise)(torch, args, net, scheduler, vae, text)
    for trains in method.nets:
        trains.eval()  # gradients flow all the same, and no label is dropped
    trained = [parameter for trains in method.nets for parameter in trains.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    built += time.perf_counter() - again

    inputs = list(make_inputs(torch, args))
    if args.save:
        tensors = {f"step{step}.{name}": tensor for step, given in enumerate(inputs) for name, tensor in given.items()}
        save_file(tensors, os.path.join(args.save, "inputs.safetensors"))

    times, losses, worked = [], [], []
    for given in inputs:
        worked.append(time.process_time())
        begin = time.perf_counter()
        loss = method.loss(given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - begin)
        losses.append(loss.item())

    worked = (time.process_time() - worked[1]) / args.steps
    later = sorted(times[1:])
    print(
        json.dumps(
            {
                "model": args.model,
                "mode": args.mode,
                "batch": args.batch,
                "size": args.size,
                "threads": args.threads,
                "trainable": sum(parameter.numel() for parameter in trained),
                "import_s": imported - BEGAN,
                "build_s": built,
                "first_step_s": times[0],
                "step_ms_median": later[len(later) // 2] * 1e3,
                "step_ms_min": later[0] * 1e3,
                "step_cpu_ms": worked * 1e3,
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "losses": losses,
                "version": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
