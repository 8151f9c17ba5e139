"""The step at which a hint begins to hold: fill-circles with ControlNet, without and with Diff-Tuning, with the host program alone.

    python3 examples/circles/run.py                          everything; say it again after an interruption
    python3 examples/circles/run.py --seeds 0 --steps 200    less
    python3 examples/circles/run.py --table                  the table of what is there

Draws discs on plain grounds, each with its outline as the hint (the Fill50K task of the ControlNet paper), and trains on them. Every `sample.every` steps the host draws from the
outlines of the first pictures; how much of the variance of a drawing is explained by whether a pixel lies inside of its outline, tells whether the hint holds: about 1 where it does.
Finished runs are skipped and interrupted ones resumed. Needs Python's standard library and a built host with its plugins (`cargo build --release`).
"""

import argparse
import json
import random
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from shared import Host, markdown, options, read_json, read_png, spread, write_png  # noqa: E402

SIDE = 32
COUNT = 1000
STEPS = 400
# Of the variance of a drawing, the share that its outline explains from which on the hint is said to hold.
HOLDS = 0.5
COLOURS = {
    "red": (214, 48, 49), "orange": (232, 126, 34), "yellow": (241, 196, 15), "green": (39, 174, 96), "cyan": (0, 188, 212), "blue": (41, 98, 255),
    "purple": (142, 68, 173), "pink": (236, 112, 170), "white": (245, 245, 245), "grey": (127, 140, 141), "brown": (121, 85, 72), "black": (33, 33, 33),
}
ARMS = {
    "controlnet": ["--plugin", "controlnet"],
    "controlnet+diff_tuning": ["--plugin", "controlnet", "--plugin", "diff_tuning"],
}


def disc(number):
    """Centre, radius, and the names of two colours."""
    draw = random.Random(number)
    radius = draw.uniform(5, 11)
    x, y = (draw.uniform(radius + 1, SIDE - radius - 1) for _ in range(2))
    return (x, y, radius), draw.sample(sorted(COLOURS), 2)


def cover(place, width, x, y):
    """Of a pixel, the share within `width` of the disc's rim; without a width, within the disc."""
    (cx, cy, radius), inside = place, 0
    beyond = ((x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2) ** 0.5 - radius
    if abs(beyond) > (width or 0) + 1:
        return float(width is None and beyond < 0)
    for i in range(16):
        px, py = x + (i % 4 + 0.5) / 4, y + (i // 4 + 0.5) / 4
        distance = ((px - cx) ** 2 + (py - cy) ** 2) ** 0.5
        inside += distance <= radius if width is None else abs(distance - radius) <= width
    return inside / 16


def mixed(front, back, share):
    return [round(share * f + (1 - share) * b) for f, b in zip(front, back)]


def write_data(folder):
    """The pictures, their outlines, and a table with a caption each."""
    if (folder / "metadata.jsonl").is_file():
        return
    print(f"drawing {COUNT} discs", flush=True)
    lines = []
    for number in range(COUNT):
        place, (front, back) = disc(number)
        picture = lambda width, ink, ground: [
            sum((mixed(ink, ground, cover(place, width, x, y)) for x in range(SIDE)), []) for y in range(SIDE)
        ]
        write_png(folder / f"images/{number:05}.png", picture(None, COLOURS[front], COLOURS[back]))
        write_png(folder / f"hints/{number:05}.png", picture(0.75, (255, 255, 255), (0, 0, 0)))
        line = {"file_name": f"images/{number:05}.png", "hint": f"hints/{number:05}.png", "text": f"a {front} disc on a {back} ground"}
        lines.append(json.dumps(line) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))


def tiles(path, count):
    """The pictures of a grid of the host's, each a list of RGB triples."""
    rows = read_png(path)
    columns = next(n for n in range(1, count + 1) if n * n >= count)
    step = (len(rows[0]) // 3 - 4) // columns
    scale = (step - 4) // SIDE
    for number in range(count):
        left, top = 4 + number % columns * step, 4 + number // columns * step
        yield [tuple(rows[top + y * scale][3 * (left + x * scale) :][:3]) for y in range(SIDE) for x in range(SIDE)]


def explained(picture, place):
    """Of the variance of a picture, the share explained by whether a pixel lies in the disc."""
    inside = [cover(place, None, x, y) >= 0.5 for y in range(SIDE) for x in range(SIDE)]

    def spread(pixels):
        means = [statistics.fmean(channel) for channel in zip(*pixels)]
        return sum((value - mean) ** 2 for pixel in pixels for value, mean in zip(pixel, means))

    parts = [[pixel for pixel, within in zip(picture, inside) if within == part] for part in (True, False)]
    return 1 - sum(map(spread, parts)) / max(spread(picture), 1e-9)


def measure(folder, count):
    """{step: share explained, the mean of the samples} of a run."""
    values = {}
    for path in sorted((folder / "samples").glob("step-*.png")):
        shares = [explained(picture, disc(number)[0]) for number, picture in enumerate(tiles(path, count))]
        values[int(path.stem.removeprefix("step-"))] = statistics.fmean(shares)
    return values


def holds(values):
    """The first step from which on the hint holds."""
    return next((step for step, value in values.items() if value >= HOLDS), None)


def table(results):
    rows = []
    for arm, seeds in results.items():
        begun = [holds(values) for values in seeds.values()]
        told = ", ".join(str(step or "-") for step in begun)
        middle = spread(begun, 0) if all(begun) else "-"
        rows.append([arm, ", ".join(seeds), told, middle, spread([list(values.values())[-1] for values in seeds.values()], 2)])
    return markdown(["method", "seeds", "holds from step", "mean", "explained at the end"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options(parser, "circles")
    parser.add_argument("--backbone", help="a diffusers folder; without, the embedded one")
    parser.add_argument("--only", choices=ARMS, action="append", help="only this method")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps")
    asked = parser.parse_args()
    stored = asked.out / "results.json"
    if asked.table:
        print(table(read_json(stored)), end="")
        return
    host, results = Host(asked), {}
    data = host.out / "data"
    write_data(data)
    for seed in asked.seeds:
        for arm in asked.only or ARMS:
            folder = host.out / f"{arm.replace('+', '-')}-seed{seed}"
            arguments = ["--config", HERE / "circles.toml", "--data", data, *ARMS[arm], "--seed", seed]
            arguments += ["--backbone", asked.backbone] if asked.backbone else []
            host.train(folder, asked.steps, *arguments)
            results.setdefault(arm, {})[str(seed)] = measure(folder, 16)
            stored.write_text(json.dumps(results, indent=1))
            print(table(results), flush=True)


if __name__ == "__main__":
    main()
