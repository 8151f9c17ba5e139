"""Golden numbers of `host eval`: distances on fixed features, and a narrow Inception-v3.

Made with torch 2.15.0, torchvision 0.29.2, pytorch-fid 0.3.0, prdc 0.2, numpy 2.4.6 and scipy 1.17.1:

    python tests/goldens/eval.py

`distances.json` has two cases: one of more images than features, and one whose covariances are singular. The Frechet distance is pytorch-fid's (scipy's matrix
square root), precision and recall are prdc's, and the kernel distance is the unbiased estimate as written in its paper, over all images of equal sets.

`inception.safetensors` is pytorch-fid's network with every width divided by 16 (its convolutions are made by a factory, which is replaced; nothing else is),
random weights, two pictures as bytes, and the pooled features that it gives for them.
"""

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torchvision.models.inception as inception
from prdc import compute_prdc
from pytorch_fid import fid_score
from pytorch_fid import inception as fid
from safetensors.torch import save_file

torch.set_num_threads(1)
OUT = Path(__file__).with_suffix("")
NARROW = 16


def numbers(array):
    return [float(f"{value:.8g}") for value in np.asarray(array).flatten()]


def moments(features):
    return features.mean(axis=0), np.cov(features, rowvar=False)


def discrepancy(x, y):
    """The unbiased squared maximum mean discrepancy under (x . y / d + 1)^3, sum by sum."""
    kernel = lambda a, b: (a @ b / len(a) + 1) ** 3
    count = len(x)
    within = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(count) for j in range(count) if i != j)
    between = sum(kernel(a, b) for a in x for b in y)
    return within / (count * (count - 1)) - 2 * between / count**2


def case(seed, counts, width, shift):
    random = np.random.default_rng(seed)
    mix = random.normal(size=(width, width))
    sets = []
    for index, count in enumerate(counts):
        raw = random.normal(size=(count, width)) @ mix + shift * index * random.normal(size=width)
        # What is stored is what is computed with.
        sets.append(np.array(numbers(np.maximum(raw, -0.5))).reshape(count, width))
    generated, reference = sets
    equal = min(counts)
    # The published code adds 1e-6 to the diagonals where the product is singular, which moves the distance by about that much.
    frechet = fid_score.calculate_frechet_distance(*moments(generated), *moments(reference))
    surroundings = compute_prdc(real_features=reference, fake_features=generated, nearest_k=3)
    return {
        "width": width,
        "generated": numbers(generated),
        "reference": numbers(reference),
        "frechet": float(frechet),
        "equal": equal,
        "kernel": float(discrepancy(generated[:equal], reference[:equal])),
        "precision": float(surroundings["precision"]),
        "recall": float(surroundings["recall"]),
    }


class Narrow(inception.BasicConv2d):
    """The convolution of torchvision's blocks with a sixteenth of their channels."""

    def __init__(self, inputs, outputs, **kwargs):
        super().__init__(inputs if inputs == 3 else inputs // NARROW, outputs // NARROW, **kwargs)


def network():
    with patch.object(inception, "BasicConv2d", Narrow):
        made = inception.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
        # The replacements of pytorch-fid's `fid_inception_v3`, which downloads weights and so cannot be called.
        made.Mixed_5b = fid.FIDInceptionA(192, pool_features=32)
        made.Mixed_5c = fid.FIDInceptionA(256, pool_features=64)
        made.Mixed_5d = fid.FIDInceptionA(288, pool_features=64)
        made.Mixed_6b = fid.FIDInceptionC(768, channels_7x7=128)
        made.Mixed_6c = fid.FIDInceptionC(768, channels_7x7=160)
        made.Mixed_6d = fid.FIDInceptionC(768, channels_7x7=160)
        made.Mixed_6e = fid.FIDInceptionC(768, channels_7x7=192)
        made.Mixed_7b = fid.FIDInceptionE_1(1280)
        made.Mixed_7c = fid.FIDInceptionE_2(2048)
    generator = torch.Generator().manual_seed(0)
    for module in made.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5
        elif isinstance(module, torch.nn.BatchNorm2d):
            shape = module.weight.shape
            module.weight.data = 1 + 0.2 * torch.randn(shape, generator=generator)
            module.bias.data = 0.1 * torch.randn(shape, generator=generator)
            module.running_mean = 0.1 * torch.randn(shape, generator=generator)
            module.running_var = 0.5 + torch.rand(shape, generator=generator)
    # f16 halves the file; the features are those of the rounded weights.
    made.half().float().eval()
    return made


@torch.no_grad()
def features(made, pictures):
    # pytorch-fid's own wrapper, resizing and scaling included, around the narrow network.
    with patch.object(fid, "fid_inception_v3", lambda: made):
        wrapper = fid.InceptionV3([fid.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
    return wrapper(pictures.float() / 255)[0][:, :, 0, 0]


def main():
    OUT.mkdir(exist_ok=True)
    cases = [case(1, (60, 45), 6, 2.0), case(2, (10, 13), 16, 3.0)]
    (OUT / "distances.json").write_text(json.dumps(cases))
    made = network()
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 5, 6, generator=generator)
    pictures = torch.nn.functional.interpolate(coarse, size=(40, 48), mode="bicubic")
    pictures = (pictures.clamp(0, 1) * 255).round().to(torch.uint8)
    tensors = {name: value.half() for name, value in made.state_dict().items() if not name.endswith("num_batches_tracked")}
    tensors = {name: value for name, value in tensors.items() if not name.startswith("fc.")}
    tensors["test.pictures"] = pictures
    tensors["test.features"] = features(made, pictures)
    save_file({name: value.contiguous() for name, value in tensors.items()}, OUT / "inception.safetensors")


if __name__ == "__main__":
    main()
