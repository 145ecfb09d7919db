"""Transformers: models of the reference architectures, each with another value of one key of its configuration, compute there what they compute here.

A value that Transformers does not take is passed over; one that we refuse is counted. Of all (some ten thousand) a sample is tried that is
the same every time. VARIANTS is its size, or "all"; CASES a regular expression of the cases in shared/data/golden/arch.
"""
import copy
import json
import os
import random
import re
import shutil

import numpy as np
import torch
import transformers
from lib import BUILD, SHARED, Failed, ours, say
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

ARCH = SHARED / "golden/arch"
LIMIT = 2e-4  # of the largest logit, at least 10: sums in another order
ABSENT = object()

# Keys that change no logits, or not of text alone.
SKIP = re.compile(r"dropout|_pdrop|initializer|use_cache|token_id|aux|z_loss|architectures|model_type|dtype|version|output_|vision|image|audio|video|name_or_path|return_dict|chunk_size|label"
                  r"|problem_type|is_encoder|pretraining_tp|jitter|summary_|gradient|quantization|kernels|fp32|_impl|mtp|nextn|rescale|time_step_(min|max|floor)|ep_size|use_bidir|eo[ai]_|bo[ai]_|sub_configs|text_config")
# Sizes: too large by default, or of no meaning when changed alone.
SIZE = re.compile(r"hidden_size|vocab_size|n_embd|d_model")
ROPES = [
    {"rope_type": "linear", "factor": 3.0}, {"rope_type": "dynamic", "factor": 4.0}, {"rope_type": "default", "partial_rotary_factor": 0.5},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, {"rope_type": "yarn", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 1.7, "beta_fast": 8, "beta_slow": 2},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False},
    {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 16, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "longrope", "original_max_position_embeddings": 16}, {"rope_type": "longrope", "factor": 2.0, "original_max_position_embeddings": 64, "attention_factor": 1.3},
]
# What other families call things: read where the class reads them, and nowhere else.
ELSEWHERE = {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1, "attention_bias": True, "mlp_bias": True, "head_dim": 20, "partial_rotary_factor": 0.5, "use_qk_norm": True,
             "qk_layernorm": True, "clip_qkv": 0.5, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 5.0, "logit_scale": 0.5, "norm_topk_prob": True, "rope_theta": 500.0, "rotary_pct": 0.5,
             "use_bias": True, "qkv_bias": True, "rope_local_base_freq": 100.0, "sliding_window_pattern": 2, "rope_interleave": True, "no_rope_layers": [0, 1, 0, 1], "alibi": True,
             "original_max_position_embeddings": 16, "scale_attn_weights": False, "num_key_value_heads": 1}
WORDS = {"act": ["silu", "gelu", "relu", "gelu_new"], "scoring": ["softmax", "sigmoid"], "topk_method": ["greedy", "noaux_tc"], "proj": ["relu", "gated-gelu", "gated-silu"]}


def others(key, value):
    """Other values of a key."""
    if isinstance(value, bool):
        return [ABSENT, not value, None]
    if isinstance(value, int):
        return [ABSENT, None, 0, 1, 2, 2 * value]
    if isinstance(value, float):
        return [ABSENT, None, 1.5 * value or 0.5, 0.0]
    if isinstance(value, str):
        return [ABSENT, *(w for part, words in WORDS.items() if part in key for w in words)]
    if isinstance(value, list):
        return [ABSENT, None, value[::-1], value[1:] + value[:1], *([v] * len(value) for v in value[:2])]
    if isinstance(value, dict):
        return [ABSENT, None, *({**{k: v for k, v in value.items() if k != inner}, **({} if o is ABSENT else {inner: o})}
                                for inner, v in value.items() if isinstance(inner, str) for o in others(inner, v))]
    return [1, 2, 0.5, True]  # of null


def rules(config):
    """Rules of rotation in both spellings."""
    now = config.get("rope_parameters")
    if not isinstance(now, dict):
        return
    kinds = [k for k, v in now.items() if isinstance(v, dict)]
    heads = config.get("qk_rope_head_dim") or config.get("head_dim") or config.get("hidden_size", config.get("d_model")) // config.get("num_attention_heads", config.get("n_heads"))
    for rule in ROPES:
        for old in (now[k] for k in kinds) if kinds else (now,):
            base = {k: v for k, v in old.items() if k in ("rope_theta", "partial_rotary_factor", "llama_4_scaling_beta")}
            new = {**base, **rule}
            if rule["rope_type"] == "longrope":
                half = int(heads * new.get("partial_rotary_factor", 1)) // 2
                new.update(short_factor=[1 + 0.1 * i for i in range(half)], long_factor=[2 + 0.3 * i for i in range(half)])
            if kinds:
                yield {"rope_parameters": {k: new if now[k] is old else now[k] for k in kinds}}
                continue
            yield {"rope_parameters": new}
            early = {"type" if k == "rope_type" else k: v for k, v in new.items() if k not in base}
            yield {"rope_parameters": ABSENT, "rope_theta": new.get("rope_theta", 10000.0), "rope_scaling": early}
    yield {"rope_parameters": ABSENT}
    yield {"rope_parameters": ABSENT, "rope_theta": 777.0}


def plain(o):
    """A number that JSON has no word for."""
    return float(o["__float__"]) if set(o) == {"__float__"} else o


