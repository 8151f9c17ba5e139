"""What the measurements in this folder have in common: the host program, runs that are trained once, PNG files, and rows of tables."""

import json
import resource
import statistics
import struct
import subprocess
import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def options(parser, out):
    """What every measurement is told."""
    parser.add_argument("--host", default=ROOT / "target" / "release" / "host", help="the host program")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / out, help="where data, runs and results go")
    parser.add_argument("--threads", type=int, default=0, help="of the host; on a busy machine 1 is faster than many")
    parser.add_argument("--table", action="store_true", help="only print the tables of the last results")


class Host:
    """A host program and the folder in which its runs lie."""

    def __init__(self, asked):
        self.program, self.out = Path(asked.host), asked.out.resolve()
        self.threads = ["--threads", asked.threads] if asked.threads else []
        if not self.program.is_file():
            sys.exit(f"no host at {self.program}; build it with `cargo build --release`, or give --host")

    def call(self, log, *arguments, threads=True):
        """Runs the host with its output added to `log`."""
        words = [str(word) for word in [*arguments, *(self.threads if threads else [])]]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            code = subprocess.run([self.program, *words], stdout=file, stderr=file).returncode
        if code == 130:
            sys.exit("interrupted; the same command goes on")
        if code != 0:
            sys.exit(f"`host {' '.join(words)}` ended with {code}; see {log}")

    def train(self, folder, steps, *arguments):
        """Trains a run to its end, from wherever it stands. Gives the seconds of processor time that it took."""
        spent, log = folder.with_suffix(".seconds"), folder.with_suffix(".log")
        seconds = float(spent.read_text()) if spent.is_file() else 0.0
        if (folder / "checkpoints" / f"step-{steps}").is_dir():
            return seconds
        print(f"training {folder.name}", flush=True)
        before = processor_seconds()
        try:
            if (folder / "run.toml").is_file():
                self.call(log, "run", "--resume", "--out", folder)
            else:
                self.call(log, "run", *arguments, "--steps", steps, "--out", folder)
        finally:
            seconds += processor_seconds() - before
            spent.write_text(f"{seconds:.1f}\n")
        return seconds


def processor_seconds():
    """Of all programs that were called so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def spread(values, digits=1):
    """Mean and standard deviation; of one number, the number."""
    around = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{around}"


def markdown(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def read_json(path):
    return json.loads(path.read_text())


def write_png(path, rows):
    """`rows` of RGB bytes."""
    raw = b"".join(b"\0" + bytes(row) for row in rows)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", len(rows[0]) // 3, len(rows), 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


def read_png(path):
    """Rows of RGB bytes of an 8-bit RGB picture, as the host writes them."""
    data, at, packed = path.read_bytes(), 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colours = struct.unpack(">IIBB", body[:10])
            assert (depth, colours) == (8, 2), f"{path} is no 8-bit RGB picture"
        packed += body if kind == b"IDAT" else b""
        at += 12 + length
    raw, stride, rows, above = zlib.decompress(packed), 3 * width, [], bytearray(3 * width)
    for y in range(height):
        how, row = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for x in range(stride):
            left, up, corner = (row[x - 3] if x > 2 else 0), above[x], (above[x - 3] if x > 2 else 0)
            guess = left + up - corner
            paeth = min((left, up, corner), key=lambda near: abs(guess - near))
            row[x] = (row[x] + (0, left, up, (left + up) // 2, paeth)[how]) & 255
        rows.append(row)
        above = row
    return rows
