#!/usr/bin/env python3
"""Have the programs our users run load what we write, and load what they write.

    python3 cmd/tune/interop/interop.py [transformers] [variants] [llamacpp] [trackers] [vllm]
    python3 cmd/tune/interop/interop.py python NAME    prints the path of an environment's Python

Makes one virtual environment a consumer (.venv-NAME, from the pinned NAME.txt
here; reused while that file is unchanged), then runs check_NAME.py in it. A
check prints one line: pass or FAIL, its name and the number it measured.
Needs bin/tune and bin/quant (make build), Python 3.11 with venv, a C++ compiler.

Environment: SHARED, folder of the reference data (default ../shared/data);
INTEROP_MODEL, a further model to check with (a .gguf or a folder); ONLY, a
regular expression of checks, e.g. ONLY='quantized.tiny.*awq'; VARIANTS and CASES, see check_variants.py.
"""
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CONSUMERS = ["transformers", "variants", "llamacpp", "trackers", "vllm"]
ENVIRONMENTS = {"variants": "transformers"}  # where it is not of the same name


def run(*cmd, **kw):
    subprocess.run([str(c) for c in cmd], check=True, **kw)


def uv():
    """The installer: uv, since it downloads in parallel (pip takes several times as long)."""
    exe = ROOT / ".venv-uv/bin/uv"
    if not exe.exists():
        run(sys.executable, "-m", "venv", ROOT / ".venv-uv")
        run(exe.parent / "pip", "install", "--quiet", "uv==0.13.8")
    return exe


def llama_cpu():
    """CMake's options that build llama.cpp for this processor, but without AMX, which virtual machines list among their
    instructions and may not allow."""
    cpu = pathlib.Path("/proc/cpuinfo")
    if cpu.exists() and "amx_tile" in cpu.read_text():
        return ["-DGGML_NATIVE=OFF", "-DGGML_AVX512=ON", "-DGGML_AVX512_VNNI=ON", "-DGGML_AVX512_BF16=ON"]
    return ["-DGGML_NATIVE=ON"]


def environment(name):
    """Path of the Python of the consumer's environment, made when its pins changed."""
    name = ENVIRONMENTS.get(name, name)
    venv, pins, overrides = ROOT / f".venv-{name}", HERE / f"{name}.txt", HERE / f"{name}-overrides.txt"
    # llama-cpp-python: without the image tools, which nothing here uses.
    build = " ".join(["-DLLAVA_BUILD=OFF", *llama_cpu()]) if name == "llamacpp-python" else ""
    want = hashlib.sha256(pins.read_bytes() + (overrides.read_bytes() if overrides.exists() else b"") + build.encode()).hexdigest()
    stamp = venv / "pins.sha256"
    if stamp.exists() and stamp.read_text() == want:
        return venv / "bin/python"
    start = time.time()
    print(f"{name}: installing", file=sys.stderr, flush=True)
    cmd = [uv(), "pip", "install", "--quiet", "--python", venv, "--requirement", pins]
    if overrides.exists():
        cmd += ["--overrides", overrides]
    run(uv(), "venv", "--quiet", "--clear", "--python", sys.executable, venv)
    run(*cmd, env={**os.environ, "CMAKE_ARGS": build})
    stamp.write_text(want)
    print(f"{name}: installed in {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    return venv / "bin/python"


def check(name):
    """Runs check_NAME.py; returns how many checks passed and failed."""
    env = {
        **os.environ, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2",
        "GPTQMODEL_CPU_WORKERS": "2",  # its pool of 1 on two cores cannot load a model
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore",
    }
    log = ROOT / f"build/interop/{name}.log"
    count = {"pass": 0, "FAIL": 0}
    with open(log, "w") as err:
        p = subprocess.Popen([environment(name), HERE / f"check_{name}.py"], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=err)
        for line in p.stdout:
            m = re.match(r"(pass|FAIL)  ", line)
            if m:
                count[m[1]] += 1
                print(f"{m[1]}  {name}: {line[6:]}", end="", flush=True)
            else:
                err.write(line)
                err.flush()
        if p.wait() != 0:
            count["FAIL"] += 1
            print(f"FAIL  {name}: the checks stopped with exit status {p.returncode}, see {log}", flush=True)
            print("".join(log.read_text().splitlines(keepends=True)[-15:]), flush=True)
    return count


def main(names):
    if names[:1] == ["python"]:
        print(environment(names[1]))
        return 0
    for n in names:
        if n not in CONSUMERS:
            sys.exit(f"interop.py: unknown consumer {n}, known are {', '.join(CONSUMERS)}")
    for tool in ("bin/tune", "bin/quant"):
        if not (ROOT / tool).exists():
            sys.exit(f"interop.py: no {tool}: make build first")
    shutil.rmtree(ROOT / "build/interop", ignore_errors=True)
    (ROOT / "build/interop").mkdir(parents=True)
    for n in names:
        environment(n)
    passed = failed = 0
    for n in names:
        start = time.time()
        c = check(n)
        passed, failed = passed + c["pass"], failed + c["FAIL"]
        print(f"{n}: {time.time() - start:.0f} s", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["transformers", "llamacpp", "trackers"]))
