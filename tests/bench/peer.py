"""Training steps in PyTorch with diffusers and PEFT: what `host bench` is compared with.

torch 2.13.0, diffusers 0.42.1, peft 0.21.2. Prints one line of JSON, whose keys `host bench --json` has too:

    python tests/bench/peer.py --model dit-s2 --mode lora --batch 8 --threads 1 --steps 5 [--save DIR]
    python tests/bench/peer.py --model sd15 --mode lora --batch 1 --threads 1 --steps 3 [--save DIR]

With --save DIR the backbone is left as a diffusers folder and the inputs of all steps as DIR/inputs.safetensors, which `host bench --backbone DIR --inputs
DIR/inputs.safetensors` takes. Models: DiTs, and the UNet in the shape of Stable Diffusion 1.5 (`sd15`; `unet-tiny` is a small one); all weights are random. The steps are AdamW at learning rate 1e-4 without decay, on the squared error of the noise.
"""

import argparse
import json
import os
import resource
import time

BEGAN = time.perf_counter()

# name: blocks, heads of 64
DITS = {"dit-tiny": (4, 3), "dit-s2": (12, 6), "dit-b2": (12, 12)}
# name: channels of each level, width of the text's tokens
UNETS = {"unet-tiny": ([32, 64, 128, 128], 64), "sd15": ([320, 640, 1280, 1280], 768)}
MODELS = [*DITS, *UNETS]
TOKENS = 77
CLASSES = 1000
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="dit-s2")
    parser.add_argument("--mode", choices=["lora", "full"], default="lora")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=32, help="height and width of the latents")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="steps after the first, which is told apart")
    parser.add_argument("--save", metavar="DIR", help="leave the backbone and the inputs here")
    return parser.parse_args()


def make_inputs(torch, args):
    """What every step works on, the first included; the same for the same seed."""
    generator = torch.Generator().manual_seed(1)
    shape = (args.batch, 4, args.size, args.size)
    for _ in range(args.steps + 1):
        given = {
            "latents": torch.randn(shape, generator=generator),
            "noise": torch.randn(shape, generator=generator),
            "timesteps": torch.randint(0, 1000, (args.batch,), generator=generator),
        }
        if args.model in DITS:
            given["class_labels"] = torch.randint(0, CLASSES, (args.batch,), generator=generator)
        else:
            given["encoder_hidden_states"] = torch.randn((args.batch, TOKENS, UNETS[args.model][1]), generator=generator)
        yield given


def make_net(args):
    """The network, its part of a pipeline, and the process it is trained with."""
    from diffusers import DDPMScheduler, DiTTransformer2DModel, UNet2DConditionModel

    if args.model in UNETS:
        channels, text = UNETS[args.model]
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


def main():
    args = arguments()
    # Before the libraries are loaded: they look once.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    import torch
    import diffusers  # noqa: F401, so that loading it is told from building the network
    from peft import LoraConfig, inject_adapter_in_model
    from safetensors.torch import save_file

    torch.set_num_threads(args.threads)
    imported = time.perf_counter()

    torch.manual_seed(0)
    net, part, scheduler = make_net(args)
    built = time.perf_counter() - imported
    if args.save:
        net.save_pretrained(os.path.join(args.save, part))
        scheduler.save_pretrained(os.path.join(args.save, "scheduler"))
    again = time.perf_counter()
    if args.mode == "lora":
        net.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=TARGETS), net)
    net.eval()  # gradients flow all the same, and no label is dropped
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
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
        noisy = scheduler.add_noise(given["latents"], given["noise"], given["timesteps"])
        told = {name: given[name] for name in ("class_labels", "encoder_hidden_states") if name in given}
        prediction = net(noisy, timestep=given["timesteps"], **told).sample[:, :4]
        loss = torch.nn.functional.mse_loss(prediction, given["noise"])
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
