"""The measurements: SECTIONS[name][key]() measures and returns rows. Rounds of ours and of theirs alternate."""
import json
import pathlib
import re
import subprocess
import sys
import time

from common import BUILD, MODEL, ROOT, SHARED, THREADS, WORK, Failed, Peer, best, code, folder, fresh, gguf, interop, made, ours, prose, row, shown, small, text, token_rows

SECTIONS = {}


def section(name, key):
    def add(f):
        SECTIONS.setdefault(name, {})[key] = f
        return f
    return add


# kernels: our own, as a share of the machine's limits.

@section("kernels", "bench")
def kernels(rounds=3):
    """Each row of the round in which it was the largest share."""
    runs = [json.loads(ours("tune", "bench", "--json", "--quiet", "--threads", THREADS)[0]) for _ in range(rounds)]
    rows = zip(*(r["rows"] for r in runs))
    return [{"bench": {**runs[0], "rows": [max(same, key=lambda r: r.get("share") or r["rate"]) for same in rows]}}]


# gemm: products against OpenBLAS and oneDNN.

def gemm(library, dtype, kind, limit, rounds=4):
    def measure():
        args = ["bench", "--json", "--quiet", "--threads", THREADS, "--time", 0.2, "--filter", f"^product {limit}/[0-9]*×[0-9]*×[0-9]*, weights {kind}$"]
        mine, theirs = {}, {}
        with Peer("transformers", "peer_math", library=library, dtype=dtype, seconds=0.2) as peer:
            for _ in range(rounds):
                for r in json.loads(ours("tune", *args)[0])["rows"]:
                    shape = r["name"].split(",")[0]
                    mine.setdefault(shape, []).append(r["rate"])
                    theirs.setdefault(shape, []).append(peer.ask(shape.replace("×", " "))["best"])
        names = {"openblas": "OpenBLAS sgemm", "torch": f"PyTorch {dtype}"}
        return [row(f"{s} {limit}", "GFLOP/s", best(mine[s]), best(theirs[s]), names[library], ratio=1.0, command=shown("tune", *args)) for s in mine]
    return measure


section("gemm", "openblas")(gemm("openblas", "float32", "F32", "f32"))
section("gemm", "torch-bf16")(gemm("torch", "bfloat16", "BF16", "bf16"))


# train: optimizer steps of 4×512 tokens against PEFT and PyTorch.

STEP = 4 * 512


def train_recipe(key, base, **train):
    settings = {"adapter": "lora", "lora": {"r": 16, "alpha": 32}, "max_steps": 3, "micro_batch_size": 4, "gradient_accumulation_steps": 1, "warmup_steps": 0,
                "learning_rate": 2e-4, "save_steps": 1000, "gradient_checkpointing": False, **train}
    path = WORK / f"{key}.yaml"
    path.write_text(json.dumps({"version": 1, "name": key, "base_model": str(base), "stages": [
        {"ingest": {"datasets": [{"path": str(token_rows()), "type": "tokens"}], "max_length": 512, "val_set_size": 0, "shuffle": False}}, {"train": settings}]}, indent=1))
    return path


def our_steps(recipe):
    """Tokens/s of the steps after the first, and peak resident bytes."""
    fresh(WORK / "runs" / recipe.stem)
    _, _, rss = ours("tune", "run", recipe, "--run-dir", WORK / "runs", "--threads", THREADS, "--quiet")
    log = (WORK / "runs" / recipe.stem / "train/metrics.jsonl").read_text().splitlines()
    steps = [m["tokens_per_second"] for m in map(json.loads, log) if m.get("step", 0) > 1 and "tokens_per_second" in m]
    fresh(WORK / "runs" / recipe.stem)
    return steps, rss


def train(key, what, kind, ratio, at_most, base="F32", rounds=2, settings=None, arch=None, **peer_options):
    def measure():
        recipe = train_recipe(key, small(arch) if arch else folder(base), **(settings or {}))
        options = {"model": str(small(arch) if arch else folder()), "rows": str(token_rows()), "dtype": "float32", "nf4": False, "lora": True, "checkpointing": False, **peer_options}
        mine, theirs, rss, their_rss = [], [], 0, 0
        with Peer("transformers", "peer_train", **options) as peer:
            peer.ask()  # the first step warms up; ours leaves out its first, too
            for _ in range(rounds):
                answer = peer.ask()
                theirs.append(STEP / answer["seconds"])
                their_rss = max(their_rss, answer["rss"])
                steps, r = our_steps(recipe)
                mine, rss = mine + steps, max(rss, r)
        command = shown("tune", "run", recipe, "--threads", THREADS)
        return [row(what, "tokens/s", best(mine), best(theirs), kind, ratio=ratio, command=command),
                row(what + ", peak resident", "GB", best([rss / 1e9], True), best([their_rss / 1e9], True), kind, at_most=at_most, less=True, command=command)]
    section("train", key)(measure)


