#!/usr/bin/env python3
"""Tokens/s and memory of training against sequence length, batch, rank and model size, as docs/performance.svg.

    python3 cmd/tune/bench/curves.py

Every point is a `tune run` of two steps, of which the second counts. Points are kept in build/bench/points.json;
RESUME=1 leaves out those that are there. ONLY is a regular expression of "AXIS VALUE SERIES", e.g. ONLY='^length 8192'.
"""
import json
import os
import re
import subprocess
import sys

import document
import svg
from common import BUILD, ROOT, WORK, Failed, folder, interop, save, token_rows
from sections import SECTIONS, our_steps, train_recipe

SERIES = {
    "LoRA bf16": {"adapter": "lora", "dtype": "bf16", "gradient_checkpointing": False},
    "QLoRA bf16, checkpointing": {"adapter": "qlora", "dtype": "bf16", "gradient_checkpointing": True},
}
AXES = {
    "length": ("tokens a sample (2,048 a step, or one sample)", [256, 512, 1024, 2048, 4096, 8192]),
    "batch": ("samples of 512 tokens a step", [1, 2, 4, 8, 16]),
    "rank": ("rank of the adapter, 4×512 tokens a step", [4, 16, 64, 256]),
    "model": ("model, 4×512 tokens a step", ["pocket 5M", "SmolLM2 135M", "Llama 1B"]),
}
LLAMA_1B = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
            "vocab_size": 128256, "max_position_embeddings": 8192, "rope_theta": 500000.0, "tie_word_embeddings": True}


def model_of(name):
    """The base of a point; Llama 1B is its shape with random weights."""
    if name.startswith("pocket"):
        return ROOT / "recipes/pocket/model"
    if name.startswith("SmolLM2"):
        return folder("BF16")
    out = WORK / "llama-1b"
    if not out.exists():
        script = ("import json, sys, torch; from transformers import LlamaConfig, LlamaForCausalLM; torch.set_default_dtype(torch.bfloat16); torch.manual_seed(1);"
                  "LlamaForCausalLM(LlamaConfig(**json.loads(sys.argv[1]))).save_pretrained(sys.argv[2])")
        subprocess.run([interop.environment("transformers"), "-c", script, json.dumps(LLAMA_1B), out], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return out


def point(axis, value, settings):
    """Tokens/s and GB of one run."""
    length = value if axis == "length" else 512
    batch = value if axis == "batch" else max(1, 2048 // length)
    rank = value if axis == "rank" else 16
    name = value if axis == "model" else "SmolLM2"
    rows = token_rows(max(2 * batch, 8), length) if length != 512 else token_rows()
    recipe = train_recipe("curve", model_of(name), **{**settings, "max_steps": 2, "micro_batch_size": batch, "lora": {"r": rank, "alpha": 32}})
    r = json.loads(recipe.read_text())
    r["stages"][0]["ingest"].update(datasets=[{"path": str(small_ids(rows, length) if name.startswith("pocket") else rows), "type": "tokens"}], max_length=length)
    recipe.write_text(json.dumps(r))
    steps, rss = our_steps(recipe)
    return {"tokens_per_second": max(steps), "peak_gb": rss / 1e9}


def small_ids(rows, length):
    """The rows with ids that the pocket model has."""
    out = WORK / f"rows-{length}-small.jsonl"
    vocab = json.loads((ROOT / "recipes/pocket/model/config.json").read_text())["vocab_size"]
    if not out.exists():
        out.write_text("".join(json.dumps({"input_ids": [i % vocab for i in json.loads(l)["input_ids"]]}) + "\n" for l in open(rows)))
    return out


def main():
    WORK.mkdir(parents=True, exist_ok=True)
    path = BUILD / "points.json"
    points = json.loads(path.read_text()) if path.exists() else {}
    try:
        measure(points, path)
    finally:  # an interrupted run leaves what it has
        if any(points.values()):
            save("curves", "all", [{"points": points}])
            (ROOT / "docs/performance.svg").write_text(picture(points))
            document.write(ROOT / "docs/performance.md", SECTIONS)


def measure(points, path):
    """Adds the points that ONLY and RESUME ask for."""
    only = re.compile(os.environ.get("ONLY", ""))
    for axis, (_, values) in AXES.items():
        for v in values:
            for name, settings in SERIES.items():
                key = f"{axis} {v} {name}"
                if not only.search(key) or os.environ.get("RESUME") == "1" and points.get(key):
                    continue
                try:
                    points[key] = point(axis, v, settings)
                    print(f"{key}: {points[key]['tokens_per_second']:.0f} tokens/s, {points[key]['peak_gb']:.2f} GB", flush=True)
                except Failed as e:  # a machine with less memory
                    points[key] = None
                    print(f"{key}: {e}", flush=True)
                path.write_text(json.dumps(points, indent=1))


def picture(points):
    """Two rows of panels: tokens/s above, memory below; a column an axis."""
    panels = []
    for field, title in (("tokens_per_second", "tokens a second"), ("peak_gb", "peak resident, GB")):
        for axis, (label, values) in AXES.items():
            lines = {s: [(points.get(f"{axis} {v} {s}") or {}).get(field) for v in values] for s in SERIES}
            panels.append(svg.Panel(title, label, [str(v) for v in values], lines, log=axis == "model"))
    return svg.draw(panels, columns=len(AXES))


def section(data):
    """The part of docs/performance.md."""
    m = data["machine"]
    return ["## Curves", "", "![Tokens per second and memory against sequence length, batch, rank and model size](performance.svg)", "",
            f"Training steps on {m['cpu']}, {m['threads']} threads, {data['date']}; SmolLM2-135M unless the axis says otherwise; Llama 1B is that shape with random weights. "
            "`make bench-curves` measures and draws it.", ""] + table(data["rows"][0]["points"])


def table(points):
    out = ["| | " + " | ".join(f"{s}: tokens/s | GB" for s in SERIES) + " |", "|---|" + "---|" * (2 * len(SERIES))]
    for axis, (_, values) in AXES.items():
        for v in values:
            cells = []
            for s in SERIES:
                p = points.get(f"{axis} {v} {s}") or {}
                cells += [document.number(p.get("tokens_per_second")), document.number(p.get("peak_gb"))]
            out.append(f"| {axis} {v} | " + " | ".join(cells) + " |")
    return out


if __name__ == "__main__":
    sys.exit(main())
