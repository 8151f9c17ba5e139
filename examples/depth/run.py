"""One step against many: E2E FT beside the multi-step estimator that it is compared with, in time and error.

    python3 examples/depth/run.py                    everything; say it again after an interruption
    python3 examples/depth/run.py --seeds 1 --steps 200 --task normals
    python3 examples/depth/run.py --table            the table of what is there

The paper's finding: Marigold's estimator was slow because its sampler's `leading` timesteps tell the first step that there is almost no noise while it is fed
nothing else. With `trailing` timesteps one step is about as good as fifty, and a network fine-tuned end to end for that one step is better still.

Trains two estimators a seed (objective "diffusion" and objective "e2e") on scenes, and measures the first with 1, 2, 10 and 50 steps of DDIM, leading and
trailing, and the second with its one, on scenes that neither has seen. Finished runs and measurements are skipped, interrupted runs resumed. Needs Python's
standard library and a built host with its plugins (`cargo build --release`).
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS = [1, 2, 10, 50]
SPACINGS = ["leading", "trailing"]
COLUMNS = {
    "depth": [("AbsRel", "abs_rel", 1, 3), ("delta < 1.25", "delta1", 100, 1)],
    "normals": [("mean", "mean", 1, 2), ("median", "median", 1, 2), ("< 11.25", "within_11_25", 100, 1)],
}


def host(options, *arguments):
    command = [str(options.host), *map(str, arguments)]
    if options.threads:
        command += ["--threads", str(options.threads)]
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def train(options, objective, seed):
    """The run folder of an estimator, trained as far as it has to be."""
    run = options.out / f"{options.task}-{objective}-{options.steps}-seed{seed}"
    if (run / "checkpoints" / f"step-{options.steps}").is_dir():
        return run
    if (run / "run.toml").is_file():
        host(options, "run", "--resume", "--out", run)
        return run
    rate = options.lr or {"e2e": 3e-4, "diffusion": 1e-3}[objective]
    arguments = ["run", "--plugin", "e2e_ft", "--data", "scenes:studio", "--out", run, "--steps", options.steps]
    arguments += ["--batch-size", 16, "--lr", rate, "--set", f"train.seed={seed}", "--set", "train.schedule=cosine"]
    arguments += ["--set", f"e2e_ft.task={options.task}", "--set", f"e2e_ft.objective={objective}"]
    arguments += ["--set", "sample.sampler=ddim", "--set", "sample.steps=10", "--set", "sample.count=8"]
    host(options, *arguments)
    return run


def measure(options, run, steps, spacing):
    """What `host eval` says of an estimator that takes so many steps."""
    out = run / "measured" / f"{spacing}-{steps}"
    if not (out / "estimates.json").is_file():
        arguments = ["eval", "--run", run, "--out", out, "--count", options.count]
        host(options, *arguments, "--sampler", "ddim", "--steps", steps, "--spacing", spacing)
    return json.loads((out / "estimates.json").read_text())


def table(options):
    columns = COLUMNS[options.task]
    rows = []
    for steps in STEPS:
        for spacing in SPACINGS:
            rows.append((f"diffusion, {steps} step{'s' * (steps > 1)}, {spacing}", "diffusion", steps, spacing))
    rows.append(("E2E FT, 1 step", "e2e", 1, "trailing"))
    print("| estimator | " + " | ".join(name for name, *_ in columns) + " | ms an image |")
    print("|---|" + "---|" * (len(columns) + 1))
    for name, objective, steps, spacing in rows:
        found = []
        for seed in options.seed_list:
            run = options.out / f"{options.task}-{objective}-{options.steps}-seed{seed}"
            file = run / "measured" / f"{spacing}-{steps}" / "estimates.json"
            if file.is_file():
                found.append(json.loads(file.read_text()))
        if not found:
            continue
        cells = []
        for _, key, factor, digits in columns:
            values = [factor * one[options.task][key] for one in found]
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}")
        time = statistics.median(1e3 * one["seconds_per_image"] for one in found)
        print(f"| {name} | " + " | ".join(cells) + f" | {time:.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(COLUMNS), default="depth")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 1 on")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each estimator")
    parser.add_argument("--count", type=int, default=128, help="scenes to measure on")
    parser.add_argument("--lr", type=float, help="learning rate of both")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "depth")
    parser.add_argument("--host", type=Path, default=ROOT / "target" / "release" / "host")
    parser.add_argument("--table", action="store_true", help="print the table and do nothing else")
    options = parser.parse_args()
    options.seed_list = range(1, options.seeds + 1)
    options.out = options.out.resolve()
    if not options.table:
        for seed in options.seed_list:
            run = train(options, "e2e", seed)
            measure(options, run, 1, "trailing")
            run = train(options, "diffusion", seed)
            for steps in STEPS:
                for spacing in SPACINGS:
                    measure(options, run, steps, spacing)
    table(options)


if __name__ == "__main__":
    main()
