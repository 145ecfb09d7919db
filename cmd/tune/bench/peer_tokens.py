"""Hugging Face tokenizers: all lines of a text, with its own threads. Arguments: a JSON object."""
from worker import serve  # first: it keeps libraries from printing between the answers

import json
import os
import sys
import time

from tokenizers import Tokenizer

o = json.loads(sys.argv[1])
tok = Tokenizer.from_file(o["tokenizer"])
lines = open(o["text"], encoding="utf-8").read().rstrip("\n").split("\n")
size = os.path.getsize(o["text"])


def encode(_):
    t, tokens = time.perf_counter(), 0
    for i in range(0, len(lines), 10_000):
        tokens += sum(len(e) for e in tok.encode_batch_fast(lines[i : i + 10_000], add_special_tokens=False))
    took = time.perf_counter() - t
    return {"best": size / took / 1e6, "tokens": tokens}


serve(encode)