train("lora-f32", "LoRA r16, f32", "PEFT", 2.5, 2.5, settings={"dtype": "f32"})
train("lora-bf16", "LoRA r16, bf16", "PEFT", 2.5, 1.6, base="BF16", settings={"dtype": "bf16"}, dtype="bfloat16")
train("lora-bf16-checkpointing", "LoRA r16, bf16, checkpointing", "PEFT", 2.5, None, base="BF16", settings={"dtype": "bf16", "gradient_checkpointing": True}, dtype="bfloat16", checkpointing=True)
train("qlora-f32", "QLoRA NF4, f32", "PEFT and bitsandbytes", 3, None, settings={"dtype": "f32", "adapter": "qlora"}, nf4=True)
train("qlora-bf16-checkpointing", "QLoRA NF4, bf16, checkpointing", "PEFT and bitsandbytes", 3, 0.7, settings={"dtype": "bf16", "adapter": "qlora", "gradient_checkpointing": True},
      nf4=True, dtype="bfloat16", checkpointing=True)
train("qlora-f32-checkpointing", "QLoRA NF4, f32, checkpointing", "PEFT and bitsandbytes", 3, 0.7, settings={"dtype": "f32", "adapter": "qlora", "gradient_checkpointing": True},
      nf4=True, checkpointing=True)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
for arch, title in (("qwen3", "Qwen3 shape"), ("gemma3", "Gemma 3 shape"), ("mixtral", "Mixtral shape, attention only")):
    for dtype, long in (("f32", "float32"), ("bf16", "bfloat16")):
        what = {"settings": {"dtype": dtype}, "dtype": long}
        if arch == "mixtral":  # PEFT's all-linear does not see experts, which are one parameter there
            what = {"settings": {"dtype": dtype, "lora": {"r": 16, "alpha": 32, "target_modules": ATTENTION}}, "dtype": long, "targets": ATTENTION}
        train(f"{arch}-lora-{dtype}", f"{title}, LoRA r16, {dtype}", "PEFT", 2.5, None, arch=arch, **what)
train("full-f32", "full fine-tune, f32", "PyTorch", 2, None, settings={"dtype": "f32", "adapter": "none", "learning_rate": 2e-5, "lora": None}, lora=False)


@section("train", "qlora-lora")
def qlora_lora():
    """QLoRA against our own LoRA, which reads dense weights."""
    out = []
    for what, base, settings in (("f32", "F32", {"dtype": "f32"}), ("bf16", "BF16", {"dtype": "bf16"}), ("bf16, checkpointing", "BF16", {"dtype": "bf16", "gradient_checkpointing": True})):
        steps = {"lora": [], "qlora": []}
        for _ in range(2):
            for adapter in steps:
                recipe = train_recipe("qlora-lora", folder(base), **settings, adapter=adapter)
                steps[adapter] += our_steps(recipe)[0]
        out.append(row(f"QLoRA NF4 beside our LoRA, {what}", "tokens/s", best(steps["qlora"]), best(steps["lora"]), "our LoRA", ratio=0.95, command=shown("tune", "run", recipe, "--threads", THREADS)))
    return out


@section("train", "adamw-8bit")
def adamw_8bit():
    """Steps of full training whose optimizer's state is codes of 8 bits, against 32 bits."""
    steps, rss = {"adamw": [], "adamw_8bit": []}, {}
    for _ in range(2):
        for optimizer in steps:
            recipe = train_recipe("adamw-8bit", folder(), dtype="f32", adapter="none", lora=None, learning_rate=2e-5, optimizer=optimizer)
            got, r = our_steps(recipe)
            steps[optimizer] += got
            rss[optimizer] = max(rss.get(optimizer, 0), r)
    command = shown("tune", "run", recipe, "--threads", THREADS)
    what = "full fine-tune, f32, AdamW 8-bit beside 32-bit"
    return [row(what, "tokens/s", best(steps["adamw_8bit"]), best(steps["adamw"]), "our AdamW", ratio=1, command=command),
            row(what + ", peak resident", "GB", best([rss["adamw_8bit"] / 1e9], True), best([rss["adamw"] / 1e9], True), "our AdamW", less=True, command=command)]


