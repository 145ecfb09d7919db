#!/usr/bin/env python3
"""Registers, spills and shared memory of each kernel on each architecture, as NVIDIA's assembler gives them, in docs/cuda.md.

    python3 kernels/cuda/gen/ptxas.py PTXAS [--write]

Without --write the exit status is 1 where docs/cuda.md has another table. Needs no GPU.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
DOC = ROOT / "docs/cuda.md"
BEGIN, END = "<!-- registers -->\n", "<!-- /registers -->\n"
ARCHS = ["sm_80", "sm_86", "sm_89", "sm_90"]
ONLY = {"_90a": ("sm_90", "sm_90a")}  # by the end of a file's name: the column, and what it is assembled for


def kernels(ptxas, arch, file):
    """(kernel, registers, bytes of spills, bytes of static shared memory) of a file."""
    said = subprocess.run([ptxas, "-v", f"-arch={arch}", "-o", "/dev/null", file], check=True, capture_output=True, text=True).stderr
    for part in said.split("Compiling entry function '")[1:]:
        spills = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", part)]
        shared = re.search(r"(\d+) bytes smem", part)
        yield part.split("'")[0], int(re.search(r"Used (\d+) registers", part)[1]), sum(spills), int(shared[1]) if shared else 0


def table(ptxas):
    rows = {}
    for file in sorted((ROOT / "kernels/cuda/ptx").glob("*.ptx")):
        own = [target for end, target in ONLY.items() if file.stem.endswith(end)]
        for column, arch in own or zip(ARCHS, ARCHS):
            for name, *numbers in kernels(ptxas, arch, file):
                rows.setdefault(name, {})[column] = numbers
    out = ["| kernel | " + " | ".join(ARCHS) + " | shared memory |\n", "|---|" + "---|" * (len(ARCHS) + 1) + "\n"]
    for name in sorted(rows):
        cells = []
        for arch in ARCHS:
            registers, spilled, _ = rows[name].get(arch, ("", 0, 0))
            cells.append(f"{registers}" + (f", {spilled} bytes spilled" if spilled else ""))
        out.append(f"| {name} | " + " | ".join(cells) + f" | {rows[name][ARCHS[-1]][2] or ''} |\n")
    return "".join(out)


def main():
    text = DOC.read_text()
    before, rest = text.split(BEGIN)
    have, after = rest.split(END)
    want = table(sys.argv[1])
    if have == want:
        return
    if "--write" not in sys.argv:
        sys.exit("docs/cuda.md has other registers than ptxas gives: make cuda-registers")
    DOC.write_text(before + BEGIN + want + END + after)


main()
