"""Runs `host bench` and peer.py in turn on the same weights and inputs, and prints the ratios ours / PyTorch.

    cargo build --release
    python tests/bench/compare.py [--host target/release/host] [--model dit-s2] [--batch 8] [--rounds 3] [--threads 1 2] [--modes lora full]
    python tests/bench/compare.py --model sd15 --modes lora controlnet --batch 1 --size 32 --steps 2 --rounds 2

Needs what peer.py needs in the Python that runs it. Every round runs both sides one after the other, so that whatever slows the machine down slows
both; a ratio is that of one round, and the table has the middle ratio of all rounds and the numbers of the middle round. Nothing else should run
meanwhile. --json FILE keeps everything that was measured.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Of the losses: the first step, and later ones, in which rounding has grown.
TOLERANCES = (1e-4, 1e-3)
# What `host bench` is told for each of the peer's modes.
OURS = {
    "lora": ["--plugin", "lora", "--set", "lora.rank={rank}"],
    "full": [],
    "controlnet": ["--plugin", "controlnet"],
    "e2e_ft": ["--plugin", "e2e_ft", "--set", "e2e_ft.task=depth"],
}
# Those in which nothing is drawn at random, so that every loss is the same and not only the first.
REPEATED = ["full", "e2e_ft"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", type=Path, default=ROOT / "target/release/host")
    parser.add_argument("--model", default="dit-s2")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--modes", nargs="+", choices=OURS, default=["lora", "full"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements here")
    return parser.parse_args()


def run(command):
    """The JSON that a command prints last."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} ended with {done.returncode}")
    text = done.stdout
    return json.loads(text[text.index("{") :])


def peer(args, mode, threads, *further):
    shape = ["--model", args.model, "--mode", mode, "--rank", args.rank, "--batch", args.batch, "--size", args.size]
    return run([sys.executable, HERE / "peer.py", *shape, "--threads", threads, "--steps", args.steps, *further])


def ours(args, mode, threads, folder):
    command = [args.host, "bench", "--quiet", "--backbone", folder, "--inputs", folder / "inputs.safetensors"]
    command += [word.format(rank=args.rank) for word in OURS[mode]]
    return run([*command, "--threads", threads, "--steps", args.steps, "--json"])


def check_same_work(mode, mine, theirs):
    """Every loss is the same; where something that trains is drawn at random, such as LoRA's A, the first one is."""
    if mine["trainable"] != theirs["trainable"]:
        # Embedders that all blocks share are held once here, and diffusers counts each.
        print(f"note: {mine['trainable']} numbers train here, {theirs['trainable']} there", file=sys.stderr)
    compared = len(theirs["losses"]) if mode in REPEATED else 1
    for step in range(compared):
        a, b = mine["losses"][step], theirs["losses"][step]
        if abs(a - b) > TOLERANCES[min(step, 1)] * abs(b):
            sys.exit(f"not the same work: the loss of step {step} is {a} here and {b} there")


def before_first_step(measured):
    return measured["import_s"] + measured["build_s"]


def through_first_step(measured):
    return before_first_step(measured) + measured["first_step_s"]


QUANTITIES = [
    ("step, ms", lambda measured: measured["step_ms_median"], "{:.0f}"),
    ("processor time of a step, ms", lambda measured: measured["step_cpu_ms"], "{:.0f}"),
    ("peak memory, MiB", lambda measured: measured["peak_rss_mb"], "{:.0f}"),
    ("start until the first step begins, s", before_first_step, "{:.2f}"),
    ("start until the first step is done, s", through_first_step, "{:.2f}"),
]


def main():
    args = arguments()
    kept = []
    print("| what trains | threads | quantity | ours | PyTorch | ratio |\n|---|---|---|---|---|---|")
    for mode in args.modes:
        # Once for all rounds: both sides then read the same files, and no measured process writes them.
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            folder = Path(folder)
            peer(args, mode, max(args.threads), "--save", folder)
            for threads in args.threads:
                kept += compare(args, mode, threads, folder)
    if args.json:
        args.json.write_text(json.dumps(kept, indent=1) + "\n")


def compare(args, mode, threads, folder):
    """All rounds of one row, printed."""
    pairs = []
    for number in range(args.rounds):
        print(f"{mode}, {threads} threads, round {number + 1} of {args.rounds}", file=sys.stderr)
        theirs, mine = peer(args, mode, threads), ours(args, mode, threads, folder)
        check_same_work(mode, mine, theirs)
        pairs.append((mine, theirs))
    for name, of, form in QUANTITIES:
        ratios = [of(mine) / of(theirs) for mine, theirs in pairs]
        middle = statistics.median_low(ratios)
        mine, theirs = (form.format(of(side)) for side in pairs[ratios.index(middle)])
        print(f"| {mode} | {threads} | {name} | {mine} | {theirs} | {middle:.2f} |", flush=True)
    return [{"mode": mode, "threads": threads, "ours": mine, "peer": theirs} for mine, theirs in pairs]


if __name__ == "__main__":
    main()
