"""What the checks share: our commands, the models they work on, and how a result is told."""
import json
import os
import pathlib
import re
import subprocess
import sys
import traceback

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[3]
SHARED = pathlib.Path(os.environ.get("SHARED", ROOT / "../shared/data")).resolve()
BUILD = ROOT / "build/interop"
POCKET = ROOT / "recipes/pocket/model"
NEW_TOKENS = 24

# Texts for tokenizers: scripts, blanks, digits, contractions, line ends, an emoji of several code points.
TEXTS = [
    "Hello world", " leading and trailing ", "two  spaces\tand\ttabs", "line\nline\r\n\n\nend", "I'll don't WE'VE it's",
    "1234567890 3.14 1,000,000", "naïve café Übergröße", "Привет мир", "日本語のテキスト", "안녕하세요", "مرحبا بالعالم",
    "👩‍👩‍👧 🇩🇪 ok", "def f(x):\n    return x ** 2  # square\n", '{"name": "Ada", "year": 1815}', "a" * 40, "…—“quoted”", "",
]


class Failed(Exception):
    """One of our commands failed."""


def ours(binary, *args, stdin=None):
    """Runs bin/BINARY and returns its standard output."""
    p = subprocess.run([ROOT / "bin" / binary, *map(str, args)], input=stdin, capture_output=True, text=True)
    if p.returncode != 0:
        raise Failed(f"exit {p.returncode}: {p.stderr.strip()[-300:]} ({binary} {' '.join(map(str, args))})")
    return p.stdout


def lines(text):
    return [json.loads(l) for l in text.splitlines() if l.strip()]


