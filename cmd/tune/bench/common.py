"""What the sections share: our commands timed, theirs in a process that stays, and results kept in build/bench."""
import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "cmd/tune/interop"))
import interop  # noqa: E402  (makes the pinned environments)

BUILD = ROOT / "build/bench"
WORK = BUILD / "work"
SHARED = pathlib.Path(os.environ.get("SHARED", ROOT / "../shared/data")).resolve()
MODEL = os.environ.get("MODEL", "models/SmolLM2-135M-Instruct.Q4_1.gguf")
THREADS = int(os.environ.get("THREADS", os.cpu_count()))
QUIET = {
    "OMP_NUM_THREADS": str(THREADS), "OPENBLAS_NUM_THREADS": str(THREADS), "RAYON_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "true",
    # OpenBLAS does not know new processors and would take its SSE3 kernels.
    "OPENBLAS_CORETYPE": "SkylakeX" if "avx512f" in pathlib.Path("/proc/cpuinfo").read_text() else "Haswell",
    "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error",
    "GPTQMODEL_CPU_WORKERS": "2", "PYTHON_GIL": "1",
}


class Failed(Exception):
    """A command failed."""


def ours(binary, *args):
    """Runs bin/BINARY; returns its output, seconds and peak resident bytes."""
    cmd = [str(ROOT / "bin" / binary), *map(str, args)]
    out, err = WORK / "stdout", WORK / "stderr"
    t = time.perf_counter()
    with open(out, "w") as fo, open(err, "w") as fe:
        p = subprocess.Popen(cmd, cwd=ROOT, stdout=fo, stderr=fe)
        _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode != 0:
        raise Failed(f"exit {p.returncode}: {err.read_text().strip()[-400:]} ({' '.join(cmd)})")
    return out.read_text(), time.perf_counter() - t, usage.ru_maxrss * 1024


def shown(binary, *args):
    """The command as a person would type it."""
    words = (str(a).replace(str(ROOT) + "/", "") for a in args)
    return " ".join([f"bin/{binary}", *(f"'{w}'" if any(c in w for c in " |*^$") else w for w in words)])


class Peer:
    """A worker of a pinned environment (worker.py): ask() is one round."""

    def __init__(self, env, script, env_vars=None, **options):
        python = interop.environment(env)
        self.log = BUILD / f"{script}.log"
        self.err = open(self.log, "w")
        self.p = subprocess.Popen([str(python), str(HERE / f"{script}.py"), json.dumps({"threads": THREADS, **options})], cwd=WORK, text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.err, env={**os.environ, **QUIET, **(env_vars or {})})
        self.ready = self._read()

    def _read(self):
        line = self.p.stdout.readline()
        if not line:
            raise Failed(f"the worker ended with exit status {self.p.wait()}: {self.log.read_text().strip()[-400:]}")
        return json.loads(line)

    def ask(self, line=""):
        self.p.stdin.write(line + "\n")
        self.p.stdin.flush()
        out = self._read()
        time.sleep(0.3)  # its threads watch for more work before they sleep
        return out

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.stdin.close()
        try:
            self.p.wait(30)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        self.err.close()


def best(values, less=False):
    """Best and median of rounds."""
    s = sorted(values, reverse=not less)
    return {"best": s[0], "median": statistics.median(values), "rounds": len(values)}


def row(what, unit, ours, peer=None, peer_name="", ratio=None, at_most=None, less=False, command="", note=""):
    """One line of a table. ratio and at_most are targets; less: smaller is better."""
    r = {"what": what, "unit": unit, "ours": ours, "peer": peer, "peer_name": peer_name, "less": less, "command": command, "note": note,
         "target_ratio": ratio, "target_at_most": at_most}
    if peer:
        r["ratio"] = peer["best"] / ours["best"] if less else ours["best"] / peer["best"]
        r["ratio_median"] = peer["median"] / ours["median"] if less else ours["median"] / peer["median"]
    return r


def save(section, key, rows):
    """Keeps the rows of one measurement; an earlier one is replaced."""
    path = BUILD / f"{section}.{key}.json"
    path.with_suffix(".part").write_text(json.dumps({"date": datetime.date.today().isoformat(), "machine": machine(), "rows": rows}, indent=1))
    path.with_suffix(".part").rename(path)


def machine():
    """What a number depends on."""
    d = json.loads(subprocess.run([ROOT / "bin/tune", "bench", "--filter", "one after another$", "--time", "0.01", "--json", "--threads", str(THREADS)], capture_output=True, text=True, check=True).stdout)
    return {"cpu": d["cpu"], "threads": d["threads"], "level": d["kernel_level"], "peak": d["peak"], "tune": d["version"], "model": MODEL}


def made(path, *cmd):
    """path, written by our command when it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        ours(*cmd, "--output", path, "--quiet")
    return path


def folder(kind="F32"):
    """The model as a folder for Transformers."""
    return made(WORK / f"hf-{kind.lower()}", "tune", "export", "--model", MODEL, "--format", "safetensors", "--type", kind)


def gguf(kind, arch=None):
    name, model = (f"{arch}-{kind}", small(arch)) if arch else (kind, folder())
    return made(WORK / f"{name}.gguf", "quant", "gguf", "--model", model, "--type", kind)


def small(arch):
    """A folder of 140 to 180 M random weights of another architecture; with the tokenizer of its vocabulary."""
    out = WORK / f"{arch}-small"
    if not (out / "model.safetensors.index.json").exists():
        words = SHARED / "tokenizer-json/gemma3" if arch == "gemma3" else folder()
        if not words.exists():
            raise Failed(f"no {words}")
        subprocess.run([sys.executable, "-B", HERE / "random_model.py", f"{arch}-small", out, "--tokenizer", words], check=True)
    return out


def prose():
    """Paths of English texts, or nothing without the reference data."""
    return [p for p in (SHARED / "wikitext-2/valid.txt", SHARED / "tinyshakespeare/input.txt", SHARED / "gsm8k/train.jsonl", SHARED / "llama-factory/wiki_demo.txt") if p.exists()]


def code():
    """Go's own sources."""
    root = subprocess.run(["go", "env", "GOROOT"], capture_output=True, text=True, check=True).stdout.strip()
    return sorted(f for f in pathlib.Path(root, "src").rglob("*.go") if f.is_file())


def text(name, files, size):
    """The non-empty lines of files, repeated until size bytes are reached."""
    out = WORK / f"{name}.txt"
    if not out.exists():
        lines = [l for f in files for l in f.read_text(encoding="utf-8", errors="ignore").splitlines() if l.strip()]
        part, n = out.with_suffix(".part"), 0
        with open(part, "w", encoding="utf-8") as f:
            while n < size:
                for l in lines:
                    n += f.write(l + "\n")
                    if n >= size:
                        break
        part.rename(out)
    return out


def token_rows(samples=128, length=512):
    """JSONL of rows of exactly so many tokens, from text."""
    out = WORK / f"rows-{length}.jsonl"
    if not out.exists():
        src = text("sample", prose() or code(), 2_000_000).read_text().splitlines()
        stdin = "".join(json.dumps({"text": l + "\n"}) + "\n" for l in src)
        ids = subprocess.run([ROOT / "bin/tune", "tokenize", "--model", MODEL, "--no-special-tokens"], input=stdin, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        flat = [i for l in ids.splitlines() for i in json.loads(l)["ids"]]
        while len(flat) < samples * length:
            flat += flat
        out.write_text("".join(json.dumps({"input_ids": flat[i * length : (i + 1) * length]}) + "\n" for i in range(samples)))
    return out


def fresh(path):
    """Takes what is at path away."""
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    return path
