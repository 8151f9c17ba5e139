"""Golden trajectories of diffusers' samplers over an analytic network.

Made with torch 2.13.0 and diffusers 0.42.1:

    python tests/goldens/samplers.py

The network is tanh(0.7 x + 0.1 t / T); its variance channels, where it has them, are tanh(0.3 x - 0.2).
Every case holds the scheduler's configuration as diffusers saves it, the noises it was given, its timesteps, and the data after each step.
"""

import json
from pathlib import Path
from unittest.mock import patch

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

torch.set_num_threads(1)
OUT = Path(__file__).with_suffix("")
SHAPE = (2, 1, 2, 2)
SPACINGS = ["leading", "trailing", "linspace"]
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
LINEAR = {"clip_sample": False}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}


def numbers(tensor):
    return [float(f"{value:.9g}") for value in tensor.flatten().tolist()]


class Stride(int):
    """A number of steps that DDIM, which takes no timesteps from outside, goes down by this stride for."""

    def __rfloordiv__(self, total):
        return int(self)


def run(sampler, scheduler, steps, eta=0.0, given=None):
    generator = torch.Generator().manual_seed(steps)
    learned = scheduler.config.get("variance_type") == "learned_range"
    total = scheduler.config.num_train_timesteps
    if given is None:
        scheduler.set_timesteps(steps)
    elif sampler == "ddim":
        scheduler.num_inference_steps = len(given)
        scheduler.timesteps = torch.tensor(given)
    else:
        scheduler.set_timesteps(timesteps=given)
    if hasattr(scheduler, "set_begin_index"):
        # Else it starts at the second of two equal timesteps, and runs out of them.
        scheduler.set_begin_index(0)
    start = torch.randn(SHAPE, generator=generator)
    sample = start * scheduler.init_noise_sigma
    samples, noises = [], []
    for t in scheduler.timesteps:
        noise = torch.randn(SHAPE, generator=generator)
        seen = scheduler.scale_model_input(sample, t)
        output = torch.tanh(0.7 * seen + 0.1 * t.item() / total)
        if learned:
            output = torch.cat([output, torch.tanh(0.3 * seen - 0.2)], dim=1)
        if sampler == "ddim":
            if given is not None:
                lower = [other for other in given if other < t.item()]
                scheduler.num_inference_steps = Stride(t.item() - max(lower) if lower else total)
            sample = scheduler.step(output, t, sample, eta=eta, variance_noise=noise if eta > 0 else None).prev_sample
        else:
            with patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise):
                sample = scheduler.step(output, t, sample).prev_sample
        noises.append(numbers(noise))
        samples.append(numbers(sample))
    scheduler.save_config(OUT)
    saved = OUT / "scheduler_config.json"
    config = saved.read_text()
    saved.unlink()
    case = {"sampler": sampler, "steps": steps, "eta": eta, "config": config, "start": numbers(start)}
    case |= {"timesteps": numbers(scheduler.timesteps), "samples": samples}
    if given is not None:
        case["given"] = given
    if sampler == "euler":
        case["sigmas"] = numbers(scheduler.sigmas)
    if sampler == "ddpm" or eta > 0:
        case["noises"] = noises
    return case


