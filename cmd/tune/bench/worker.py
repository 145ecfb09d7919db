"""The other side of a measurement: a process that stays, so that rounds of ours and of theirs can alternate.

It prints one JSON line when it is ready, then one for every line it reads, with what one round took.
"""
import json
import os
import resource
import sys
import time

# What libraries print, on importing them even, must not get between the answers.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def peak_rss():
    """Largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(rounds, **ready):
    """Answers each line of standard input with rounds(line), a dictionary."""
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps({**rounds(line.strip()), "rss": peak_rss()}), file=answers, flush=True)


def clock(f, seconds):
    """Seconds of each call of f, called for so long and twice at least, after one that warms up."""
    f()
    out, began = [], time.perf_counter()
    while len(out) < 2 or time.perf_counter() - began < seconds:
        t = time.perf_counter()
        f()
        out.append(time.perf_counter() - t)
    return sorted(out)
