#!/usr/bin/env python3
"""This build beside an earlier one, in turn in one run: training, prompt and decode, quantizing, ingest.

    git worktree add ../before REVISION && make -C ../before build
    python3 cmd/tune/bench/versions.py ../before/bin [ROUNDS]

Prints for every row the best of the rounds of both and their ratio (above 1: this build is faster), as Markdown. ONLY is
a regular expression of rows.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import time

from common import MODEL, ROOT, THREADS, WORK, Failed, folder, fresh, gguf, made, prose, code, text, token_rows
from sections import train_recipe


def call(bin, name, *args):
    """Runs bin/NAME; returns its output and seconds."""
    t = time.perf_counter()
    threads = [] if args[0] == "ingest" else ["--threads", str(THREADS)]  # it has its own
    p = subprocess.run([str(bin / name), *map(str, args), *threads], cwd=ROOT, capture_output=True, text=True)
    if p.returncode != 0:
        raise Failed(f"{bin / name} {' '.join(map(str, args))}: {p.stderr.strip()[-400:]}")
    return p.stdout, time.perf_counter() - t


def steps(base, **settings):
    """Tokens/s of the best step after the first."""
    def measure(bin):
        recipe = train_recipe("versions", base(), **settings)
        fresh(WORK / "runs/versions")
        call(bin, "tune", "run", recipe, "--run-dir", WORK / "runs", "--quiet")
        lines = (WORK / "runs/versions/train/metrics.jsonl").read_text().splitlines()
        return max(m["tokens_per_second"] for m in map(json.loads, lines) if m.get("step", 0) > 1 and "tokens_per_second" in m),
    return measure


def model(path):
    """Prompt and decode tokens/s of a model."""
    def measure(bin):
        out, _ = call(bin, "tune", "bench", "--model", path(), "--json", "--quiet", "--rounds", 2)
        m = json.loads(out)["model"]
        return m["prompt_tokens_per_second"], m["decode_tokens_per_second"]
    return measure


def job(work, *args):
    """A unit of work a second of a command that writes a folder."""
    def measure(bin):
        out = fresh(WORK / "versions-out")
        _, took = call(bin, *(a() if callable(a) else a for a in args), "--output", out)
        fresh(out)
        return work / took,
    return measure


def quantized(method, *flags):
    return made(WORK / f"versions-{method}", "quant", method, "--model", folder(), "--calibration", token_rows(), "--samples", 4, "--max-length", 512, "--group-size", 64, *flags)


def corpus():
    return text("versions", prose() or code(), 30_000_000)


def rows():
    """What is measured: names of the numbers, their unit, and a function that gives them for a build."""
    f32 = folder
    yield ["LoRA step, f32"], "tokens/s", steps(f32, dtype="f32")
    yield ["LoRA step, bf16"], "tokens/s", steps(lambda: folder("BF16"), dtype="bf16")
    yield ["QLoRA step, bf16, checkpointing"], "tokens/s", steps(lambda: folder("BF16"), adapter="qlora", dtype="bf16", gradient_checkpointing=True)
    for name, path in {"BF16": lambda: gguf("BF16"), "Q8_0": lambda: gguf("Q8_0"), "Q4_K_M": lambda: gguf("Q4_K_M"),
                       "GPTQ": lambda: quantized("gptq"), "AWQ": lambda: quantized("awq")}.items():
        yield [f"prompt of 512, {name}", f"decode after 512, {name}"], "tokens/s", model(path)
    calibration = ("--calibration", token_rows, "--max-length", 512, "--group-size", 64, "--quiet")
    yield ["GPTQ of 8×512 tokens"], "1/s", job(1, "quant", "gptq", "--model", f32, *calibration, "--samples", 8)
    yield ["AWQ of 4×512 tokens"], "1/s", job(1, "quant", "awq", "--model", f32, *calibration, "--samples", 4)
    yield ["ingest of 30 MB of text"], "MB/s", job(30, "tune", "ingest", "--model", f32, "--data", corpus, "--overflow", "split", "--max-length", 2048, "--val-set-size", 0)


def main():
    before = pathlib.Path(sys.argv[1]).resolve()
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    WORK.mkdir(parents=True, exist_ok=True)
    only = re.compile(os.environ.get("ONLY", ""))
    print(f"{MODEL}, {THREADS} threads, best of {rounds} rounds in turn\n\n| | unit | before | now | ratio |\n|---|---|---|---|---|")
    for names, unit, measure in rows():
        if not any(map(only.search, names)):
            continue
        got = {before: [], ROOT / "bin": []}
        for i in range(rounds):
            for bin in sorted(got, reverse=i % 2):  # who goes first changes
                got[bin].append(measure(bin))
        for what, a, b in zip(names, *(zip(*v) for v in got.values())):
            print(f"| {what} | {unit} | {max(a):.4g} | {max(b):.4g} | {max(b) / max(a):.3f} |", flush=True)


if __name__ == "__main__":
    main()
