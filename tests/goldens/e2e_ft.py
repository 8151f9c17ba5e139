"""The losses and the noise of E2E FT, with gradients, by the formulas of its code (VisualComputingInstitute/diffusion-e2e-ft, training/).

Written with torch 2.13.0, safetensors 0.8.0, by

    python tests/goldens/e2e_ft.py

Published are a number for the whole batch and, where a cosine is 1 or more, gradients that are no numbers; there a gradient of zero is written.
"""

import pathlib
import random

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "e2e_ft.safetensors"
SIDE = 8
out = {}


def fit(p, t, m):
    """Least squares scale and shift of each image, zero where the system is singular."""
    a00, a01, a11 = ((m * p * p).sum((1, 2)), (m * p).sum((1, 2)), m.sum((1, 2)))
    b0, b1 = ((m * p * t).sum((1, 2)), (m * t).sum((1, 2)))
    det = a00 * a11 - a01 * a01
    good = det > 0
    safe = torch.where(good, det, torch.ones_like(det))
    zero = torch.zeros_like(det)
    scale = torch.where(good, (a11 * b0 - a01 * b1) / safe, zero)
    shift = torch.where(good, (a00 * b1 - a01 * b0) / safe, zero)
    return scale, shift


def ssi(picture, truth, valid):
    p = picture.mean(1).clamp(-1, 1)
    t, m = truth.squeeze(1), valid.squeeze(1)
    scale, shift = fit(p, t, m.float())
    left = (scale.view(-1, 1, 1) * p + shift.view(-1, 1, 1) - t).abs()
    return left[m].mean() if m.any() else (picture * 0).sum()


def angular(picture, truth, valid):
    n = (picture / (torch.norm(picture, p=2, dim=1, keepdim=True) + 1e-5)).clamp(-1, 1)
    dot = (n * truth).sum(1)
    inside = dot.abs() < 1
    angle = torch.where(inside, torch.acos(torch.where(inside, dot, torch.zeros_like(dot))), torch.acos(dot.clamp(-1, 1).detach()))
    m = valid.squeeze(1)
    return angle[m].mean() if m.any() else (picture * 0).sum()


def record(case, loss, picture, truth, valid):
    picture = picture.clone().requires_grad_()
    value = loss(picture, truth, valid)
    value.backward()
    for name, tensor in [("picture", picture.detach()), ("truth", truth), ("valid", valid.float()), ("loss", value.detach()), ("gradient", picture.grad)]:
        out[f"{case}/{name}"] = tensor.clone().contiguous()


torch.manual_seed(7)
shape = (3, 3, SIDE, SIDE)
truth = 0.2 + 5 * torch.rand(3, 1, SIDE, SIDE)
some = torch.rand(3, 1, SIDE, SIDE) < 0.7
some[1] = False  # One image of which nothing is known.
record("depth", ssi, 0.8 * torch.randn(shape), truth, some)
flat = 0.8 * torch.randn(shape)
flat[0] = 0.5
one = some.clone()
one[1, 0, 3, 4] = True
record("depth_singular", ssi, flat, truth, one)
record("depth_nothing", ssi, flat, truth, torch.zeros_like(some))

vectors = torch.nn.functional.normalize(torch.randn(shape), dim=1)
record("normals", angular, torch.randn(shape), vectors, some)
ends = torch.randn(shape)
ends[0] = 0.7 * vectors[0]
ends[2, :, :4] = -3 * vectors[2, :, :4]
ends[2, :, 5] = 0
# Eight bits make some vectors longer than they are, so that cosines leave their range.
record("normals_ends", angular, ends, 1.01 * vectors, some)
record("normals_nothing", angular, ends, vectors, torch.zeros_like(some))

# pyramid_noise_like, with what it draws written down.
b, c, w, h = 1, 2, 13, 10
random.seed(3)
up = torch.nn.Upsample(size=(w, h), mode="bilinear")
noise = torch.randn(b, c, w, h)
draws, factors = [noise.flatten().clone()], []
for i in range(10):
    factor = random.random()
    r = factor * 2 + 2
    w, h = max(1, int(w / (r**i))), max(1, int(h / (r**i)))
    coarse = torch.randn(b, c, w, h)
    draws.append(coarse.flatten())
    factors.append(factor)
    noise += up(coarse) * 0.9**i
    if w == 1 or h == 1:
        break
out["pyramid/noise"] = noise / noise.std()
out["pyramid/normal"] = torch.cat(draws)
out["pyramid/uniform"] = torch.tensor(factors, dtype=torch.float64)

# The data loaders' depth: outliers cut, unknown pixels far, an image of one depth unknown as a whole.
depth = 6 * torch.rand(3, 1, SIDE, SIDE)
depth[depth < 1] = 0
depth[1] = 2.5
depth[2] = 0
metric, seen, mask = torch.zeros_like(depth), torch.zeros_like(depth), torch.zeros_like(depth)
for i in range(3):
    known = depth[i] > 0
    if not known.any():
        continue
    near, far = torch.quantile(depth[i][known], 0.02), torch.quantile(depth[i][known], 0.98)
    if near == far:
        continue
    cut = depth[i].clamp(near, far)
    cut[~known] = far
    metric[i], mask[i] = cut, known.float()
    seen[i] = (2 * (cut - near) / (far - near) - 1).clamp(-1, 1)
out.update({"truth/depth": depth, "truth/metric": metric, "truth/picture": seen, "truth/valid": mask})

save_file(out, OUT)
