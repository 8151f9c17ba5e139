"""Compares methods on few pictures, with the host program alone: three seeds each, mean and spread.

    python3 examples/evidence/run.py                 everything; say it again after an interruption
    python3 examples/evidence/run.py --only full+diff_tuning --seeds 2      one cell of the table, at the rate that the search chose
    python3 examples/evidence/run.py --table         the tables of what is there

Finished runs and evaluations are skipped and interrupted runs resumed, so it can be stopped at any time. Needs Python's standard library
and a built host with its plugins (`cargo build --release`). README.md beside this says what is compared and why.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STEPS = 400
CHECKPOINTS = [200, 400]
SEEDS = [1, 2, 3]
# The search has a seed of its own, so that no reported run helped to choose its rate.
SEARCH_SEED = 0
SEARCH_IMAGES = 256
IMAGES = 600
REFERENCE = ["--reference", "scenes:solids", "--reference-count", "3000", "--reference-seed", "77"]

FULL_RATES = [1e-4, 3e-4, 1e-3, 3e-3]
LORA_RATES = [1e-3, 3e-3, 1e-2]
LORA = ["--plugin", "lora", "--set", "lora.rank=16", "--set", "lora.alpha=16"]
DIFF_TUNING = ["--plugin", "diff_tuning"]
# Outlines on the left of a canvas, the picture on the right. Evaluations draw from outlines of scenes that no run has seen.
ONE_PIC = ["--plugin", "one_pic", "--set", 'one_pic.layout=[["source", "target"]]']
ONE_PIC += ["--set", 'data.columns={source = "edges"}', "--set", "backbone.positions=repeat"]


@dataclass(frozen=True)
class Arm:
    """One method: what it adds to the shared run file, and the rates among which its own is chosen."""

    name: str
    arguments: list
    rates: list


ARMS = [
    Arm("full", [], FULL_RATES),
    Arm("full+diff_tuning", DIFF_TUNING, FULL_RATES),
    Arm("lora", LORA, LORA_RATES),
    Arm("lora+diff_tuning", LORA + DIFF_TUNING, LORA_RATES),
    Arm("full+one_pic", ONE_PIC, FULL_RATES),
    # Half of the method: its timesteps of the target pictures, and no memory.
    Arm("full+diff_tuning, no memory", [*DIFF_TUNING, "--set", "diff_tuning.ratio=0"], FULL_RATES),
]
# (without, with): what each comparison is about.
COMPARISONS = [("full", "full+diff_tuning"), ("lora", "lora+diff_tuning"), ("full", "full+one_pic")]
COMPARISONS += [("full+diff_tuning, no memory", "full+diff_tuning")]


@dataclass(frozen=True)
class Run:
    """One training run and where it lies."""

    arm: Arm
    rate: float
    seed: int
    folder: Path

    def label(self):
        return f"{self.arm.name}, rate {self.rate:g}, seed {self.seed}"


class Bench:
    """A host program and the folder in which its runs lie."""

    def __init__(self, host, out, threads=0):
        self.host = Path(host)
        self.threads = ["--threads", threads]
        self.out = Path(out).resolve()
        if not self.host.is_file():
            sys.exit(f"no host at {self.host}; build it with `cargo build --release`, or give --host")

    def run(self, arm, rate, seed):
        name = f"{arm.name}-lr{rate:g}-seed{seed}".replace("+", "-").replace(", ", "-").replace(" ", "-")
        return Run(arm, rate, seed, self.out / name)

    def call(self, arguments, log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            done = subprocess.run([self.host, *map(str, [*arguments, *self.threads])], stdout=file, stderr=file)
        if done.returncode == 130:
            sys.exit("interrupted; the same command goes on")
        if done.returncode != 0:
            sys.exit(f"`host {' '.join(map(str, arguments))}` ended with {done.returncode}; see {log}")

    def train(self, run):
        """Trains a run to its end, from wherever it stands."""
        log = self.out / "logs" / f"{run.folder.name}.log"
        if (run.folder / "checkpoints" / f"step-{STEPS}").is_dir():
            return
        print(f"training {run.label()}", flush=True)
        if (run.folder / "run.toml").is_file():
            self.call(["run", "--resume", "--out", run.folder], log)
            return
        shutil.rmtree(run.folder, ignore_errors=True)
        own = ["--lr", f"{run.rate:g}", "--seed", run.seed, "--out", run.folder]
        self.call(["run", "--config", HERE / "few_shot.toml", "--steps", STEPS, *run.arm.arguments, *own], log)

    def evaluate(self, run, step, images):
        """The numbers of a run's checkpoint, measured once."""
        folder = run.folder / f"eval-{step}-{images}"
        if not (folder / "eval.json").is_file():
            print(f"evaluating {run.label()} after {step} steps", flush=True)
            what = ["--run", run.folder, "--checkpoint", step, "--count", images, "--out", folder]
            self.call(["eval", *what, *REFERENCE], self.out / "logs" / f"{run.folder.name}.log")
        return json.loads((folder / "eval.json").read_text())

    def backbone(self):
        """The numbers of the backbone before any training, whose labels mean other solids."""
        folder = self.out / f"backbone-{IMAGES}"
        if not (folder / "eval.json").is_file():
            print("evaluating the backbone", flush=True)
            how = ["--sampler", "dpmpp_2m", "--steps", 12, "--guidance", 1.5, "--batch-size", 48]
            self.call(["eval", "--count", IMAGES, "--out", folder, *how, *REFERENCE], self.out / "logs" / "backbone.log")
        return json.loads((folder / "eval.json").read_text())