@section("train", "long")
def long_sample():
    """One sample of 8,192 tokens."""
    token_rows(8, 8192)
    recipe = train_recipe("long", folder("BF16"), adapter="qlora", gradient_checkpointing=True, micro_batch_size=1, max_steps=2)
    r = json.loads(recipe.read_text())
    r["stages"][0]["ingest"].update(datasets=[{"path": str(token_rows(8, 8192)), "type": "tokens"}], max_length=8192)
    recipe.write_text(json.dumps(r, indent=1))
    steps, rss = our_steps(recipe)
    command = shown("tune", "run", recipe, "--threads", THREADS)
    return [row("one sample of 8,192 tokens, QLoRA, checkpointing", "tokens/s", best(steps), command=command),
            row("one sample of 8,192 tokens, peak resident", "GB", best([rss / 1e9], True), at_most=1.5, less=True, command=command)]


# preferences: optimizer steps of pairs, of answers and of rewards against TRL.

def pair_rows():
    """JSONL of prompts of some 130 tokens with two answers each, of the same text."""
    out = WORK / "pairs.jsonl"
    if not out.exists():
        words = text("sample", prose() or code(), 2_000_000).read_text().split()
        cut = lambda at, n: " ".join(words[at:at + n])
        out.write_text("".join(json.dumps({"prompt": cut(i, 96), "chosen": " " + cut(i + 96, 96), "rejected": " " + cut(i + 300, 96)}) + "\n" for i in range(0, 64 * 500, 500)))
    return out


def answer_rows():
    """Each answer of pair_rows with a label, for both; and prompts alone."""
    labels, prompts = WORK / "labels.jsonl", WORK / "prompts.jsonl"
    rows = [json.loads(l) for l in pair_rows().read_text().splitlines()]
    labels.write_text("".join(json.dumps({"prompt": r["prompt"], "completion": r[k], "label": k == "chosen"}) + "\n" for r in rows for k in ("chosen", "rejected")))
    prompts.write_text("".join(json.dumps({"prompt": r["prompt"]}) + "\n" for r in rows))
    return labels, prompts


def preferences(objective, dtype, unit, batch, ratio, base, rows, kind="preference", new_tokens=0, rounds=2, **settings):
    def measure():
        fed, key = rows(), f"{objective}-{dtype}"
        recipe = train_recipe(key, folder(base), objective=objective, dtype=dtype, micro_batch_size=batch, **settings)
        r = json.loads(recipe.read_text())
        r["stages"][0]["ingest"].update(datasets=[{"path": str(fed), "type": kind}], max_length=1024, packing="none")
        r["stages"][1]["train"]["learning_rate"] = 1e-5
        recipe.write_text(json.dumps(r, indent=1))
        long = {"f32": "float32", "bf16": "bfloat16"}[dtype]
        mine, theirs, rss, their_rss, written = [], [], 0, 0, ([], [])
        with Peer("transformers", "peer_trl", model=str(folder()), rows=str(fed), objective=objective, dtype=long, batch=batch, steps=2, new_tokens=new_tokens) as peer:
            for _ in range(rounds):
                a = peer.ask()
                theirs += [batch * n / t for t, n in zip(a["seconds"], a["lengths"] if new_tokens else [1] * len(a["seconds"]))]
                written[1].extend(batch * n / t for t, n in zip(a["answers"], a["lengths"]))
                fresh(WORK / "runs" / recipe.stem)
                _, _, used = ours("tune", "run", recipe, "--run-dir", WORK / "runs", "--threads", THREADS, "--quiet")
                for m in map(json.loads, (WORK / "runs" / recipe.stem / "train/metrics.jsonl").read_text().splitlines()):
                    if m.get("step", 0) > 1 and "step_seconds" in m:
                        length = m["objective"]["completions/mean_length"] if new_tokens else 1
                        mine.append(batch * length / m["step_seconds"])
                        if "answer_seconds" in m:
                            written[0].append(batch * length / m["answer_seconds"])
                rss, their_rss = max(rss, used), max(their_rss, a["rss"])
                fresh(WORK / "runs" / recipe.stem)
        what, command = f"{objective.upper()}, LoRA r16, {dtype}", shown("tune", "run", recipe, "--threads", THREADS)
        out = [row(what, unit, best(mine), best(theirs), "TRL", ratio=ratio, command=command)]
        if new_tokens:
            out.append(row(what + ", its answers alone", unit, best(written[0]), best(written[1]), "TRL", ratio=ratio, command=command))
        return out + [row(what + ", peak resident", "GB", best([rss / 1e9], True), best([their_rss / 1e9], True), "TRL", less=True, command=command)]
    section("preferences", f"{objective}-{dtype}")(measure)