def trajectories():
    for spacing in SPACINGS:
        for prediction in PREDICTIONS:
            kind = {"timestep_spacing": spacing, "prediction_type": prediction}
            yield run("ddpm", DDPMScheduler(**kind, **LINEAR), 5)
            yield run("ddim", DDIMScheduler(**kind, **LINEAR), 5)
            yield run("ddim", DDIMScheduler(**kind, **LINEAR), 7, eta=0.7)
            yield run("dpmpp_2m", DPMSolverMultistepScheduler(**kind), 6)
            yield run("euler", EulerDiscreteScheduler(**kind), 6)
    v = {"prediction_type": "v_prediction"}
    # The variances of DDPM.
    for variance in ["fixed_small_log", "fixed_large", "learned_range"]:
        yield run("ddpm", DDPMScheduler(variance_type=variance, **LINEAR), 5)
    # Clamping and thresholding.
    yield run("ddpm", DDPMScheduler(clip_sample_range=0.8), 5)
    yield run("ddim", DDIMScheduler(), 5)
    yield run("ddim", DDIMScheduler(thresholding=True, sample_max_value=2.5, dynamic_thresholding_ratio=0.6), 5)
    yield run("dpmpp_2m", DPMSolverMultistepScheduler(thresholding=True, sample_max_value=2.5), 5)
    # Other schedules.
    yield run("ddim", DDIMScheduler(set_alpha_to_one=False, **SCALED, **LINEAR), 5)
    yield run("dpmpp_2m", DPMSolverMultistepScheduler(timestep_spacing="leading", **SCALED), 5)
    yield run("euler", EulerDiscreteScheduler(timestep_spacing="leading", **SCALED), 5)
    yield run("ddpm", DDPMScheduler(**COSINE, **v), 7)
    yield run("ddim", DDIMScheduler(timestep_spacing="trailing", **COSINE, **v), 1)
    yield run("dpmpp_2m", DPMSolverMultistepScheduler(lambda_min_clipped=-5.1, **COSINE, **v), 7)
    # From the last timestep, where noise is 20,000 times signal, diffusers' data in single precision is off by 1e-3.
    yield run("euler", EulerDiscreteScheduler(timestep_spacing="leading", **COSINE, **v), 7)
    # No signal at the last timestep.
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **v}
    yield run("ddpm", DDPMScheduler(**zero, **LINEAR), 5)
    yield run("ddim", DDIMScheduler(**zero, **LINEAR), 5)
    yield run("dpmpp_2m", DPMSolverMultistepScheduler(**zero), 5)
    yield run("euler", EulerDiscreteScheduler(**zero), 5)
    # Noise levels after Karras et al., and other ends.
    for solver in [DPMSolverMultistepScheduler, EulerDiscreteScheduler]:
        name = "euler" if solver is EulerDiscreteScheduler else "dpmpp_2m"
        yield run(name, solver(use_karras_sigmas=True, **SCALED), 6)
        if name != "euler":
            yield run(name, solver(use_karras_sigmas=True, **COSINE, **v), 6)
        yield run(name, solver(final_sigmas_type="sigma_min"), 6)
    yield run("dpmpp_2m", DPMSolverMultistepScheduler(final_sigmas_type="sigma_min", lower_order_final=False), 6)
    yield run("dpmpp_2m", DPMSolverMultistepScheduler(final_sigmas_type="sigma_min"), 16)
    yield run("dpmpp_2m", DPMSolverMultistepScheduler(final_sigmas_type="sigma_min", euler_at_final=True), 16)
    yield run("dpmpp_2m", DPMSolverMultistepScheduler(), 16)
    # Timesteps from outside: uneven ones that begin below the noisiest, and a single one.
    for given in [[962, 700, 699, 310, 42], [999], [250]]:
        for kind in [{}, v]:
            steps = len(given)
            yield run("ddpm", DDPMScheduler(**kind, **LINEAR), steps, given=given)
            yield run("ddim", DDIMScheduler(**kind, **LINEAR), steps, eta=0.6 if kind else 0.0, given=given)
            yield run("ddim", DDIMScheduler(set_alpha_to_one=False, **kind, **LINEAR), steps, given=given)
            yield run("dpmpp_2m", DPMSolverMultistepScheduler(**kind), steps, given=given)
            yield run("euler", EulerDiscreteScheduler(**kind), steps, given=given)
    long = [*range(990, 90, -60), 31, 3]
    yield run("dpmpp_2m", DPMSolverMultistepScheduler(final_sigmas_type="sigma_min"), len(long), given=long)


def spacings():
    """Of each sampler and spacing: some timesteps in full, and a weighted sum of them for every number of steps."""
    for sampler, scheduler in [
        ("ddpm", DDPMScheduler),
        ("ddim", DDIMScheduler),
        ("dpmpp_2m", DPMSolverMultistepScheduler),
        ("euler", EulerDiscreteScheduler),
    ]:
        for spacing in SPACINGS:
            full, sums = {}, {}
            for steps in [*range(1, 65), 100, 103, 122, 250, 333, 500, 999]:
                built = scheduler(timestep_spacing=spacing)
                try:
                    built.set_timesteps(steps)
                except IndexError:
                    continue
                # A rounding error of numpy.arange adds a timestep -1 for some numbers of steps, such as 61.
                chosen = [t for t in built.timesteps.tolist() if t >= 0]
                if steps in (1, 2, 3, 7, 10, 30, 61):
                    full[steps] = chosen
                sums[steps] = sum((index + 1) * t for index, t in enumerate(chosen))
            yield {"sampler": sampler, "spacing": spacing, "full": full, "sums": sums}


OUT.mkdir(exist_ok=True)
lines = ",\n".join(json.dumps(case) for case in trajectories())
(OUT / "trajectories.json").write_text(f"[\n{lines}\n]\n")
lines = ",\n".join(json.dumps(case) for case in spacings())
(OUT / "spacings.json").write_text(f"[\n{lines}\n]\n")
