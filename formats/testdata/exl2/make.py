"""Makes model.safetensors, weights packed as EXL2 folders have them, and expected.safetensors, their values.

    python -m venv v && v/bin/pip install numpy==2.4.6 safetensors==0.8.0 && v/bin/python make.py

The layout is written down here from the documentation of ExLlamaV2's converter (conversion/adaptivegptq.py: groups, scales and
their order; pack_tensor.cu: bits; qdq_util.cuh: values), in plain integers and numpy's float16: no program reads EXL2 on a CPU.
"""
import json, math, pathlib
import numpy as np
from safetensors.numpy import save_file

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(7)
stored, expected = {}, {}


def weight(name, inputs, outputs, groups, bias=False, small=1.0):
    """groups: (bits, columns) of each, the last one may have fewer than it says"""
    pad = -outputs % 32
    wide = outputs + pad
    order = rng.permutation(inputs)  # stored row r is column order[r]
    words, meta, scales, tops, values = [], [], [], [], np.zeros((inputs, outputs), np.float16)
    row = 0
    for bits, n in groups:
        n = min(n, inputs - row)
        codes = rng.integers(0, 2**bits, (n, wide))
        scale = rng.integers(1, 17, wide)
        top = np.float16(rng.uniform(0.003, 0.2) * small)
        meta += [bits, sum(len(w) for w in words)]
        packed = []
        for c in range(wide):  # all codes of an output as one integer, the first lowest
            run = sum(int(q) << (bits * i) for i, q in enumerate(codes[:, c]))
            packed.append([run >> (32 * i) & 0xFFFFFFFF for i in range(math.ceil(n * bits / 32))])
        words.append(np.array(packed, np.uint32).T)
        scales.append(scale), tops.append(top)
        for c in range(outputs):
            s = np.float16(scale[c] * scale[c]) * np.float16(np.float32(top) / 256)
            values[row : row + n, c] = (codes[:, c] - 2 ** (bits - 1)).astype(np.float16) * s
        row += n
    assert row == inputs
    back = np.empty(inputs, np.int64)
    back[order] = np.arange(inputs)
    nibbles = np.array([[sum(int(s[8 * i + j] - 1) << (4 * j) for j in range(8)) for i in range(wide // 8)] for s in scales], np.uint32)
    stored[name + ".q_weight"] = np.ascontiguousarray(np.concatenate(words)).view(np.int32)
    stored[name + ".q_scale"] = nibbles.view(np.int32)
    stored[name + ".q_scale_max"] = np.array(tops, np.float16)
    stored[name + ".q_groups"] = np.array(meta, np.int16)
    stored[name + ".q_invperm"] = back.astype(np.int32)
    if bias:
        stored[name + ".bias"] = rng.normal(size=outputs).astype(np.float16)
    w = np.empty((outputs, inputs), np.float16)
    w[:, order] = values.T
    expected[name + ".weight"] = w


weight("a", 96, 32, [(8, 32), (6, 32), (5, 32)])
weight("b", 128, 32, [(4, 32), (3, 32), (2, 64)])
weight("c", 96, 64, [(6, 32), (4, 64)], small=1e-2)  # scales near the least of float16
weight("d", 80, 32, [(5, 32), (4, 32), (4, 32)])  # a last group of 16
weight("e", 48, 32, [(4, 32), (2, 16)])
weight("padded", 32, 40, [(4, 32)], bias=True)
weight("lm_head", 64, 161, [(6, 32), (4, 32)])
stored["norm.weight"] = expected["norm.weight"] = rng.normal(size=8).astype(np.float16)
expected["padded.bias"] = stored["padded.bias"]
save_file(stored, here / "model.safetensors")
save_file(expected, here / "expected.safetensors")
config = {"vocab_size": 161, "quantization_config": {"quant_method": "exl2", "version": "0.3.2", "bits": 4.0, "head_bits": 6, "calibration": {"rows": 115, "length": 2048, "dataset": "(default)"}}}
(here / "config.json").write_text(json.dumps(config, indent=1) + "\n")