for dtype, base in (("f32", "F32"), ("bf16", "BF16")):
    preferences("dpo", dtype, "pairs/s", 4, 2.5, base, pair_rows)
    preferences("orpo", dtype, "pairs/s", 4, 2.5, base, pair_rows)
    preferences("kto", dtype, "answers/s", 8, 2.5, base, lambda: answer_rows()[0])
    preferences("grpo", dtype, "tokens/s", 8, 3, base, lambda: answer_rows()[1], kind="prompt", new_tokens=64, rounds=1,
                rewards=[{"regex": "(?s)^.{0,270}$"}], num_generations=8, max_completion_length=64)


def sampling(dtype, base, batch=16, new_tokens=128):
    """Ours answers prompts that are as long as theirs are on average; theirs are padded."""
    def measure():
        some = answer_rows()[1]
        mine, theirs = [], []
        with Peer("transformers", "peer_trl", model=str(folder()), rows=str(some), objective="generate", dtype={"f32": "float32", "bf16": "bfloat16"}[dtype], batch=batch, new_tokens=new_tokens) as peer:
            for _ in range(3):
                a = peer.ask()
                theirs.append(batch * new_tokens / a["seconds"])
                args = ["bench", "--model", folder(base), "--prompt", a["prompt"], "--decode", new_tokens, "--answers", batch, "--dtype", dtype, "--rounds", 1, "--threads", THREADS, "--json", "--quiet"]
                mine.append(json.loads(ours("tune", *args)[0])["model"]["side_by_side"]["tokens_per_second"])
        return [row(f"{batch} answers of {new_tokens} tokens, {dtype}", "tokens/s", best(mine), best(theirs), "Transformers", ratio=3, command=shown("tune", *args))]
    section("preferences", f"sampling-{dtype}")(measure)


sampling("f32", "F32")
sampling("bf16", "BF16")


# llama: inference of the same files.

def llama(kind, prompt_ratio, decode_ratio, rounds=4, arch=None, title=""):
    def measure():
        path, got = gguf(kind, arch), {}
        args = ["bench", "--model", path, "--json", "--quiet", "--rounds", 2, "--threads", THREADS]
        if kind == "F32":  # llama.cpp's arithmetic for it; ours would take bf16 where that is faster
            args += ["--dtype", "f32"]
        with Peer("llamacpp-python", "peer_llama", work="speed", model=str(path), prompt=512, decode=128) as peer:
            peer.ask("512")
            for _ in range(rounds):
                for n in (512, 8):
                    a = peer.ask(str(n))
                    m = json.loads(ours("tune", *args, "--prompt", n)[0])["model"]
                    for k in ("prompt", "decode"):
                        mine, theirs = got.setdefault((k, n), ([], []))
                        mine.append(m[k + "_tokens_per_second"])
                        theirs.append(a[k])

        def line(what, k, n, ratio):
            mine, theirs = got[k, n]
            return row(f"{title}{what}, {kind}", "tokens/s", best(mine), best(theirs), "llama.cpp", ratio=ratio, command=shown("tune", *args, "--prompt", n))

        return [line("prompt of 512", "prompt", 512, prompt_ratio), line("decode of 128 after 512", "decode", 512, decode_ratio), line("decode of 128 after 8", "decode", 8, decode_ratio)]
    section("llama", f"{arch}-{kind}" if arch else kind)(measure)


for k, want in {"F32": 1.3, "BF16": 1.3, "Q8_0": 1.0, "Q4_0": 1.0, "Q4_K_M": 1.0}.items():
    llama(k, want, 1.0)
for arch, title in (("qwen3", "Qwen3 shape, "), ("gemma3", "Gemma 3 shape, "), ("mixtral", "Mixtral shape, ")):
    for k, want in {"BF16": 1.3, "Q8_0": 1.0, "Q4_K_M": 1.0}.items():
        llama(k, want, 1.0, rounds=2, arch=arch, title=title)