def made(out, binary, *args):
    """The artifact at out, written by our command when it is not there yet."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        ours(binary, *args, "--output", out, "--quiet")
    return out


def tokenize(model, texts=TEXTS):
    return [l["ids"] for l in lines(ours("tune", "tokenize", "--model", model, stdin="".join(json.dumps({"text": t}) + "\n" for t in texts)))]


def generate(model, prompts, new_tokens=NEW_TOKENS):
    """Our greedy ids after each prompt (text)."""
    text = "".join(json.dumps({"prompt": p}) + "\n" for p in prompts)
    return [l["ids"] for l in lines(ours("tune", "generate", "--model", model, "--input", "-", "--max-new-tokens", new_tokens, "--dtype", "f32", stdin=text))]


def logits(model, ids, adapter=None):
    """Our logits f32 [B,T,V] of ids [B,T]."""
    name = "-".join(pathlib.Path(p).parent.name + "." + pathlib.Path(p).name for p in (model, adapter) if p)
    src, dst = BUILD / f"{name}.ids.safetensors", BUILD / f"{name}.logits.safetensors"
    save_file({"input_ids": np.ascontiguousarray(ids, dtype=np.int64)}, src)
    ours("tune", "logits", "--model", model, "--input", src, "--output", dst, "--dtype", "f32", *(["--adapter", adapter] if adapter else []))
    out = load_file(dst)["logits"]
    src.unlink(), dst.unlink()
    return out


def generated():
    """Folder that recipes/pocket/gen wrote: init (our own BPE tokenizer, a random Llama) and corpus.jsonl."""
    out = BUILD / "generated"
    if not out.exists():
        subprocess.run(["go", "run", "./recipes/pocket/gen", "-out", out, "-docs", "400"], cwd=ROOT, check=True, capture_output=True)
    return out


class Subject:
    """A model all checks are made with, and its artifacts, each written when first asked for."""

    def __init__(self, name, base, tokens=0, origin=None, random=False):
        self.name, self.base, self.dir = name, pathlib.Path(base), BUILD / name
        self.tokens = tokens  # size of the vocabulary of a model without tokenizer
        self.origin = origin  # GGUF file that base was made from
        self.random = random  # weights that nobody trained
        self.dir.mkdir(exist_ok=True)

    def ids(self, rows=2, length=48):
        """Token ids int64 [rows, length] of generated text, or any where there is no tokenizer."""
        if self.tokens:
            return np.random.default_rng(5).integers(0, self.tokens, (rows, length))
        texts = [l["text"] for l in lines((generated() / "corpus.jsonl").read_text())]
        flat = [t for ids in tokenize(self.base, texts[:200]) for t in ids]
        return np.array(flat[: rows * length], dtype=np.int64).reshape(rows, length)

    def prompts(self):
        """Generated records up to where they are told again as JSON: what follows is a copy, which a trained model is sure of."""
        texts = [json.loads(l)["text"] for l in (generated() / "corpus.jsonl").read_text().splitlines()]
        if self.random:
            return [t[:48] for t in texts[-4:]]  # its next token depends on little more than the last one
        return [t[: t.index('\n{"') + 3] for t in texts if '\n{"' in t][:4]

    def stops(self):
        """End tokens, as the model's own files say."""
        out = set()
        for name in ("config.json", "generation_config.json"):
            if (self.base / name).exists():
                v = json.loads((self.base / name).read_text()).get("eos_token_id")
                out |= set(v if isinstance(v, list) else [v])
        return sorted(out - {None})

    def text(self):
        return generated() / "corpus.jsonl"

    def adapter(self, name, **train):
        """PEFT folder of a short training of ours."""
        run = self.dir / "runs" / f"{self.name}-{name}"
        if not (run / "train").exists():
            settings = {"adapter": "lora", "dtype": "f32", "max_steps": 6, "learning_rate": 5e-3, "micro_batch_size": 1,
                        "gradient_accumulation_steps": 2, "warmup_steps": 0, **train}
            recipe = {"version": 1, "name": run.name, "base_model": str(self.base), "stages": [
                {"ingest": {"datasets": [{"path": str(self.text()), "type": "text", "max_samples": 64}], "max_length": 128, "overflow": "truncate", "val_set_size": 8}},
                {"train": settings}]}
            path = self.dir / f"{name}.yaml"
            path.write_text(json.dumps(recipe))
            ours("tune", "run", path, "--run-dir", run.parent, "--quiet")
        return run / "train"

    def merged(self):
        return made(self.dir / "merged", "tune", "merge", "--model", self.base, "--adapter", self.adapter("lora"), "--storage", "f32", "--force")

    def gguf(self, kind):
        """Our GGUF of the model."""
        return made(self.dir / f"{self.name}-{kind}.gguf", "tune", "export", "--model", self.base, "--format", "gguf", "--type", kind)

    def folder(self, src, name):
        """Plain f32 safetensors of any artifact: what it decodes to by our code."""
        return made(self.dir / name, "tune", "export", "--model", src, "--format", "safetensors", "--type", "F32")

    def quant(self, name, method, *flags):
        """A quantized folder; calibrated methods read the generated text."""
        calibration = [] if method in ("int8", "nf4", "rtn") else ["--calibration", self.text(), "--samples", "16", "--max-length", "128"]
        return made(self.dir / name, "quant", method, "--model", self.base, *calibration, *flags)


class Quickstart(Subject):
    """What `tune run quickstart` leaves, asked what its evaluation asked."""

    def __init__(self):
        super().__init__("quickstart", POCKET)
        self.run = BUILD / "runs/quickstart"
        if not (self.run / "check/eval.json").exists():
            ours("tune", "run", "quickstart", "--run-dir", self.run.parent, "--quiet")

    def prompts(self):
        asked = [a["prompt"].strip() for a in json.loads((self.run / "check/eval.json").read_text())["answers"]]
        chats = "".join(json.dumps({"messages": [{"role": "user", "content": a}], "add_generation_prompt": True}) + "\n" for a in asked)
        return [l["text"] for l in lines(ours("tune", "render", "--model", self.base, stdin=chats))]

    def answers(self, model):
        """The recorded answers of a model's evaluation, to prompts()."""
        return [a["got"][model] for a in json.loads((self.run / "check/eval.json").read_text())["answers"]]


