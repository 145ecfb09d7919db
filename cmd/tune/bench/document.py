"""docs/performance.md from build/bench/*.json."""
import json
import re

from common import BUILD, ROOT

TITLES = {
    "train": ("Training", "One optimizer step is 4×512 tokens of real text, no padding, LoRA r 16 on all linear layers, AdamW, clipping at 1; the first step of each side is left out. "
              "Peak resident is the largest resident size of the whole process (loading, training and, for ours, writing the result)."),
    "preferences": ("Preferences and rewards", "One optimizer step of 4 pairs (DPO, ORPO), 8 answers (KTO) or 8 answers of at most 64 tokens that the model writes to one prompt (GRPO: tokens written by the second of the whole step); "
                    "prompts of some 130 tokens, answers of some 130. The reference is the model without its adapter. Answers alone are drawn together, with temperature 1."),
    "llama": ("Inference", "Files written by `quant gguf`, read by both. The prompt is one batch of 512 tokens; decoding is greedy, a token at a time. llama.cpp is called through its C functions."),
    "quantize": ("Quantizing", "Ours is the whole process from start to the finished, synced file or folder; theirs is the call alone, with the library loaded."),
    "gemm": ("Products", "x [N,K]·Wᵀ. OpenBLAS is numpy's own, told to use its AVX-512 kernels; PyTorch's bf16 goes through oneDNN; both read bf16, it writes bf16, ours f32."),
    "text": ("Text", "Hugging Face tokenizers uses its own threads. Both give the same number of tokens, which is checked in the run."),
    "start": ("Start", ""),
}
TARGETS = [  # of the shares below: group, name, at least, what
    (r"^product f32$", r"^(512|2048)×.*weights F32$", 0.87, "f32 product, of the FMA peak"),
    (r"^product bf16$", r"^(512|2048)×.*weights BF16$", 0.83, "bf16 product, of the bf16 peak"),
    (r"^matrix·vector$", r"weights (BF16|Q8_0|Q4_0|Q4_K|Q6_K|NF4[^,]*|INT4[^,]*)$", 0.80, "matrix-vector, of streaming"),
    (r"^attention$", r"^forward and backward", 0.50, "attention forward and backward, of the FMA peak"),
    (r"^threads$", r"against 1: (?!weights)", 1.85, "all threads against one"),
]
PACKED = re.compile(r"^(\d+×\d+×\d+), weights (NF4|Q4_K|Q8_0|INT4)")  # to be compared with the dense weights of the same shape
OF_DENSE = 0.95


def number(v):
    if v is None:
        return ""
    return f"{v:.0f}" if v >= 100 else f"{v:.1f}" if v >= 10 else f"{v:.2f}"


def both(v, unit):
    if not v:
        return ""
    s = f"{number(v['best'])} {unit}"
    return s if v["rounds"] < 2 else f"{s} ({number(v['median'])})"


def target(r):
    if r["target_ratio"]:
        return f"≥ {r['target_ratio']:g} ×", r.get("ratio", 0) >= r["target_ratio"] if "ratio" in r else None
    if r["target_at_most"]:
        return f"≤ {r['target_at_most']:g} {r['unit']}", r["ours"]["best"] <= r["target_at_most"]
    return "", None


def mark(met):
    return {True: "met", False: "**not met**", None: ""}[met]


def line(r):
    """A row on a terminal."""
    want, met = target(r)
    ratio = f"{r['ratio']:.2f} × {r['peer_name']}" if "ratio" in r else ""
    return f"{ {True: 'ok  ', False: 'MISS', None: '    '}[met] }  {r['what']}: {both(r['ours'], r['unit'])}, theirs {both(r['peer'], r['unit']) or '–'}  {ratio}  {want}"


def table(rows):
    out = ["| what | ours | theirs | ratio | target | |", "|---|---|---|---|---|---|"]
    for r in rows:
        want, met = target(r)
        ratio = f"{r['ratio']:.2f}" if "ratio" in r else ""
        theirs = f"{both(r['peer'], r['unit'])} {r['peer_name']}" if r["peer"] else ""
        out.append(f"| {r['what']} | {both(r['ours'], r['unit'])} | {theirs} | {ratio} | {want} | {mark(met)} |")
    notes = [f"- {r['what']}: {r['note']}" for r in rows if r["note"]]
    return out + ([""] + notes if notes else [])