def changes(config, known):
    """One or a few keys with other values; known are the keys of the class with its defaults."""
    for key, value in known.items():
        if not SKIP.search(key) and key != "rope_parameters":
            yield from ({key: o} for o in others(key, value) if not (o is not ABSENT and o == value) and not SIZE.search(key))
    yield from ({key: value} for key, value in ELSEWHERE.items() if config.get(key) != value)
    yield from rules(config)


def changed(whole, change):
    """The configuration with a change, in the part that reads text."""
    new = copy.deepcopy(whole)
    part = new.get("text_config", new)
    for key, value in change.items():
        to = new if key == "tie_word_embeddings" else part
        if value is ABSENT:
            to.pop(key, None)
        else:
            to[key] = value
    return new


def built(config, weights, own):
    """Transformers' model: weights of the case where they fit, others random; own are the sizes that the case itself has."""
    cls = getattr(transformers, config["architectures"][0])
    conf = cls.config_class.from_dict(copy.deepcopy(config))
    conf._attn_implementation = "eager"
    sizes = conf.get_text_config(decoder=False).to_dict()
    if any(isinstance(v, int) and v > 1600 and own.get(k) != v and re.search(r"hidden|intermediate|ffn|width|d_model|d_ff|n_embd|vocab|inner", k) for k, v in sizes.items()):
        raise ValueError("a size of a released model")
    torch.manual_seed(0)
    m = cls._from_config(conf, dtype=torch.float32).eval()
    if hasattr(m, "set_experts_implementation"):
        m.set_experts_implementation("eager")
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in m.state_dict(keep_vars=True).items():
            if not p.is_floating_point() and not (name in weights and weights[name].shape == p.shape):
                continue
            if name in weights and weights[name].shape == p.shape:
                p.copy_(weights[name])
            elif p.ndim >= 2:
                p.copy_(0.25 * torch.randn(p.shape, generator=rng))
            else:
                p.add_(0.2 * torch.randn(p.shape, generator=rng))
    m.tie_weights()
    return m


def inputs(m, ids):
    """Named inputs: behind an encoder half of the text again."""
    return {"input_ids": ids, **({"decoder_input_ids": ids[:, : ids.shape[1] // 2].contiguous()} if m.config.is_encoder_decoder else {})}


@torch.no_grad()
def compare(whole, change, weights, ids, count):
    """Counts how a change went; returns what differs, or None."""
    config = changed(whole, change)
    try:
        m = built(config, weights, whole.get("text_config", whole))
        asked = inputs(m, ids % m.get_input_embeddings().weight.shape[0])
        want = m(**asked, use_cache=False).logits.float().numpy()
        if not np.isfinite(want).all():
            raise ValueError("not finite")
    except Exception:
        count["not taken there"] += 1
        return None
    folder, src, dst = BUILD / "variant", BUILD / "variant.ids.safetensors", BUILD / "variant.logits.safetensors"
    shutil.rmtree(folder, ignore_errors=True)
    m.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.numpy() for k, v in asked.items()}, src)
    try:
        ours("tune", "logits", "--quiet", "--model", folder, "--input", src, "--output", dst, "--dtype", "f32")
    except Failed as e:
        if not re.match(r"exit [234]:", str(e)):
            return str(e)
        count["refused"] += 1
        return None
    got = load_file(dst)["logits"]
    if got.shape != want.shape:
        return f"shapes {want.shape} and {got.shape}"
    worst, limit = np.abs(got - want).max(), LIMIT * max(10, np.abs(want).max())
    count["equal"] += bool(worst <= limit)
    return None if worst <= limit else f"differs by {worst:.2g} of {np.abs(want).max():.3g}"


def text(change):
    return json.dumps({k: "absent" if v is ABSENT else v for k, v in change.items()})


def main():
    transformers.logging.set_verbosity_error()
    tasks = []
    for folder in sorted(ARCH.iterdir()):
        if not folder.is_dir() or not re.search(os.environ.get("CASES", ""), folder.name):
            continue
        whole = json.loads((folder / "config.json").read_text(), object_hook=plain)
        part = whole.get("text_config", whole)
        conf = getattr(transformers, whole["architectures"][0]).config_class.from_dict(copy.deepcopy(whole))
        known = {**conf.get_text_config(decoder=False).to_dict(), **{k: v for k, v in part.items() if isinstance(v, dict)}}
        tasks += [(folder, whole, c) for c in changes(part, known)]
    random.Random(1).shuffle(tasks)
    size = os.environ.get("VARIANTS", "200")
    tasks = tasks[: len(tasks) if size == "all" else int(size)]
    tasks.sort(key=lambda t: t[0])
    count, before = {"equal": 0, "refused": 0, "not taken there": 0}, None
    for folder, whole, change in tasks:
        if folder != before:
            before = folder
            weights = getattr(transformers, whole["architectures"][0]).from_pretrained(folder, dtype=torch.float32).state_dict()
            ids = safe_open(folder / "golden.safetensors", "pt").get_tensor("input_ids")[:, :40]
        try:
            wrong = compare(whole, change, weights, ids, count)
        except Exception as e:
            wrong = f"{type(e).__name__}: {e}"
        if wrong:
            say(False, f"{folder.name} with {text(change)}", wrong)
    say(count["equal"] > len(tasks) // 5, f"{len(tasks)} variants of configurations", ", ".join(f"{n} {what}" for what, n in count.items()))


if __name__ == "__main__":
    main()