# quantize: files against llama.cpp, folders against GPTQModel.

def quantize(kind, ratio, rounds=3):
    def measure():
        src, out = gguf("F32"), WORK / f"out-{kind}.gguf"
        args = ["gguf", "--model", src, "--type", kind, "--output", out, "--threads", THREADS, "--quiet", "--force"]
        mine, theirs, rss, their_rss = [], [], 0, 0
        with Peer("llamacpp-python", "peer_llama", work="quantize", model=str(src), output=str(WORK / "peer.gguf"), type=kind) as peer:
            for _ in range(rounds):
                a = peer.ask()
                fresh(out)
                _, took, r = ours("quant", *args)
                mine, theirs, rss, their_rss = mine + [took], theirs + [a["seconds"]], max(rss, r), max(their_rss, a["rss"])
        fresh(out), fresh(WORK / "peer.gguf")
        return [row(f"F32 to {kind}", "s", best(mine, True), best(theirs, True), "llama.cpp", ratio=ratio, less=True, command=shown("quant", *args),
                    note=f"peak resident {rss / 1e9:.2f} GB, theirs {their_rss / 1e9:.2f} GB")]
    section("quantize", kind)(measure)


for k in ("Q8_0", "Q4_0", "Q4_K_M", "Q6_K", "IQ4_XS"):
    quantize(k, 1.0, rounds=2 if k == "IQ4_XS" else 3)


def calibrated(method, samples, *flags):
    """Our GPTQ or AWQ folder: seconds and peak resident bytes."""
    out = fresh(WORK / f"our-{method}")
    args = [method, "--model", folder(), "--calibration", token_rows(), "--samples", samples, "--max-length", 512, "--group-size", 64, "--output", out, "--threads", THREADS, "--quiet", *flags]
    _, took, rss = ours("quant", *args)
    fresh(out)
    return took, rss, shown("quant", *args)


@section("quantize", "gptq")
def gptq():
    options = {"model": str(folder()), "rows": str(token_rows()), "samples": 32, "output": str(WORK / "peer-gptq")}
    with Peer("transformers", "peer_gptq", **options) as peer:
        a = peer.ask()
    fresh(WORK / "peer-gptq")
    runs = [calibrated("gptq", 32) for _ in range(2)]
    mine, rss = best([r[0] for r in runs], True), max(r[1] for r in runs) / 1e9
    theirs = best([a["seconds"]], True)
    return [row("GPTQ, 32×512 tokens, 4 bits, group 64", "s", mine, theirs, "GPTQModel", ratio=3, less=True, command=runs[0][2]),
            row("GPTQ, peak resident", "GB", best([rss], True), best([a["rss"] / 1e9], True), "GPTQModel", at_most=0.7, less=True, command=runs[0][2])]


@section("quantize", "awq")
def awq():
    options = {"model": str(folder()), "rows": str(token_rows()), "samples": 8, "output": str(WORK / "peer-awq")}
    with Peer("llmcompressor", "peer_awq", **options) as peer:
        a = peer.ask()
    fresh(WORK / "peer-awq")
    runs = [calibrated("awq", 8) for _ in range(2)]
    mine, rss = best([r[0] for r in runs], True), max(r[1] for r in runs) / 1e9
    return [row("AWQ, 8×512 tokens, 4 bits, group 64", "s", mine, best([a["seconds"]], True), "llm-compressor", ratio=5, less=True, command=runs[0][2]),
            row("AWQ, peak resident", "GB", best([rss], True), best([a["rss"] / 1e9], True), "llm-compressor", at_most=0.7, less=True, command=runs[0][2])]


