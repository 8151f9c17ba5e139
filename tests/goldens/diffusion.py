"""Golden values of noise schedules and of the variational bound.

Made with torch 2.13.0 and diffusers 0.42.1:

    python tests/goldens/diffusion.py

Schedules come from diffusers. The bound is written out here after the formulas of Nichol and Dhariwal 2021 (the eight-bit decoder and
the log-variance interpolation as in the code that accompanies it), in double precision, with gradients by autograd.
"""

import json
import math
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler

torch.set_num_threads(1)
OUT = Path(__file__).with_suffix("")
SHOWN = [0, 1, 2, 10, 100, 250, 499, 500, 501, 750, 900, 998, 999]


def numbers(tensor):
    return [float(f"{value:.9g}") for value in tensor.flatten().tolist()]


def schedules():
    cases = []
    for scheduler, settings in [
        (DDPMScheduler, {}),
        (DDPMScheduler, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        (DDPMScheduler, {"beta_schedule": "squaredcos_cap_v2"}),
        (DDPMScheduler, {"beta_schedule": "sigmoid"}),
        (DDPMScheduler, {"beta_schedule": "laplace"}),
        (DDPMScheduler, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
        (
            DDIMScheduler,
            {
                "beta_schedule": "scaled_linear",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "rescale_betas_zero_snr": True,
                "prediction_type": "v_prediction",
            },
        ),
        (DDPMScheduler, {"num_train_timesteps": 4, "trained_betas": [0.1, 0.2, 0.3, 0.4]}),
    ]:
        built = scheduler(**settings)
        at = [t for t in SHOWN if t < len(built.betas)]
        cases.append(
            {
                "config": {"_class_name": scheduler.__name__, **settings},
                "at": at,
                "betas": numbers(built.betas[at]),
                "alphas_cumprod": numbers(built.alphas_cumprod[at]),
            }
        )
    return cases


def bound():
    betas = DDPMScheduler().betas.double()
    left = torch.cumprod(1 - betas, 0)
    left_before = torch.cat([torch.ones(1, dtype=torch.double), left[:-1]])
    variance = betas * (1 - left_before) / (1 - left)
    smallest_log = torch.log(torch.cat([variance[1:2], variance[1:]]))
    largest_log = torch.log(betas)
    of_x0 = betas * left_before.sqrt() / (1 - left)
    of_noisy = (1 - left_before) * (1 - betas).sqrt() / (1 - left)

    torch.manual_seed(0)
    t = torch.tensor([0, 0, 1, 37, 500, 999])
    shape = (len(t), 2, 2, 2)
    x0 = (torch.rand(shape, dtype=torch.double) * 2 - 1)
    # Values at both ends, which have their own formula.
    x0[0, 0, 0] = torch.tensor([-1.0, 1.0])
    x0[1, 1, 1] = torch.tensor([1.0, -1.0])
    noise = torch.randn(shape, dtype=torch.double)
    prediction = noise + 0.3 * torch.randn(shape, dtype=torch.double)
    logits = torch.randn(shape, dtype=torch.double).clamp(-1.2, 1.2)
    # What a reader in single precision sees is what is computed with.
    x0, noise, prediction, logits = (value.float().double() for value in (x0, noise, prediction, logits))
    logits.requires_grad_()

    def at(table):
        return table[t].reshape(-1, 1, 1, 1)

    noisy = at(left).sqrt() * x0 + (1 - at(left)).sqrt() * noise
    guess = (noisy - (1 - at(left)).sqrt() * prediction) / at(left).sqrt()
    true_mean = at(of_x0) * x0 + at(of_noisy) * noisy
    mean = at(of_x0) * guess + at(of_noisy) * noisy
    share = (logits + 1) / 2
    log_variance = share * at(largest_log) + (1 - share) * at(smallest_log)

    kl = 0.5 * (
        -1.0
        + log_variance
        - at(smallest_log)
        + torch.exp(at(smallest_log) - log_variance)
        + (true_mean - mean) ** 2 * torch.exp(-log_variance)
    )

    def cdf(x):
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    inverse = torch.exp(-0.5 * log_variance)
    upper, lower = cdf(inverse * (x0 - mean + 1 / 255)), cdf(inverse * (x0 - mean - 1 / 255))
    log_likelihood = torch.where(
        x0 < -0.999,
        upper.clamp(min=1e-12).log(),
        torch.where(x0 > 0.999, (1 - lower).clamp(min=1e-12).log(), (upper - lower).clamp(min=1e-12).log()),
    )
    bits = torch.where(t == 0, -log_likelihood.flatten(1).mean(1), kl.flatten(1).mean(1)) / math.log(2)
    bits.sum().backward()
    return {
        "shape": list(shape),
        "timesteps": t.tolist(),
        "x0": numbers(x0),
        "noise": numbers(noise),
        "prediction": numbers(prediction),
        "variance": numbers(logits.detach()),
        "bound": numbers(bits.detach()),
        "variance_gradient": numbers(logits.grad),
    }


OUT.mkdir(exist_ok=True)
(OUT / "schedules.json").write_text(json.dumps(schedules()) + "\n")
(OUT / "bound.json").write_text(json.dumps(bound()) + "\n")
