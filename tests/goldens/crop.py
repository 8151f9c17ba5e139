"""Goldens of DiT's image preprocessing: `NAME_in.png` cropped and resized to `NAME_out.png` by Pillow.

Pillow 13.0.0, numpy 2.4.6. Run from the repository root:

    python tests/goldens/crop.py

`center_crop` follows the description of the DiT and guided-diffusion training data: halve by a box filter
while the short side is at least twice the size wanted, then one bicubic resize, then the middle square.
"""

from pathlib import Path

import numpy as np
from PIL import Image

OUT = Path(__file__).parent / "crop"


def center_crop(image, size):
    while min(image.size) >= 2 * size:
        image = image.resize((image.size[0] // 2, image.size[1] // 2), resample=Image.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.size[0] * scale), round(image.size[1] * scale)), resample=Image.BICUBIC)
    left, top = (image.size[0] - size) // 2, (image.size[1] - size) // 2
    return image.crop((left, top, left + size, top + size))


def picture(width, height, seed):
    """Waves, hard edges and some noise: what a resampling filter can get wrong."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    channels = []
    for _ in range(3):
        fx, fy, phase = rng.uniform(0.02, 0.9), rng.uniform(0.02, 0.9), rng.uniform(0, 6)
        wave = 128 + 127 * np.sin(fx * x + fy * y + phase)
        edge = 255.0 * ((x // rng.integers(3, 11) + y // rng.integers(3, 11)) % 2)
        channels.append(np.where(x * height > y * width, wave, edge))
    noise = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(np.stack(channels, -1) + noise, 0, 255).astype(np.uint8))


CASES = {
    # name: width, height, size wanted
    "photo": (150, 113, 32),  # one halving, odd height
    "wide": (97, 33, 32),  # hardly any reduction
    "tall": (64, 131, 16),  # two halvings
    "small": (21, 17, 32),  # enlarged
    "odd": (71, 71, 24),  # an odd square
}

if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for seed, (name, (width, height, size)) in enumerate(CASES.items()):
        image = picture(width, height, seed)
        image.save(OUT / f"{name}_in.png")
        center_crop(image, size).save(OUT / f"{name}_out.png")
