"""How the time of a training step grows with batch, tokens and rank, and which share of this machine's arithmetic it reaches.

    cargo build --release
    python tests/bench/curve.py [--host target/release/host] [--threads 1] [--steps 3]

Needs what peer.py needs. The arithmetic of a step is counted from the shapes (a multiply-add is two): products with weights once forward, once for the gradient of
their input and, where the weight trains, once for its own; attention's two products forward and four backward, without what is computed again. The peak is the best
rate of a 2048 x 2048 x 2048 product in PyTorch on as many threads.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", type=Path, default=ROOT / "target/release/host")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    return parser.parse_args()


def peak(threads):
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(12):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best / 1e9


def gflop(config, batch, size, rank):
    """Of one step: forward, and backward to what trains (everything, or updates of that rank beside the four layers of attention)."""
    width, layers = config["num_attention_heads"] * config["attention_head_dim"], config["num_layers"]
    tokens = batch * (size // config["patch_size"]) ** 2
    weights = layers * 12 * width**2 * tokens + layers * 6 * width**2 * batch
    attention = layers * 2 * tokens * (tokens // batch) * width
    passes = 2 if rank else 3
    updates = 3 * layers * 4 * 2 * width * rank * tokens
    return 2 * (passes * weights + 3 * attention + updates) / 1e9


def main():
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="curve-") as folder:
        shape = ["--model", "dit-s2", "--mode", "full", "--batch", "1", "--size", "32", "--threads", str(args.threads), "--steps", "1"]
        subprocess.run([sys.executable, HERE / "peer.py", *shape, "--save", folder], check=True, stdout=subprocess.DEVNULL)
        config = json.loads((Path(folder) / "transformer/config.json").read_text())
        best = peak(args.threads)
        print(f"peak: {best:.0f} GFLOP/s on {args.threads} threads\n")
        print("| batch | tokens | rank | step, ms | GFLOP | GFLOP/s | share of peak | memory, MiB |\n|---|---|---|---|---|---|---|---|")
        points = [(batch, 32, 16) for batch in (1, 2, 4, 8, 16)]
        points += [(8, 16, 16), (2, 64, 16)]
        points += [(8, 32, rank) for rank in (4, 64)]
        points += [(batch, 32, 0) for batch in (1, 4, 8)]
        for batch, size, rank in points:
            command = [args.host, "bench", "--quiet", "--json", "--backbone", folder, "--batch-size", batch, "--size", size]
            command += ["--threads", args.threads, "--steps", args.steps]
            if rank:
                command += ["--plugin", "lora", "--set", f"lora.rank={rank}"]
            done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
            measured = json.loads(done.stdout[done.stdout.index("{") :])
            work, ms = gflop(config, batch, size, rank), measured["step_ms_min"]
            rate = work / ms * 1e3
            tokens = (size // config["patch_size"]) ** 2
            print(f"| {batch} | {tokens} | {rank or 'all'} | {ms:.0f} | {work:.0f} | {rate:.0f} | {rate / best:.0%} | {measured['peak_rss_mb']} |", flush=True)


if __name__ == "__main__":
    main()
