"""One step against many: E2E FT beside the multi-step estimator that it is compared with, in time and error.

    python3 examples/depth/run.py                    everything; say it again after an interruption
    python3 examples/depth/run.py --seeds 0 --steps 200 --task normals
    python3 examples/depth/run.py --table            the table of what is there

The paper's finding: Marigold's estimator was slow because its sampler's `leading` timesteps tell the first step that there is almost no noise while it is fed
nothing else. With `trailing` timesteps one step is about as good as fifty, and a network fine-tuned end to end for that one step is better still.

Trains two estimators a seed (objective "diffusion" and objective "e2e") on scenes, and measures the first with 1, 2, 10 and 50 steps of DDIM, leading and
trailing, and the second with its one, on scenes that neither has seen. Finished runs and measurements are skipped, interrupted runs resumed. Needs Python's
standard library and a built host with its plugins (`cargo build --release`).
"""

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from shared import Host, markdown, options, read_json, spread  # noqa: E402

TINY_SD = Path(__file__).resolve().parent.parent / "tiny_sd"
STEPS = [1, 2, 10, 50]
SPACINGS = ["leading", "trailing"]
COLUMNS = {
    "depth": [("AbsRel", "abs_rel", 1, 4), ("delta < 1.25", "delta1", 100, 1)],
    "normals": [("mean", "mean", 1, 2), ("median", "median", 1, 2), ("< 11.25", "within_11_25", 100, 1)],
}


def folder(asked, objective, seed):
    return asked.out / f"{asked.task}-{objective}-{asked.steps}-seed{seed}"


def train(host, asked, objective, seed):
    rate = asked.lr or {"e2e": 3e-4, "diffusion": 1e-3}[objective]
    arguments = ["--plugin", "e2e_ft", "--data", asked.data, "--batch-size", 16, "--lr", rate, "--seed", seed]
    arguments += ["--backbone", asked.backbone] if asked.backbone else []
    for setting in [
        "train.schedule=cosine",
        f"e2e_ft.task={asked.task}",
        f"e2e_ft.objective={objective}",
        "sample.sampler=ddim",
        "sample.steps=10",
        "sample.count=8",
    ]:
        arguments += ["--set", setting]
    host.train(folder(asked, objective, seed), asked.steps, *arguments)


def measure(host, asked, objective, seed, steps, spacing):
    """Lets `host eval` measure an estimator that takes so many steps."""
    run = folder(asked, objective, seed)
    out = run / "measured" / f"{spacing}-{steps}"
    if not (out / "estimates.json").is_file():
        print(f"measuring {run.name}, {steps} steps, {spacing}", flush=True)
        how = ["--count", asked.count, "--sampler", "ddim", "--steps", steps, "--spacing", spacing]
        host.call(run.with_suffix(".log"), "eval", "--run", run, "--out", out, *how)


def table(asked):
    columns, rows = COLUMNS[asked.task], []
    estimators = [
        (f"diffusion, {steps} step{'s' * (steps > 1)}, {spacing}", "diffusion", steps, spacing) for steps in STEPS for spacing in SPACINGS
    ]
    for name, objective, steps, spacing in [*estimators, ("E2E FT, 1 step", "e2e", 1, "trailing")]:
        files = [folder(asked, objective, seed) / "measured" / f"{spacing}-{steps}" / "estimates.json" for seed in asked.seeds]
        found = [read_json(file) for file in files if file.is_file()]
        if found:
            cells = [spread([factor * one[asked.task][key] for one in found], digits) for _, key, factor, digits in columns]
            rows.append([name, *cells, f"{statistics.median(1e3 * one['seconds_per_image'] for one in found):.1f}"])
    return markdown(["estimator", *(name for name, *_ in columns), "ms an image"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser, "depth")
    parser.add_argument("--backbone", default=TINY_SD, help="a diffusers folder; an empty text is the embedded backbone")
    parser.add_argument("--task", choices=list(COLUMNS), default="depth")
    parser.add_argument("--data", default="scenes:studio", help="pictures with the task's column")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=120, help="training steps of each estimator")
    parser.add_argument("--count", type=int, default=32, help="scenes to measure on")
    parser.add_argument("--lr", type=float, help="learning rate of both")
    asked = parser.parse_args()
    asked.out = asked.out.resolve()
    if not asked.table:
        host = Host(asked)
        for seed in asked.seeds:
            train(host, asked, "e2e", seed)
            measure(host, asked, "e2e", seed, 1, "trailing")
            train(host, asked, "diffusion", seed)
            for steps in STEPS:
                for spacing in SPACINGS:
                    measure(host, asked, "diffusion", seed, steps, spacing)
    print(table(asked), end="")


if __name__ == "__main__":
    main()