def llama_imatrix():
    """llama-imatrix, built from the sources that llama-cpp-python carries; None where that fails."""
    exe = BUILD / "llama/bin/llama-imatrix"
    if exe.exists():
        return exe
    pins = (ROOT / "cmd/tune/interop/llamacpp-python.txt").read_text()
    package = re.search(r"llama-cpp-python==\S+", pins)[0]
    src = WORK / "llama-src"
    try:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", src, package], check=True)
        subprocess.run(["tar", "xf", next(src.glob("*.tar.gz")), "--directory", src], check=True)
        tree = next(src.glob("*/vendor/llama.cpp"))
        subprocess.run(["cmake", "-S", tree, "-B", BUILD / "llama", "-DCMAKE_BUILD_TYPE=Release", *interop.llama_cpu(), "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF",
                        "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["cmake", "--build", BUILD / "llama", "--target", "llama-imatrix", "--parallel", str(THREADS)], check=True, stdout=subprocess.DEVNULL)
    except (subprocess.CalledProcessError, FileNotFoundError, StopIteration) as e:
        print(f"no llama-imatrix: {e}", file=sys.stderr)
        return None
    return exe


@section("quantize", "imatrix")
def imatrix():
    exe, src = llama_imatrix(), gguf("F32")
    words = text("sample", prose() or code(), 2_000_000)
    out = WORK / "our.imatrix.gguf"
    args = ["imatrix", "--model", src, "--calibration", words, "--samples", 32, "--max-length", 512, "--output", out, "--threads", THREADS, "--quiet", "--force"]
    mine, theirs = [], []
    for _ in range(1 if exe else 2):  # theirs takes minutes
        if exe:
            t = time.perf_counter()
            p = subprocess.run([exe, "-m", src, "-f", words, "-c", "512", "-b", "512", "--chunks", "32", "-t", str(THREADS), "-o", WORK / "peer.imatrix.gguf", "--no-ppl"], capture_output=True, text=True)
            if p.returncode:
                raise Failed(p.stderr[-400:])
            theirs.append(time.perf_counter() - t)
        mine.append(ours("quant", *args)[1])
    note = "" if exe else "llama-imatrix could not be built; 54 s were recorded earlier on two such cores"
    return [row("importance matrix, 32×512 tokens", "s", best(mine, True), best(theirs, True) if exe else None, "llama-imatrix", ratio=1.5, less=True, command=shown("quant", *args), note=note)]


# text: tokenizing and ingest.

def tokenizing(name, files):
    def measure():
        words = text(name, files(), 100_000_000)
        args = ["bench", "--model", folder(), "--text", words, "--json", "--quiet", "--rounds", 1, "--threads", THREADS]
        mine, theirs = [], []
        with Peer("transformers", "peer_tokens", tokenizer=str(folder() / "tokenizer.json"), text=str(words)) as peer:
            for _ in range(2):
                a = peer.ask()
                t = json.loads(ours("tune", *args)[0])["text"]
                theirs.append(a["best"]), mine.append(t["mb_per_second"])
                if t["tokens"] != a["tokens"]:
                    raise Failed(f"{name}: {t['tokens']} tokens, theirs are {a['tokens']}")
        return [row(f"tokenizing 100 MB of {name}", "MB/s", best(mine), best(theirs), "tokenizers", ratio=2, command=shown("tune", *args), note=f"{t['tokens']} tokens from both")]
    return measure


if prose():
    section("text", "prose")(tokenizing("prose", prose))
section("text", "code")(tokenizing("code", code))


@section("text", "ingest")
def ingest():
    words = text("prose", prose(), 100_000_000) if prose() else text("code", code(), 100_000_000)
    table = WORK / "text.parquet"
    if not table.exists():
        script = ("import sys, pyarrow as pa, pyarrow.parquet as pq; lines = open(sys.argv[1], encoding='utf-8').read().splitlines();"
                  "pq.write_table(pa.table({'text': ['\\n'.join(lines[i:i+20]) for i in range(0, len(lines), 20)]}), sys.argv[2], compression='zstd')")
        subprocess.run([interop.environment("transformers"), "-c", script, words, table], check=True)
    whole, alone = [], []
    bench = ["bench", "--model", folder(), "--text", words, "--json", "--quiet", "--rounds", 1, "--threads", THREADS]
    args = ["ingest", "--model", folder(), "--data", table, "--overflow", "split", "--max-length", 2048, "--val-set-size", 0, "--output", WORK / "packed"]
    for _ in range(6):
        alone.append(words.stat().st_size / 1e6 / ours("tune", *bench)[1])
        fresh(WORK / "packed")
        whole.append(words.stat().st_size / 1e6 / ours("tune", *args)[1])
    return [row("Parquet to packed tokens, 100 MB of text", "MB/s", best(whole), best(alone), "tokenizing alone", ratio=0.9, command=shown("tune", *args),
                note="whole processes, ours; ingest also checks and decompresses every page, hashes file and rows and writes 62 MB of tokens, synced")]


@section("start", "help")
def start():
    each = [ours("tune", "--help")[1] * 1000 for _ in range(21)]
    return [row("tune --help", "ms", best(each, True), at_most=30, less=True, command="bin/tune --help")]