def subjects():
    """Every model to check with."""
    out = []
    if (SHARED / "golden/quant/orig").exists():
        out.append(Subject("tiny", SHARED / "golden/quant/orig", random=True))
    elif os.environ.get("TUNEKIT_REQUIRE_SHARED") == "1":
        sys.exit(f"no reference data at {SHARED}")
    out.append(Subject("pocket", POCKET))
    extra = os.environ.get("INTEROP_MODEL")
    if extra and extra.endswith(".gguf"):
        dense = made(BUILD / "extra/base", "tune", "export", "--model", extra, "--format", "safetensors", "--type", "F32")
        out.append(Subject("extra", dense, origin=pathlib.Path(extra).resolve()))
    elif extra:
        out.append(Subject("extra", extra))
    return out


def say(ok, name, number):
    print(f"{'pass' if ok else 'FAIL'}  {name}: {number}", flush=True)


def close(name, got, want, limit):
    """Largest absolute difference within limit times the larger of 1 and the largest value; returns it."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    if got.shape != want.shape:
        say(False, name, f"shapes {got.shape} and {want.shape}")
        return 0.0
    worst, top = np.abs(got - want).max(), max(1.0, np.abs(want).max())
    say(bool(worst <= limit * top), name, f"largest difference {worst:.2g} of values up to {top:.3g} (limit {limit:g} of it)")
    return worst


def same(name, got, want, labels=None):
    """Lists equal, item by item; a difference is told by its first item."""
    got, want = [list(g) for g in got], [list(w) for w in want]
    bad = [i for i, (g, w) in enumerate(zip(got, want)) if g != w]
    number = f"{len(want) - len(bad)} of {len(want)} equal"
    if bad:
        i = bad[0]
        at = next((k for k, (a, b) in enumerate(zip(got[i], want[i])) if a != b), min(len(got[i]), len(want[i])))
        number += f"; {labels[i]!r:.60} from item {at}: theirs {got[i][at:at + 8]}, ours {want[i][at:at + 8]}" if labels else f"; row {i} from item {at}"
    say(not bad and len(got) == len(want) and len(want) > 0, name, number)


def greedy(name, s, path, theirs, new_tokens=NEW_TOKENS, noise=0.0):
    """Their greedy tokens equal ours of the same artifact.

    theirs(list of prompt ids) gives theirs. Where they part, the two tokens must
    be closer than noise can decide: our logits there differ by at most twice
    noise, the largest difference that was measured between their logits and ours.
    """
    prompts, stops = tokenize(path, s.prompts()), s.stops()
    got = [ended(g, stops, new_tokens) for g in theirs(prompts)]
    want = [ended(g, stops, new_tokens) for g in generate(path, s.prompts(), new_tokens)]
    equal, ties, number = 0, 0, ""
    for p, g, w in zip(prompts, got, want):
        if g == w:
            equal += 1
            continue
        at = next(k for k in range(len(w) + 1) if k >= min(len(g), len(w)) or g[k] != w[k])
        row = logits(path, np.array([p + w[:at]]))[0, -1]
        margin = row[w[at]] - row[g[at]] if at < min(len(g), len(w)) else np.inf
        ties += bool(margin <= 2 * noise)
        number += f"; parted at token {at}, {g[at:at + 4]} for our {w[at:at + 4]}, whose logit is larger by {margin:.2g} (noise {noise:.2g})"
    kinds = len({t for w in want for t in w})
    say(equal + ties == len(want) == len(got) and kinds > 1, f"{name} greedy tokens", f"{equal} of {len(want)} texts equal, {kinds} different tokens{number}")


def ended(ids, stops, most):
    """The first ids, up to and with the first stop."""
    out = []
    for i in map(int, ids[:most]):
        out.append(i)
        if i in stops:
            break
    return out


def run(*checks):
    """Runs every check with its arguments, or those that ONLY matches; one that raises has failed."""
    for f, *args in checks:
        label = f"{f.__name__}({', '.join(getattr(a, 'name', str(a)) for a in args)})"
        if not re.search(os.environ.get("ONLY", ""), label):
            continue
        try:
            f(*args)
        except Exception as e:
            traceback.print_exc()
            say(False, label, f"{type(e).__name__}: {str(e).strip()[:600]}".replace("\n", " "))
