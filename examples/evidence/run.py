"""Compares methods on few pictures, with the host program alone: three seeds each, mean and spread.

    python3 examples/evidence/run.py                 everything; say it again after an interruption
    python3 examples/evidence/run.py --only full+diff_tuning --seeds 2      one cell of the table, at the rate that the search chose
    python3 examples/evidence/run.py --table         the tables of what is there

Finished runs and evaluations are skipped and interrupted runs resumed, so it can be stopped at any time. Needs Python's standard library
and a built host with its plugins (`cargo build --release`). README.md beside this says what is compared and why.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from shared import Host, options, read_json, spread  # noqa: E402

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


class Bench(Host):
    """A host program and the folder in which the runs that are compared lie."""

    def run(self, arm, rate, seed):
        name = f"{arm.name}-lr{rate:g}-seed{seed}".replace("+", "-").replace(", ", "-").replace(" ", "-")
        return Run(arm, rate, seed, self.out / name)

    def fit(self, run):
        """Trains a run to its end, from wherever it stands."""
        own = ["--lr", f"{run.rate:g}", "--seed", run.seed]
        self.train(run.folder, STEPS, "--config", HERE / "few_shot.toml", *run.arm.arguments, *own)

    def evaluate(self, run, step, images):
        """The numbers of a run's checkpoint, measured once."""
        folder = run.folder / f"eval-{step}-{images}"
        if not (folder / "eval.json").is_file():
            print(f"evaluating {run.label()} after {step} steps", flush=True)
            what = ["--run", run.folder, "--checkpoint", step, "--count", images, "--out", folder]
            self.call(run.folder.with_suffix(".log"), "eval", *what, *REFERENCE)
        return read_json(folder / "eval.json")

    def backbone(self):
        """The numbers of the backbone before any training, whose labels mean other solids."""
        folder = self.out / f"backbone-{IMAGES}"
        if not (folder / "eval.json").is_file():
            print("evaluating the backbone", flush=True)
            how = ["--sampler", "dpmpp_2m", "--steps", 12, "--guidance", 1.5, "--batch-size", 48]
            self.call(folder.with_suffix(".log"), "eval", "--count", IMAGES, "--out", folder, *how, *REFERENCE)
        return read_json(folder / "eval.json")


def search(bench, arms):
    """The rate of each arm: the one of least Frechet distance on the search's seed. Gives {arm: (rate, [(rate, distance)])}."""
    chosen = {}
    for arm in arms:
        tried = []
        for rate in arm.rates:
            run = bench.run(arm, rate, SEARCH_SEED)
            bench.fit(run)
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
                bench.fit(run)
                results[arm.name][step].append(bench.evaluate(run, step, IMAGES))
                heard(results)
    return results


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
    options(parser, "evidence")
    parser.add_argument("--only", action="append", metavar="METHOD", help="only this method; may be repeated")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    asked = parser.parse_args()
    table, stored = asked.out / "results.md", asked.out / "results.json"
    if asked.table:
        print(table.read_text())
        return
    unknown = set(asked.only or []) - {arm.name for arm in ARMS}
    if unknown:
        sys.exit(f"no method is called {', '.join(sorted(unknown))}; there are {', '.join(arm.name for arm in ARMS)}")
    arms = [arm for arm in ARMS if not asked.only or arm.name in asked.only]
    bench = Bench(asked)
    backbone = bench.backbone()
    chosen = search(bench, arms)

    def write(results):
        stored.write_text(json.dumps({"search": chosen, "results": results, "backbone": backbone}, indent=1))
        table.write_text(tables(chosen, results, backbone, asked.seeds))

    measure(bench, arms, chosen, asked.seeds, write)
    print(table.read_text())


if __name__ == "__main__":
    main()
