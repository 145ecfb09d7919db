#!/usr/bin/env python3
"""A model larger than the memory limit through every stage: what the plan says, what is counted, what the process takes.

    python3 cmd/tune/bench/large.py [--shape llama-8b] [--limit 4GiB] [--train-limit 8GiB] [--layers N] [STAGE …]

Makes the shape with random weights (random_model.py), writes a recipe with all stages that hold a model, and runs each
in a process of its own under the limit. For each stage it prints the peak that the plan predicted, the peak that was
counted, the peak of anonymous memory of the process, and the time. Exit 1 when a stage failed, went over its limit, or
the plan was off by more than 10 %.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import threading
import time

from common import ROOT, SHARED, WORK

import random_model

SAMPLES, LENGTH = 4, 128  # calibration and training text: enough for every kernel to run, not to learn
STAGES = ["adapter", "merged", "gptq", "awq", "gguf", "dense", "check"]


def rows():
    """Token rows of a fixed pattern: the weights are random, so the text need not be one."""
    out = WORK / f"large-rows-{LENGTH}.jsonl"
    lines = [[(7 * i * i + 13 * r + i) % 120000 + 5 for i in range(LENGTH)] for r in range(SAMPLES)]
    out.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in lines))
    return out


def recipe(model, only):
    """All stages on one model; JSON is YAML."""
    cal = {"calibration": "data", "samples": SAMPLES, "max_length": LENGTH}
    stages = [
        {"id": "data", "ingest": {"datasets": [{"path": str(rows()), "type": "tokens"}], "max_length": LENGTH}},
        {"id": "adapter", "train": {"adapter": "qlora", "lora": {"r": 16, "alpha": 32}, "max_steps": 2, "micro_batch_size": 1,
                                    "gradient_accumulation_steps": 1, "dtype": "bf16"}},
        {"id": "merged", "merge": {}},
        {"id": "gptq", "quantize": {"model": str(model), "method": "gptq", "scheme": "W4A16", **cal}},
        {"id": "awq", "quantize": {"model": str(model), "method": "awq", "scheme": "W4A16_ASYM", **cal}},
        {"id": "gguf", "export": {"model": str(model), "type": "Q4_K_M"}},
        {"id": "dense", "export": {"model": str(model), "format": "safetensors", "type": "BF16"}},
        {"id": "check", "eval": {"models": [{"name": "base", "model": str(model)}], "tasks": ["perplexity"], "samples": 4, "context": LENGTH}},
    ]
    keep = {"data", *only} | ({"adapter"} if "merged" in only else set())
    path = WORK / "large.yaml"
    path.write_text(json.dumps({"version": 1, "name": "large", "base_model": str(model), "stages": [s for s in stages if s["id"] in keep]}))
    return path


def anonymous(pid):
    """Bytes of anonymous memory of a process, now."""
    try:
        for line in open(f"/proc/{pid}/status"):
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def run(args):
    """Exit status, seconds and peak anonymous bytes of a command."""
    t = time.perf_counter()
    p = subprocess.Popen([str(ROOT / "bin/tune"), *args], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    err = []
    reader = threading.Thread(target=lambda: err.extend(p.stderr))
    reader.start()
    peak = 0
    while p.poll() is None:
        peak = max(peak, anonymous(p.pid))
        time.sleep(0.02)
    reader.join()
    return p.returncode, time.perf_counter() - t, peak, "".join(err)


def size(text):
    units = {"MiB": 1 << 20, "GiB": 1 << 30}
    return int(text[:-3]) * units[text[-3:]]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", choices=random_model.SHAPES, default="llama-8b")
    p.add_argument("--layers", type=int, help="another number of them: the peak of a walk over blocks does not depend on it, its time does")
    p.add_argument("--limit", default="4GiB")
    p.add_argument("--train-limit", default="8GiB")
    p.add_argument("stages", nargs="*", choices=[[], *STAGES], default=[])
    a = p.parse_args()
    a.stages = a.stages or STAGES
    WORK.mkdir(parents=True, exist_ok=True)
    model = WORK / (f"{a.shape}-{a.layers}" if a.layers else a.shape)
    if not (model / "model.safetensors.index.json").exists():
        subprocess.run([sys.executable, str(pathlib.Path(__file__).parent / "random_model.py"), a.shape, str(model),
                        "--tokenizer", str(SHARED / "tokenizer-json/llama3"), *(["--layers", str(a.layers)] if a.layers else [])], check=True)
    path, dir = recipe(model, a.stages), WORK / f"{model.name}-runs"
    base = [str(path), "--run-dir", str(dir)]
    code, _, _, err = run(["run", *base, "--quiet", "--only", "data"])
    if code != 0:
        sys.exit(err)
    bad = 0
    print(f"{model.name}, {SAMPLES}×{LENGTH} tokens")
    print("stage      limit   planned   counted  of plan  anonymous      time")
    for id in [s for s in STAGES if s in a.stages]:
        limit = a.train_limit if id == "adapter" else a.limit
        plan = subprocess.run([str(ROOT / "bin/tune"), "plan", *base, "--memory-limit", limit, "--json"], cwd=ROOT, capture_output=True, text=True)
        want = next((s.get("peak_bytes", 0) for s in json.loads(plan.stdout)["stages"] if s["stage"] == id), 0) if plan.returncode == 0 else 0
        code, seconds, anon, err = run(["run", *base, "--quiet", "--only", id, "--memory-limit", limit])
        counted = json.loads((dir / "large/.state/timing.json").read_text()).get(id, [0, 0])[1]
        ok = code == 0 and counted <= size(limit) and anon <= size(limit) and want and abs(counted / want - 1) <= 0.1
        bad += not ok
        ratio = f"{counted / want:8.2f}" if want else "       –"
        print(f"{id:9} {limit:>6} {want / 1e9:8.2f}G {counted / 1e9:8.2f}G {ratio} {anon / 1e9:9.2f}G {seconds:8.0f}s  {'' if ok else 'NOT MET'}", flush=True)
        if code != 0:
            print("  " + (err.strip() or plan.stderr.strip()).replace("\n", "\n  "), flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