def commands(rows):
    seen = dict.fromkeys(r["command"] for r in rows if r["command"])
    return ["", "```sh", *seen, "```"]


def kernels(d):
    """Shares of the machine's limits."""
    b = d["rows"][0]["bench"]
    out = ["## Kernels as a share of the machine", "",
           "`tune bench`, the best of three rounds for each row; each share is of the limit measured around that row: multiply-adds on registers (f32, bf16), streaming from memory (read), two arrays read and one written (copy).", ""]
    out += ["| kernel | rate | share | target | |", "|---|---|---|---|---|"]
    for r in b["rows"]:
        want, met = "", None
        for group, name, least, _ in TARGETS:
            if re.search(group, r["group"]) and re.search(name, r["name"]):
                value = r["rate"] if r["unit"] == "×" else r.get("share", 0)
                want, met = (f"≥ {least:g}" + (" ×" if r["unit"] == "×" else ""), value >= least)
        dense = {"product f32": "F32", "product bf16": "BF16"}.get(r["group"])
        if m := PACKED.match(r["name"]):
            value = r["share"] / next(d["share"] for d in b["rows"] if d["group"] == r["group"] and d["name"] == f"{m[1]}, weights {dense}")
            want, met = f"{value:.2f} of dense, ≥ {OF_DENSE:g}", value >= OF_DENSE
        share = f"{100 * r['share']:.0f} % of {r['limit']}" if r.get("share") else ""
        out.append(f"| {r['group']}: {r['name']} | {number(r['rate'])} {r['unit']} | {share} | {want} | {mark(met)} |")
    return out


def versions():
    pins = {}
    for name in ("transformers", "llamacpp-python", "llmcompressor"):
        for l in (ROOT / f"cmd/tune/interop/{name}.txt").read_text().splitlines():
            if "==" in l:
                k, v = l.split("==")
                pins.setdefault(k, v)
    return ", ".join(f"{k} {pins[k]}" for k in ("torch", "transformers", "peft", "bitsandbytes", "gptqmodel", "llmcompressor", "tokenizers", "llama-cpp-python"))


def write(path, sections):
    data = {}
    for f in BUILD.glob("*.*.json"):
        data[f.stem] = json.loads(f.read_text())
    if not data:
        return
    newest = max(data.values(), key=lambda d: d["date"])
    m = newest["machine"]
    out = ["# Performance", "",
           f"Measured {newest['date']} on {m['cpu']}, {m['threads']} threads, kernels {m['level']}, tune {m['tune']}; model {m['model'].split('/')[-1]}. "
           f"Peaks: {m['peak']['f32_gflops_all_threads']:.0f} GFLOP/s f32, {m['peak']['bf16_gflops_all_threads']:.0f} bf16, {m['peak']['read_gb_per_s']:.0f} GB/s.",
           f"Beside it, from PyPI and in the same run: {versions()} (its llama.cpp built natively).", "",
           "Written by `make bench-peers`: rounds of ours and of theirs in turn, best of the rounds (median in brackets). These numbers move from machine to machine: "
           "what counts is the ratio. A ratio above 1 means ours is faster, or smaller.", ""]
    for name, rows in sections.items():
        if name == "kernels":
            continue
        have = [r for key in rows for r in data.get(f"{name}.{key}", {"rows": []})["rows"]]
        if not have:
            continue
        title, text = TITLES[name]
        out += [f"## {title}", ""] + ([text, ""] if text else []) + table(have) + commands(have) + [""]
    if "curves.all" in data:
        import curves
        out += curves.section(data["curves.all"]) + [""]
    if "kernels.bench" in data:
        out += kernels(data["kernels.bench"]) + [""]
    path.write_text("\n".join(out).rstrip() + "\n")
