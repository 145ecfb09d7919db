#!/usr/bin/env python3
"""Measure ours beside the programs our users run today, and write docs/performance.md.

    python3 cmd/tune/bench/peers.py

Same model, same tokens, same threads, rounds of ours and of theirs in turn; best and median are kept. Every measurement
leaves build/bench/SECTION.KEY.json, and the document is made from those that are there.
Needs bin/tune and bin/quant (make build), Python 3.11 with venv, a C++ compiler, a quiet machine and about 40 minutes.

Environment: ONLY, a regular expression of SECTION.KEY (ONLY=train, ONLY='llama.Q4'); RESUME=1 leaves out what was measured
already; MODEL (default models/SmolLM2-135M-Instruct.Q4_1.gguf, see make smollm2); THREADS (default: all cores);
SHARED, folder of the reference data.
"""
import os
import re
import sys
import time
import traceback

from common import BUILD, MODEL, ROOT, WORK, Failed, save
import document
from sections import SECTIONS


def main():
    for tool in ("bin/tune", "bin/quant"):
        if not (ROOT / tool).exists():
            sys.exit(f"peers.py: no {tool}: make build first")
    if not (ROOT / MODEL).exists():
        sys.exit(f"peers.py: no {MODEL}: make smollm2 first, or MODEL=PATH")
    WORK.mkdir(parents=True, exist_ok=True)
    only, failed = re.compile(os.environ.get("ONLY", "")), 0
    for name, rows in SECTIONS.items():
        for key, measure in rows.items():
            if not only.search(f"{name}.{key}") or os.environ.get("RESUME") == "1" and (BUILD / f"{name}.{key}.json").exists():
                continue
            began = time.time()
            try:
                out = measure()
            except Exception as e:  # the others are still worth having
                failed += 1
                print(f"FAIL  {name}.{key}: {e}", flush=True)
                if not isinstance(e, Failed):
                    traceback.print_exc()
                continue
            save(name, key, out)
            document.write(ROOT / "docs/performance.md", SECTIONS)
            for r in out:
                if "what" in r:
                    print(document.line(r), flush=True)
            print(f"      {name}.{key}: {time.time() - began:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