def search(bench, arms):
    """The rate of each arm: the one of least Frechet distance on the search's seed. Gives {arm: (rate, [(rate, distance)])}."""
    chosen = {}
    for arm in arms:
        tried = []
        for rate in arm.rates:
            run = bench.run(arm, rate, SEARCH_SEED)
            bench.train(run)
            tried.append((rate, bench.evaluate(run, STEPS, SEARCH_IMAGES)["frechet"]))
        chosen[arm.name] = (min(tried, key=lambda pair: pair[1])[0], tried)
    return chosen


def measure(bench, arms, chosen, seeds, heard):
    """{arm: {step: [numbers of each seed]}}; `heard` gets what there is after each number."""
    results = {arm.name: {step: [] for step in CHECKPOINTS} for arm in arms}
    # The last checkpoint first, and seed by seed: an interrupted comparison has every arm at its end.
    for step in reversed(CHECKPOINTS):
        for seed in seeds:
            for arm in arms:
                run = bench.run(arm, chosen[arm.name][0], seed)
                bench.train(run)
                results[arm.name][step].append(bench.evaluate(run, step, IMAGES))
                heard(results)
    return results


def spread(values, digits=1):
    middle = statistics.mean(values)
    around = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{middle:.{digits}f} ± {around:.{digits}f}"


def row(name, rate, step, numbers):
    column = lambda pick, digits: spread([pick(one) for one in numbers], digits)
    cells = [
        name,
        rate,
        step,
        len(numbers),
        column(lambda one: one["frechet"], 1),
        column(lambda one: 1000 * one["kernel"]["mean"], 1),
        column(lambda one: one["precision"], 3),
        column(lambda one: one["recall"], 3),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def tables(chosen, results, backbone, seeds):
    """The report, in Markdown."""
    lines = [f"Seeds {', '.join(map(str, seeds))}: mean ± standard deviation.", ""]
    columns = ["method", "rate", "steps", "seeds", "Frechet", "1000 KID", "precision", "recall"]
    lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    if backbone:
        lines.append(row("backbone, untrained", "", 0, [backbone]))
    for name, steps in results.items():
        lines += [row(name, f"{chosen[name][0]:g}", step, numbers) for step, numbers in steps.items() if numbers]
    lines.append("")
    for without, given in COMPARISONS:
        if without not in results or given not in results:
            continue
        for step in CHECKPOINTS:
            # Of one seed, which both see the same pictures in the same order by.
            pairs = zip(results[without][step], results[given][step])
            changes = [100 * (b["frechet"] / a["frechet"] - 1) for a, b in pairs]
            if changes:
                lines.append(f"- {given} against {without} after {step} steps: Frechet distance {spread(changes)} %")
    lines += ["", f"The search, seed {SEARCH_SEED}, Frechet distance of {SEARCH_IMAGES} images after {STEPS} steps:", ""]
    lines += ["| method | rate: distance |", "|---|---|"]
    for name, (rate, tried) in chosen.items():
        cells = ", ".join(f"{'**' if r == rate else ''}{r:g}: {d:.1f}{'**' if r == rate else ''}" for r, d in tried)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--host", default=ROOT / "target" / "release" / "host", help="the host program")
    parser.add_argument("--out", default=ROOT / "runs" / "evidence", help="where the runs and results go")
    parser.add_argument("--only", action="append", metavar="METHOD", help="only this method; may be repeated")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--threads", type=int, default=0, help="of the host; on a busy machine 1 is faster than many")
    parser.add_argument("--table", action="store_true", help="only print the tables of the last results")
    asked = parser.parse_args()
    table, stored = Path(asked.out) / "results.md", Path(asked.out) / "results.json"
    if asked.table:
        print(table.read_text())
        return
    unknown = set(asked.only or []) - {arm.name for arm in ARMS}
    if unknown:
        sys.exit(f"no method is called {', '.join(sorted(unknown))}; there are {', '.join(arm.name for arm in ARMS)}")
    arms = [arm for arm in ARMS if not asked.only or arm.name in asked.only]
    bench = Bench(asked.host, asked.out, asked.threads)
    backbone = bench.backbone()
    chosen = search(bench, arms)

    def write(results):
        stored.write_text(json.dumps({"search": chosen, "results": results, "backbone": backbone}, indent=1))
        table.write_text(tables(chosen, results, backbone, asked.seeds))

    measure(bench, arms, chosen, asked.seeds, write)
    print(table.read_text())


if __name__ == "__main__":
    main()
