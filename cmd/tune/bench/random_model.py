#!/usr/bin/env python3
"""A model with random bf16 weights, sharded, for measuring memory and speed without a download: a Llama of a published shape, or small ones of other architectures.

    python3 cmd/tune/bench/random_model.py llama-8b build/bench/work/llama-8b --tokenizer ../shared/data/tokenizer-json/llama3

Standard library only. Weights are cut out of one block of normal numbers (standard deviation 0.02) at places that depend
on the tensor's name: no two tensors are equal, and 16 GB are written as fast as the disk takes them.
"""
import argparse
import array
import gzip
import json
import pathlib
import random
import shutil
import struct
import zlib

SHAPES = {  # hidden, feed-forward, layers, heads, key/value heads, head size, vocabulary, tied, architecture
    "tiny": (64, 128, 2, 4, 2, 16, 512, True, "llama"),
    "llama-1b": (2048, 8192, 16, 32, 8, 64, 128256, True, "llama"),
    "llama-3b": (3072, 8192, 28, 24, 8, 128, 128256, True, "llama"),
    "llama-8b": (4096, 14336, 32, 32, 8, 128, 128256, False, "llama"),
    "llama-70b": (8192, 28672, 80, 64, 8, 128, 128256, False, "llama"),
    "qwen3-small": (768, 2048, 14, 8, 4, 128, 49152, True, "qwen3"),
    "gemma3-small": (512, 1536, 12, 4, 1, 256, 262208, True, "gemma3"),
    "mixtral-small": (512, 1024, 8, 8, 4, 64, 49152, False, "mixtral"),
}
EXPERTS = 8  # of which two are asked
BLOCK = 1 << 21  # weights in the block that all are cut from
SHARD = 5 << 30  # bytes a file, at most


def config(shape):
    c, f, layers, h, k, d, v, tied, arch = shape
    common = {
        "hidden_size": c, "intermediate_size": f, "num_hidden_layers": layers, "num_attention_heads": h, "num_key_value_heads": k, "head_dim": d,
        "max_position_embeddings": 8192, "tie_word_embeddings": tied, "vocab_size": v, "attention_bias": False, "torch_dtype": "bfloat16",
        "bos_token_id": 128000 if v > 128001 else 1, "eos_token_id": 128001 if v > 128001 else 2,
    }
    return {**common, **{
        "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "mlp_bias": False},
        "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0},
        "gemma3": {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
                   "rope_local_base_freq": 10000.0, "query_pre_attn_scalar": d, "sliding_window": 256,
                   "layer_types": ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)]},
        "mixtral": {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "sliding_window": None,
                    "num_local_experts": EXPERTS, "num_experts_per_tok": 2},
    }[arch]}


def tensors(shape):
    """Names and shapes in the order of a checkpoint."""
    c, f, layers, h, k, d, v, tied, arch = shape
    yield "model.embed_tokens.weight", [v, c]
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", [c]
        yield p + "self_attn.q_proj.weight", [h * d, c]
        yield p + "self_attn.k_proj.weight", [k * d, c]
        yield p + "self_attn.v_proj.weight", [k * d, c]
        yield p + "self_attn.o_proj.weight", [c, h * d]
        if arch in ("qwen3", "gemma3"):
            yield p + "self_attn.q_norm.weight", [d]
            yield p + "self_attn.k_norm.weight", [d]
        yield p + "post_attention_layernorm.weight", [c]
        if arch == "gemma3":
            yield p + "pre_feedforward_layernorm.weight", [c]
            yield p + "post_feedforward_layernorm.weight", [c]
        if arch == "mixtral":
            yield p + "block_sparse_moe.gate.weight", [EXPERTS, c]
            for x in range(EXPERTS):
                for w, rows, cols in (("w1", f, c), ("w2", c, f), ("w3", f, c)):
                    yield f"{p}block_sparse_moe.experts.{x}.{w}.weight", [rows, cols]
            continue
        yield p + "mlp.gate_proj.weight", [f, c]
        yield p + "mlp.up_proj.weight", [f, c]
        yield p + "mlp.down_proj.weight", [c, f]
    yield "model.norm.weight", [c]
    if not tied:
        yield "lm_head.weight", [v, c]


def size(shape):
    n = 2
    for d in shape:
        n *= d
    return n


def shards(all_tensors):
    """Groups of tensors that fit a file."""
    group, room = [], SHARD
    for t in all_tensors:
        if group and size(t[1]) > room:
            yield group
            group, room = [], SHARD
        group.append(t)
        room -= size(t[1])
    yield group


def normals(seed):
    """BLOCK normal numbers as bf16, twice in a row so that a cut may begin anywhere."""
    r = random.Random(seed)
    floats = array.array("f", (r.gauss(0, 0.02) for _ in range(BLOCK)))
    words = array.array("I", floats.tobytes())
    return array.array("H", (w >> 16 for w in words)).tobytes() * 2


def write(path, group, block):
    header, at = {}, 0
    for name, shape in group:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size(shape)]}
        at += size(shape)
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(raw)) + raw)
        for name, shape in group:
            if len(shape) == 1:
                out.write(b"\x80\x3f" * shape[0])
                continue
            if block is None:
                out.seek(size(shape), 1)
                out.truncate()
                continue
            left, cut = size(shape), zlib.crc32(name.encode())
            while left > 0:
                cut = (cut * 1103515245 + 12345) & 0x7FFFFFFF
                at = cut % BLOCK * 2
                n = min(left, 2 * BLOCK)
                out.write(memoryview(block)[at:at + n])
                left -= n


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("shape", choices=SHAPES)
    p.add_argument("output", type=pathlib.Path)
    p.add_argument("--tokenizer", type=pathlib.Path, help="folder whose tokenizer files are copied")
    p.add_argument("--layers", type=int, help="another number of them")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--zeros", action="store_true", help="weights of 0 but for those of norms, in files with holes: a model larger than the disk, where its size is all that matters")
    a = p.parse_args()
    a.output.mkdir(parents=True, exist_ok=True)
    shape = list(SHAPES[a.shape])
    shape[2] = a.layers or shape[2]
    (a.output / "config.json").write_text(json.dumps(config(shape), indent=2))
    if a.tokenizer:
        for f in a.tokenizer.glob("*.json"):
            if f.name.startswith(("tokenizer", "special_tokens")):
                shutil.copy(f, a.output)
        for f in a.tokenizer.glob("tokenizer*.json.gz"):
            (a.output / f.stem).write_bytes(gzip.decompress(f.read_bytes()))
    block = None if a.zeros else normals(a.seed)
    groups = list(shards(tensors(shape)))
    where, total = {}, 0
    for i, group in enumerate(groups, 1):
        name = f"model-{i:05d}-of-{len(groups):05d}.safetensors"
        write(a.output / name, group, block)
        for t, s in group:
            where[t] = name
            total += size(s)
    (a.output / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=1))
    print(f"{a.output}: {total / 1e9:.1f} GB in {len(groups)} files")


if __name__ == "__main__":
    main()
