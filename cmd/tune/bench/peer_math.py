"""OpenBLAS (numpy's own) and PyTorch's bf16 products (oneDNN): x [N,K]·Wᵀ of W [M,K]. Arguments: a JSON object."""
from worker import clock, serve  # first: it keeps libraries from printing between the answers

import json
import os
import sys

import numpy as np
import torch

o = json.loads(sys.argv[1])
torch.set_num_threads(o["threads"])
rng = np.random.default_rng(1)


def product(line):
    n, m, k = map(int, line.split())
    x, w = rng.standard_normal((n, k), dtype=np.float32), rng.standard_normal((m, k), dtype=np.float32)
    work = 2e-9 * n * m * k
    if o["library"] == "openblas":
        out = np.empty((n, m), dtype=np.float32)
        each = clock(lambda: np.dot(x, w.T, out=out), o["seconds"])
    else:
        with torch.no_grad():
            dtype = getattr(torch, o["dtype"])
            tx, tw = torch.from_numpy(x).to(dtype), torch.from_numpy(w).to(dtype)
            each = clock(lambda: torch.nn.functional.linear(tx, tw), o["seconds"])
    return {"best": work / each[0], "median": work / each[len(each) // 2]}


serve(product, core=os.environ.get("OPENBLAS_CORETYPE", ""))
