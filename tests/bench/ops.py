"""Times every fast operation of the host and PyTorch's in turn, forward plus backward, and prints the ratios ours / PyTorch.

    cargo bench -p host --bench ops --no-run
    python tests/bench/ops.py [--threads 1 2] [--pairs 15] [--filter conv] [--json FILE]

Needs torch (measured with 2.13.0) in the Python that runs it. The host's side is the bench `ops` in its serving mode: a name in, the milliseconds of one run
out. The two sides alternate run by run on the same number of threads, so that whatever slows the machine down slows both; a ratio is that of one pair, and the table
has the median of all pairs and both medians. Nothing else should run meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--filter", default="")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add all measurements here")
    parser.add_argument("--bench", type=Path, help="the built bench; found by cargo unless given")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def built_bench():
    done = subprocess.run(
        ["cargo", "bench", "-p", "host", "--bench", "ops", "--no-run", "--message-format=json"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return next(line["executable"] for line in lines if line.get("target", {}).get("name") == "ops" and line.get("executable"))


def cases(torch):
    """Name to (operands, function); the names and shapes of host/benches/ops/cases.rs."""
    F = torch.nn.functional
    found = {}

    def case(name, function, *shapes, frozen=()):
        found[name] = ([(shape, index not in frozen) for index, shape in enumerate(shapes)], function)

    case("linear 2048x384->1536", F.linear, (2048, 384), (1536, 384), (1536,))
    case("linear 2048x384->1536 frozen", F.linear, (2048, 384), (1536, 384), (1536,), frozen=(1, 2))
    case("linear 2048x1536->384", F.linear, (2048, 1536), (384, 1536), (384,))
    case("linear 1024x640->5120 frozen", F.linear, (1024, 640), (5120, 640), (5120,), frozen=(1, 2))
    same = lambda x, w, b: F.conv2d(x, w, b, 1, 1)
    for width, side in [(320, 64), (640, 32), (1280, 16)]:
        shapes = (1, width, side, side), (width, width, 3, 3), (width,)
        case(f"conv 3x3 1x{width}x{side}x{side}", same, *shapes)
        case(f"conv 3x3 1x{width}x{side}x{side} frozen", same, *shapes, frozen=(1, 2))
    case("conv 3x3/2 1x320x64x64 frozen", lambda x, w, b: F.conv2d(x, w, b, 2, 1), (1, 320, 64, 64), (320, 320, 3, 3), (320,), frozen=(1, 2))
    for name, width, side, out in [("1x640x64x64->320", 640, 64, 320), ("1x640x32x32", 640, 32, 640), ("1x1280x16x16", 1280, 16, 1280)]:
        shapes = (1, width, side, side), (out, width, 1, 1), (out,)
        case(f"conv 1x1 {name}", F.conv2d, *shapes)
        case(f"conv 1x1 {name} frozen", F.conv2d, *shapes, frozen=(1, 2))
    attention = F.scaled_dot_product_attention
    for batch, heads, tokens, width in [(8, 6, 256, 64), (1, 8, 1024, 80), (1, 8, 4096, 40)]:
        case(f"attention {batch}x{heads}x{tokens}x{width}", attention, *[(batch, heads, tokens, width)] * 3)
    for tokens, width in [(4096, 40), (1024, 80), (256, 160)]:
        case(f"attention cross 1x8x{tokens}x{width}", attention, (1, 8, tokens, width), (1, 8, 77, width), (1, 8, 77, width))
    for width, side in [(320, 64), (640, 32), (1280, 16)]:
        norm = lambda x, w, b: F.silu(F.group_norm(x, 32, w, b, 1e-5))
        case(f"group_norm_silu 1x{width}x{side}x{side}", norm, (1, width, side, side), (width,), (width,))
    modulate = lambda x, shift, scale: F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    for batch, tokens, width in [(8, 256, 384), (4, 256, 768), (64, 64, 192)]:
        case(f"layer_norm_modulate {batch}x{tokens}x{width}", modulate, (batch, tokens, width), (batch, width), (batch, width))
    case("gate_residual 8x256x384", lambda x, gate, y: x + gate[:, None] * y, (8, 256, 384), (8, 384), (8, 256, 384))
    for rows, width in [(2048, 1536), (1024, 3072), (4096, 768)]:
        case(f"gelu {rows}x{width}", lambda x: F.gelu(x, approximate="tanh"), (rows, width))
    case("silu 2048x1536", F.silu, (2048, 1536))
    for rows, width in [(4096, 2560), (1024, 5120), (256, 10240)]:
        def geglu(x):
            value, gate = x.chunk(2, -1)
            return value * F.gelu(gate)
        case(f"geglu {rows}x{width}", geglu, (rows, width))
    for name, count in [("1M", 1000), ("10M", 10_000), ("33M", 33_000)]:
        case(f"adamw {name}", None, (count, 1000))
    return found


def measure(args):
    """In a process of its own, so that the thread counts hold from its start."""
    import torch

    torch.set_num_threads(args.measure)
    torch.manual_seed(0)
    host = subprocess.Popen([args.bench, "--bench", "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ours(name):
        host.stdin.write(name + "\n")
        host.stdin.flush()
        return float(host.stdout.readline())

    def timed(work):
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3

    for name, (shapes, function) in cases(torch).items():
        if args.filter not in name:
            continue
        operands = [torch.randn(shape, requires_grad=tracked) for shape, tracked in shapes]
        if function is None:
            optimizer = torch.optim.AdamW(operands, fused=True)
            operands[0].grad = torch.full_like(operands[0], 2.0)
            theirs = lambda: timed(optimizer.step)
        else:
            tracked = [operand for operand in operands if operand.requires_grad]
            grad = torch.randn_like(function(*operands))
            theirs = lambda: timed(lambda: torch.autograd.grad(function(*operands), tracked, grad))
        pairs = [(ours(name), theirs()) for _ in range(args.pairs + 2)][2:]
        middle = [statistics.median(side) for side in zip(*pairs)]
        ratio = statistics.median(mine / other for mine, other in pairs)
        print(json.dumps({"name": name, "threads": args.measure, "ours_ms": middle[0], "peer_ms": middle[1], "ratio": ratio}), flush=True)


def main():
    args = arguments()
    args.bench = args.bench or built_bench()
    if args.measure:
        return measure(args)
    print("| forward + backward | threads | ours, ms | PyTorch, ms | ratio |\n|---|---|---|---|---|")
    kept = []
    for threads in args.threads:
        counts = {name: str(threads) for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        # Idle threads of one side must not spin while the other is measured.
        environment = os.environ | counts | {"KMP_BLOCKTIME": "0", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, __file__, "--measure", str(threads), "--bench", str(args.bench), "--pairs", str(args.pairs), "--filter", args.filter]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                row = json.loads(line)
                kept.append(row)
                print(f"| {row['name']} | {threads} | {row['ours_ms']:.2f} | {row['peer_ms']:.2f} | {row['ratio']:.2f} |", flush=True)
        if child.returncode:
            sys.exit("the measuring process failed")
    if args.json:
        args.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
