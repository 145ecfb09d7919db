#!/usr/bin/env python3
"""Memory of an ingest, and of the first training step over its result, by the number of rows.

    python3 cmd/tune/bench/rows.py [--model recipes/pocket/model] [--rows 200000,600000,1200000]

Makes files of short chat rows, no two alike, and prints for each the peak of anonymous memory and the time of `tune ingest`
without and with --output, and of `tune run` of one training step. Exit 1 when the largest file takes 16 MiB more than the smallest.
"""
import argparse
import shutil
import subprocess
import sys
import time

from common import ROOT, WORK
from large import anonymous

WORDS = "time day world life hand part child eye woman place work week case point company number group problem fact".split()


def chats(n):
    out = WORK / f"chats-{n}.jsonl"
    if not out.exists():
        with open(out, "w") as f:
            for i in range(n):
                a, b = WORDS[i % 19], WORDS[i // 19 % 19]
                f.write(f'{{"messages": [{{"role": "user", "content": "The {a} of {b} {i}?"}}, {{"role": "assistant", "content": "{b} {i * 7919 % 100003}."}}]}}\n')
    return out


def peak(*args):
    """Peak of anonymous memory in MiB, and seconds."""
    began, most = time.perf_counter(), 0
    p = subprocess.Popen([str(ROOT / "bin/tune"), *map(str, args)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while p.poll() is None:
        most = max(most, anonymous(p.pid))
        time.sleep(0.01)
    if p.returncode != 0:
        sys.exit(p.stderr.read())
    return most / (1 << 20), time.perf_counter() - began


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="recipes/pocket/model")
    p.add_argument("--rows", default="200000,600000,1200000")
    a = p.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    first = None
    print("rows       check            with --output     first step")
    for n in map(int, a.rows.split(",")):
        data, tokens, runs = chats(n), WORK / "rows-tokens", WORK / "rows-runs"
        shutil.rmtree(tokens, ignore_errors=True)
        shutil.rmtree(runs, ignore_errors=True)
        recipe = WORK / "rows.yaml"
        recipe.write_text(f"version: 1\nbase_model: {a.model}\nstages:\n  - ingest: {{datasets: [{{path: {data}}}]}}\n  - train: {{max_steps: 1}}\n")
        check = peak("ingest", "--model", a.model, "--data", data, "--quiet")
        saved = peak("ingest", "--model", a.model, "--data", data, "--output", tokens, "--quiet")
        peak("run", recipe, "--run-dir", runs, "--only", "ingest", "--quiet")
        step = peak("run", recipe, "--run-dir", runs, "--only", "train", "--quiet")
        print(f"{n:<10} " + "  ".join(f"{mib:6.0f} MiB {s:5.1f} s" for mib, s in (check, saved, step)), flush=True)
        now = [mib for mib, _ in (check, saved, step)]
        first = first or now
    sys.exit(any(mib > before + 16 for mib, before in zip(now, first)))


if __name__ == "__main__":
    main()
