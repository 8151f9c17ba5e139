"""ONE-PIC beside ControlNet on the same condition: quality at equal steps, and at equal cost.

    python3 examples/conditions/run.py                          everything; say it again after an interruption
    python3 examples/conditions/run.py --seeds 0 --only one_pic
    python3 examples/conditions/run.py --table                  the table of what is there

The condition is a scene in the studio's light, and the picture asked for is the same scene at dusk: one answer is right, so what is drawn is compared with
it pixel by pixel. ONE-PIC sees both in one picture and trains the backbone, as a whole or by LoRA; ControlNet leaves the backbone frozen and trains a copy of half
of its blocks. The cost is processor time: it does not depend on what else the machine does.
Needs Python's standard library and a built host with its plugins (`cargo build --release`).
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from shared import Host, markdown, options, read_json, read_png, spread  # noqa: E402

STEPS = 200
CHECKPOINTS = [50, 100, 200]
SOURCE = "domain:studio"
ONE_PIC = ["--plugin", "one_pic", "--set", 'one_pic.layout=[["hint", "target"]]', "--set", "backbone.positions=repeat"]
LORA = ["--plugin", "lora", "--set", "lora.rank=32", "--set", 'lora.targets=["**.attn1.**", "**.ff.**"]']
# What is added to the shared run file, and the learning rate.
ARMS = {
    "one_pic": ([*ONE_PIC], 1e-3),
    "one_pic+lora": ([*LORA, *ONE_PIC], 3e-3),
    "controlnet": (["--plugin", "controlnet"], 1e-3),
}


def error(drawn, truth):
    """The mean distance of two pictures' values, of 0 to 255."""
    rows = zip(read_png(drawn), read_png(truth))
    return statistics.fmean(abs(a - b) for one, other in rows for a, b in zip(one, other))


def unseen(host):
    """Scenes that no run has seen, in both lights."""
    folder = host.out / "unseen"
    if not (folder / "metadata.jsonl").is_file():
        where = ["--out", folder, "--count", 64, "--seed", 9, "--column", f"hint={SOURCE}"]
        host.call(host.out / "unseen.log", "data", "export", "scenes:dusk", *where, threads=False)
    return folder


def train(host, arm, seed):
    added, rate = ARMS[arm]
    arguments = ["--data", "scenes:dusk", "--set", f'data.columns={{hint = "{SOURCE}"}}', "--batch-size", 16, "--lr", rate, "--seed", seed]
    for setting in ["train.schedule=constant", "train.checkpoint_every=50", "train.keep_checkpoints=0", "sample.count=0"]:
        arguments += ["--set", setting]
    folder = host.out / f"{arm.replace('+', '-')}-seed{seed}"
    return folder, host.train(folder, STEPS, *arguments, *added)


def measure(host, run, step, data):
    """The error of a checkpoint's drawings."""
    drawn = run / "drawn" / f"step-{step}"
    if not (drawn / "grid.png").is_file():
        how = ["--sampler", "dpmpp_2m", "--steps", 12, "--guidance", 1, "--count", 64, "--batch-size", 32]
        drawn.mkdir(parents=True, exist_ok=True)
        host.call(
            run.with_suffix(".log"), "sample", "--run", run, "--checkpoint", step, "--input", data, *how, "--each", drawn / "each", "--out", drawn / "grid.png"
        )
    lines = (data / "metadata.jsonl").read_text().splitlines()
    truths = {Path(json.loads(line)["file_name"]).stem: data / json.loads(line)["file_name"] for line in lines}
    pictures = {path.stem: path for path in (drawn / "each").rglob("*.png")}
    if missing := truths.keys() - pictures.keys():
        sys.exit(f"{drawn / 'each'} lacks {', '.join(sorted(missing)[:3])}")
    return statistics.fmean(error(pictures[name], truth) for name, truth in truths.items())


def table(results):
    rows = []
    for arm, seeds in results.items():
        for step in map(str, CHECKPOINTS):
            errors = [one["errors"][step] for one in seeds.values()]
            seconds = [one["seconds"] * int(step) / STEPS for one in seeds.values()]
            rows.append([arm, step, len(errors), spread(errors), spread(seconds, 0)])
    return markdown(["method", "steps", "seeds", "error, of 255", "processor time, s"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options(parser, "conditions")
    parser.add_argument("--only", choices=ARMS, action="append", help="only this method")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    stored = asked.out / "results.json"
    if asked.table:
        print(table(read_json(stored)), end="")
        return
    host, results = Host(asked), {}
    data = unseen(host)
    for seed in asked.seeds:
        for arm in asked.only or ARMS:
            run, seconds = train(host, arm, seed)
            errors = {str(step): measure(host, run, step, data) for step in CHECKPOINTS}
            results.setdefault(arm, {})[str(seed)] = {"seconds": seconds, "errors": errors}
            stored.write_text(json.dumps(results, indent=1))
            print(table(results), flush=True)


if __name__ == "__main__":
    main()
