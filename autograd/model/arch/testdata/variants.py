"""Writes variants.json: logits of variants of the reference configurations as Transformers 5.23.0 computes them.

    OMP_NUM_THREADS=1 python3 -B variants.py ../../../../../shared/data/golden/arch

A variant is a case's config.json with other values ("absent": without the key). Its weights follow from their names in files, and no others are
stored: element i of a tensor is 0.9·(u-1/2), with u the 32 bits of fmix32 (of MurmurHash3) of i·0x9E3779B9 plus FNV-1a of the name, and 1 more in
norms. The logits are those behind the last token, every sixteenth of them.
"""
import copy
import json
import pathlib
import re
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

IDS = [1, 40, 3, 3, 100, 17, 99, 5, 60, 61, 62]
VARIANTS = [
    ("kimi-linear", {"hidden_act": "relu"}), ("kimi-linear", {"attention_bias": True, "q_lora_rank": 24}), ("qwen3-5", {"hidden_act": "relu"}), ("qwen3-next", {"hidden_act": "gelu"}),
    ("mamba2", {"hidden_act": "relu"}), ("falcon-h1", {"hidden_act": "gelu_new"}), ("nemotron-h", {"mamba_hidden_act": "gelu"}),
    ("granite-hybrid", {"hidden_act": "gelu"}), ("jamba", {"hidden_act": "relu"}),
    ("deepseek2", {"attention_bias": True, "mlp_bias": True}), ("deepseek2-lite", {"attention_bias": True}), ("deepseek3", {"attention_bias": True, "mlp_bias": True}), ("deepseek32", {"attention_bias": True}),
    ("glm-moe-dsa", {"attention_bias": True}), ("glm4-moe-lite", {"attention_bias": True}), ("mistral4", {"attention_bias": True}), ("minicpm3", {"attention_bias": True, "mlp_bias": True}),
    ("ernie4-5-moe", {"use_bias": True}), ("hy-v3", {"mlp_bias": True}), ("nemotron-h-moe", {"mlp_bias": True}), ("nemotron-h-moe", {"moe_latent_size": 24, "mlp_bias": True}),
    ("olmoe", {"clip_qkv": 0.6}), ("olmoe", {"clip_qkv": 0.4, "attention_bias": True, "num_key_value_heads": 1}), ("afmoe", {"attention_bias": True}), ("cohere2-moe", {"attention_bias": True}),
    ("bloom", {"apply_residual_connection_post_layernorm": True}), ("llama4", {"num_experts_per_tok": 2}), ("llama4", {"num_experts_per_tok": 3, "interleave_moe_layer_step": 1, "moe_layers": None}),
    ("kimi-linear", {"v_head_dim": 10}), ("falcon-h1", {"mamba_proj_bias": True}), ("falcon-h1", {"projectors_bias": True}),
    ("mixtral", {"sliding_window": 3}), ("qwen3-moe", {"use_sliding_window": True, "sliding_window": 3}), ("qwen2-moe", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1, "layer_types": "absent"}),
    ("qwen2-moe", {"use_sliding_window": True, "sliding_window": 3, "layer_types": ["full_attention", "sliding_attention"]}),
]


def made(name, shape):
    h = 0x811C9DC5
    for b in name.encode():
        h = (h ^ b) * 0x01000193 % 2**32
    with np.errstate(over="ignore"):
        x = np.arange(int(np.prod(shape)), dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(h)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
        x ^= x >> np.uint32(16)
    v = 0.9 * (x.astype(np.float64) / 2**32 - 0.5) + (1 if "norm" in name and name.endswith(".weight") else 0)
    return torch.tensor(v.astype(np.float32).reshape(shape))


def plain(o):
    return float(o["__float__"]) if set(o) == {"__float__"} else o


@torch.no_grad()
def logits(folder, change):
    config = json.loads((folder / "config.json").read_text(), object_hook=plain)
    for key, value in change.items():
        config.pop(key, None) if value == "absent" else config.__setitem__(key, value)
    cls = getattr(transformers, config["architectures"][0])
    with tempfile.TemporaryDirectory() as d:
        cls(cls.config_class.from_dict(copy.deepcopy(config))).save_pretrained(d)
        path = pathlib.Path(d, "model.safetensors")
        saved = load_file(path)
        if config["model_type"] == "kimi_linear":  # which 5.23 saves under another name than it reads
            saved = {re.sub(r"block_sparse_moe\.(\w+_proj)", r"mlp.\1", k): v for k, v in saved.items()}
        save_file({k: made(k, v.shape) for k, v in saved.items()}, path, {"format": "pt"})
        pathlib.Path(d, "config.json").write_text(json.dumps(config))
        m = cls.from_pretrained(d, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    return m(torch.tensor([IDS]), use_cache=False).logits[0, -1, ::16].tolist()


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    out = [json.dumps({"base": base, "change": change, "logits": [float(f"{x:.7g}") for x in logits(pathlib.Path(sys.argv[1]) / base, change)]}) for base, change in VARIANTS]
    pathlib.Path(__file__).with_suffix(".json").write_text("[\n" + ",\n".join(out) + "\n]\n")
