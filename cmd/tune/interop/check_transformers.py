"""Transformers, PEFT, bitsandbytes, GPTQModel, compressed-tensors and tokenizers: what we write loads there with our numbers, what they write loads here."""
import json

import numpy as np
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, apply_quantization_config, preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from lib import BUILD, NEW_TOKENS, SHARED, TEXTS, Quickstart, Subject, close, generated, greedy, lines, logits, made, ours, run, same, say, subjects, tokenize
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torchao.quantization import Float8WeightOnlyConfig, Int8DynamicActivationIntxWeightConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, MappingType
from torchao.quantization.granularity import PerGroup
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig, TorchAoConfig

LIMIT = 1e-4  # of logits, both sides in f32


def load(path, **kw):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu", **kw).eval()


@torch.no_grad()
def theirs(m, ids):
    return m(torch.from_numpy(ids)).logits.float().numpy()


@torch.no_grad()
def continued(m, s, new_tokens=NEW_TOKENS):
    """Greedy continuations of lists of ids."""
    def run(prompts):
        out = []
        for p in prompts:
            ids = torch.tensor([p])
            got = m.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, eos_token_id=s.stops(), pad_token_id=s.stops()[0])
            out.append(got[0, len(p):].tolist())
        return out
    return run


# 0. The model as it is.

def base(s):
    close(f"{s.name}: base logits", theirs(load(s.base), s.ids()), logits(s.base, s.ids()), LIMIT)


# 1. Adapters, both ways.

OURS = {
    "lora": {"lora": {"r": 8, "alpha": 16}},
    "rslora-patterns": {"lora": {"r": 4, "alpha": 8, "use_rslora": True, "target_modules": ["q_proj", "v_proj", "down_proj"], "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"down_proj": 3}}},
    "modules-to-save": {"lora": {"r": 4, "alpha": 8, "target_modules": ["q_proj", "o_proj"], "modules_to_save": ["embed_tokens"], "layers_to_transform": [1]}},
    "qlora": {"adapter": "qlora", "lora": {"r": 8, "alpha": 16}},
}
PEFTS = {
    "all-linear": dict(r=8, lora_alpha=16, target_modules="all-linear"),
    "rslora-patterns": dict(r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "k_proj", "up_proj"], rank_pattern={"q_proj": 2}, alpha_pattern={"up_proj": 5}),
    "layers-exclude": dict(r=4, lora_alpha=8, target_modules=r".*\.(q_proj|v_proj|gate_proj)", exclude_modules=["v_proj"]),
    "modules-to-save": dict(r=4, lora_alpha=8, target_modules=["v_proj"], modules_to_save=["embed_tokens"]),
}
UNTIED = {"head-and-embedding": dict(r=4, lora_alpha=8, target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"])}


def our_adapter(s, name):
    a = s.adapter(name, **OURS[name])
    m = PeftModel.from_pretrained(load(s.base), a)
    got, want = theirs(m, s.ids()), logits(s.base, s.ids(), a)
    close(f"{s.name}: our adapter {name} in PEFT", got, want, LIMIT)
    if np.abs(want - logits(s.base, s.ids())).max() < 1e-3:
        say(False, f"{s.name}: our adapter {name}", "changes no logit, so this shows nothing")


def peft_adapter(s, name):
    torch.manual_seed(3)
    m = get_peft_model(load(s.base), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **(PEFTS | UNTIED)[name])).eval()
    with torch.no_grad():
        for n, p in m.named_parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn_like(p))
    out = s.dir / f"peft-{name}"
    m.save_pretrained(out)
    close(f"{s.name}: PEFT's adapter {name} here", logits(s.base, s.ids(), out), theirs(m, s.ids()), LIMIT)


def added_tokens(s):
    """New tokens: the folder, an adapter that learned their rows, and what it is merged to."""
    new = ["<tool>", "quux"]
    base = made(s.dir / "added", "tune", "add-tokens", "--model", s.base, "--special-token", new[0], "--token", new[1], "--pad-to-multiple-of", 64)
    texts = ["a <tool>7 quux", "quux<tool>"]
    run = s.dir / "runs/added"
    if not (run / "merge/config.json").exists():
        recipe = {"version": 1, "name": "added", "base_model": str(s.base), "stages": [
            {"add_tokens": {"special_tokens": new[:1], "tokens": new[1:], "pad_to_multiple_of": 64}},
            {"ingest": {"datasets": [{"path": str(s.dir / "added.jsonl"), "type": "text"}], "max_length": 64, "val_set_size": 2}},
            {"train": {"lora": {"r": 4}, "dtype": "f32", "max_steps": 6, "learning_rate": 5e-3, "gradient_accumulation_steps": 1}}, {"merge": {"dtype": "f32"}}]}
        (s.dir / "added.jsonl").write_text("".join(json.dumps({"text": f"{i} quux<tool>{i}"}) + "\n" for i in range(40)))
        (s.dir / "added.yaml").write_text(json.dumps(recipe))
        ours("tune", "run", s.dir / "added.yaml", "--run-dir", s.dir / "runs", "--quiet")
    for name, folder in {"folder with more tokens": base, "adapter's base": run / "add_tokens", "merged": run / "merge"}.items():
        tok = AutoTokenizer.from_pretrained(folder)
        same(f"{s.name}: {name}, token ids", [tok(t).input_ids for t in texts], tokenize(folder, texts), texts)
    ids = np.array([tokenize(base, [t * 16])[0][:24] for t in texts], dtype=np.int64)
    m = PeftModel.from_pretrained(load(run / "add_tokens"), run / "train")
    close(f"{s.name}: adapter with rows of new tokens in PEFT", theirs(m, ids), logits(run / "add_tokens", ids, run / "train"), LIMIT)
    close(f"{s.name}: the same merged", theirs(load(run / "merge"), ids), theirs(m, ids), LIMIT)


# 2. Merged weights.

def merged(s):
    path = s.merged()
    m = load(path)
    close(f"{s.name}: merged logits", theirs(m, s.ids()), logits(path, s.ids()), LIMIT)
    close(f"{s.name}: merged against PEFT's own merge", theirs(PeftModel.from_pretrained(load(s.base), s.adapter("lora")).merge_and_unload(), s.ids()), logits(path, s.ids()), LIMIT)
    greedy(f"{s.name}: merged", s, path, continued(m, s))


# 3. GPTQ and AWQ.

QUANTS = {
    "gptq": ("gptq",), "gptq-g32": ("gptq", "--group-size", 32), "gptq-8bit": ("gptq", "--bits", 8, "--for", "transformers"), "gptq-asym": ("gptq", "--scheme", "W4A16_ASYM", "--for", "transformers"),
    "gptq-group": ("gptq", "--actorder", "group", "--for", "transformers"), "rtn": ("rtn",), "awq": ("awq",), "gptq-v2": ("gptq", "--format", "gptq_v2", "--scheme", "W4A16_ASYM", "--for", "transformers"),
}


def quantized(s, name):
    path = s.quant(name, *QUANTS[name])
    m = load(path)
    noise = close(f"{s.name}: {name} logits", theirs(m, s.ids()), logits(path, s.ids()), 1e-2)  # their kernels decode to f16
    greedy(f"{s.name}: {name}", s, path, continued(m, s), noise=noise)


# 3b. compressed-tensors: our schemes there, and its own here.

CT = ("rtn", "--format", "compressed-tensors", "--keep-dtype", "f32", "--for", "transformers", "--scheme")
COMPRESSED = {
    "W4A16": (*CT, "W4A16"), "W8A16": (*CT, "W8A16"), "W4A16_ASYM": (*CT, "W4A16_ASYM"), "mixed": (*CT, "W4A16", "--overrides", "down_proj=W8A16"),
    "gptq": ("gptq", *CT[1:], "W4A16"), "FP8_DYNAMIC": (*CT, "FP8_DYNAMIC"), "FP8_BLOCK": (*CT, "FP8_BLOCK"), "W8A8": (*CT, "W8A8"),
}


@torch.no_grad()
def jitter(m, ids):
    """How far logits move where embeddings change by a few of their last bits: inputs that lie between two codes take the other."""
    e = m.get_input_embeddings().weight
    want, keep, most = theirs(m, ids), e.data.clone(), 0.0
    for seed in range(16):
        e.data = keep * (1 + 1e-6 * torch.randn(keep.shape, generator=torch.Generator().manual_seed(seed)))
        most = max(most, float(np.abs(theirs(m, ids) - want).max() / max(1.0, np.abs(want).max())))
    e.data = keep
    return most


def decoded(path):
    """A folder whose weights are decoded at once: packed zero points have another shape than this Transformers makes room for, and floats of 4 bits become bf16."""
    return load(path, quantization_config=CompressedTensorsConfig(dequantize=True)).float()


def compressed(s, name):
    path = s.quant(f"ct-{name}", *COMPRESSED[name])
    m = decoded(path) if "ASYM" in name else load(path)
    noise = close(f"{s.name}: compressed-tensors {name} logits", theirs(m, s.ids()), logits(path, s.ids()), LIMIT + 2 * jitter(m, s.ids()))
    greedy(f"{s.name}: compressed-tensors {name}", s, path, continued(m, s), noise=noise)


def float4(s, name):
    """Our folder of 4-bit floats, whose codes, scales and numbers are those of the library for the same weights, too."""
    path = s.quant(f"ct-{name}", *CT[:3], "--keep-dtype", "bf16", "--for", "transformers", "--scheme", name)
    close(f"{s.name}: compressed-tensors {name} logits", theirs(decoded(path), s.ids()), logits(path, s.ids()), LIMIT if name == "MXFP4A16" else 2e-2)  # decoded to bf16 there
    made, want = (load_file(p / "model.safetensors") for p in (s.quant(f"ct-{name}-f32", *CT[:3], "--keep-dtype", "f32", "--for", "vllm", "--scheme", name), by_compressor(s, name)))
    names = [n for n in want if ".weight_" in n]
    bad = [n for n in names if n not in made or not torch.equal(made[n].view(torch.uint8), want[n].view(torch.uint8))]
    say(names and not bad, f"{s.name}: compressed-tensors {name} arrays as the library makes them", f"{len(bad)} of {len(names)} differ {bad[:3]}")


FLOAT8 = {"num_bits": 8, "type": "float"}
COMPRESSORS = {  # schemes by name, or what a group says of weights and inputs
    "FP8": "FP8", "FP8_BLOCK": ({**FLOAT8, "strategy": "block", "block_structure": [32, 32]}, {**FLOAT8, "strategy": "group", "group_size": 32, "dynamic": True}),
    "FP8 by tensor": ({**FLOAT8, "strategy": "tensor"}, {**FLOAT8, "strategy": "tensor", "dynamic": True}),
    "int8 by tensor": ({"num_bits": 8, "strategy": "channel"}, {"num_bits": 8, "strategy": "tensor", "dynamic": True, "symmetric": False}),
    "NVFP4A16": "NVFP4A16", "MXFP4A16": "MXFP4A16", "W4A16_ASYM": ({"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False}, None),
}


def ranges(w, a):
    """Smallest and largest value of what shares a scale, in the shape of scales."""
    rows, cols = w.shape
    if a.strategy == "tensor":
        return w.min().reshape(1), w.max().reshape(1)
    high, wide = (a.block_structure if a.strategy == "block" else (1, cols if a.strategy == "channel" else a.group_size))
    w = w.reshape(rows // high, high, cols // wide, wide)
    return w.amin((1, 3)), w.amax((1, 3))


FUSED = ["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]  # one number for the whole, as llm-compressor has it


def number(m, name):
    """What divides the scales of an NVFP4 matrix: the least of those that share one."""
    parent, own = name.rsplit(".", 1)
    return min(generate_gparam(w.min(), w.max()) for w in (m.get_submodule(f"{parent}.{n}").weight for n in next((f for f in FUSED if own in f), [own])))


@torch.no_grad()
def by_compressor(s, name):
    """A folder that the library's own compressor makes of the model."""
    path = BUILD / f"{s.name}-ct-{name.replace(' ', '-')}"
    if path.exists():
        return path
    groups = COMPRESSORS[name]
    scheme = {**preset_name_to_scheme(groups, ["Linear"]).model_dump()} if isinstance(groups, str) else {"targets": ["Linear"], "weights": groups[0], "input_activations": groups[1]}
    m, seen = load(s.base), {}
    apply_quantization_config(m, QuantizationConfig(config_groups={"group_0": QuantizationScheme(**scheme)}, ignore=["lm_head"]))
    plain = load(s.base)
    for n, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, x, n=n: seen.__setitem__(n, x[0].abs().max()))
    plain(torch.from_numpy(s.ids()))
    for n, module in m.named_modules():
        if (q := getattr(module, "quantization_scheme", None)) is None:
            continue
        low, high = ranges(module.weight, q.weights)
        of = None
        if q.weights.strategy == "tensor_group":
            of = number(m, n)
            module.weight_global_scale.copy_(of)
        scale, zero = calculate_qparams(low, high, q.weights, global_scale=of)
        module.weight_scale.copy_(scale.reshape(module.weight_scale.shape))
        if not q.weights.symmetric:
            module.weight_zero_point.copy_(zero)
        if q.input_activations is not None and q.input_activations.dynamic is False:
            module.input_scale.copy_(seen[n] / 448)
    c = ModelCompressor.from_pretrained_model(m)
    c.compress_model(m)
    m.save_pretrained(path)
    c.update_config(path)
    return path


def compressor(s, name):
    path = by_compressor(s, name)
    there = decoded(path) if "ASYM" in name or "A16" in name else load(path)
    close(f"{s.name}: compressed-tensors' {name} logits", theirs(there, s.ids()), logits(path, s.ids()), (2e-2 if "FP4" in name else LIMIT) + 2 * jitter(there, s.ids()))


# 4. NF4.

def nf4(s, name, *flags):
    import bitsandbytes as bnb

    path = s.quant(name, "nf4", *flags)
    dense = s.folder(path, f"{name}-f32")
    m, plain = load(path), load(dense)
    state = plain.state_dict()
    exact = total = 0
    for n, module in m.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.weight.quant_state.dtype, stored = torch.float32, module.weight.quant_state.dtype  # or it rounds to the model's bf16
            w = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            module.weight.quant_state.dtype = stored
            exact += int((w == state[n + ".weight"]).sum())
            total += w.numel()
    say(total > 0 and exact == total, f"{s.name}: {name} weights decoded by bitsandbytes", f"{total - exact} of {total} differ")
    want = logits(path, s.ids())
    close(f"{s.name}: {name} logits, its decoded weights in plain f32", theirs(plain, s.ids()), want, LIMIT)
    close(f"{s.name}: {name} logits by bitsandbytes' own kernels", theirs(m, s.ids()), want, 2e-2)  # bf16 inside


@torch.no_grad()
def int8(s):
    """LLM.int8(): codes times maxima as bitsandbytes has them; its products round inputs, too, which ours do not."""
    import bitsandbytes as bnb

    path = s.quant("int8", "int8")
    m, plain = load(path), load(s.folder(path, "int8-f32"))
    state, total, bad = plain.state_dict(), 0, 0
    for n, module in m.named_modules():
        if isinstance(module, bnb.nn.Linear8bitLt):
            w = bnb.functional.int8_vectorwise_dequant(module.weight.CB if module.weight.CB is not None else module.weight.data, module.weight.SCB)
            total, bad = total + w.numel(), bad + int((w != state[n + ".weight"]).sum())
    say(total > 0 and bad == 0, f"{s.name}: int8 weights decoded by bitsandbytes", f"{bad} of {total} differ")
    want = logits(path, s.ids())
    close(f"{s.name}: int8 logits, its decoded weights in plain f32", theirs(plain, s.ids()), want, LIMIT)
    close(f"{s.name}: int8 logits by bitsandbytes' own kernels", theirs(m, s.ids()), want, 5e-2)


def fine_grained(s):
    path = s.quant("fp8", "rtn", "--format", "fp8", "--scheme", "FP8_BLOCK", "--for", "transformers", "--keep-dtype", "f32")
    m = load(path)
    close(f"{s.name}: fine-grained FP8 logits, weights decoded there", theirs(m, s.ids()), logits(s.folder(path, "fp8-f32"), s.ids()), LIMIT)


# 5. GGUF, which Transformers decodes with gguf-py.

def gguf(s, kind):
    path = s.gguf(kind)
    m = load(path.parent, gguf_file=path.name)
    close(f"{s.name}: GGUF {kind} logits", theirs(m, s.ids()), logits(path, s.ids()), LIMIT)


# 6. Tokenizers and templates.

def tokenizer(name, folder, model=None):
    tok = AutoTokenizer.from_pretrained(folder)
    same(f"{name}: token ids", [tok(t).input_ids for t in TEXTS], tokenize(model or folder), TEXTS)
    ids = tokenize(model or folder)
    back = [l["text"] for l in lines(ours("tune", "tokenize", "--model", model or folder, "--decode", stdin="".join(json.dumps({"ids": i}) + "\n" for i in ids)))]
    same(f"{name}: decoded text", [tok.decode(i, clean_up_tokenization_spaces=False) for i in ids], back, TEXTS)


def template(name, folder):
    tok = AutoTokenizer.from_pretrained(folder)
    if not tok.chat_template:
        return
    chats = [[{"role": "user", "content": "Hi "}], [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name\na colour"}, {"role": "assistant", "content": "Red"}, {"role": "user", "content": "Another"}]]
    want = lines(ours("tune", "render", "--model", folder, stdin="".join(json.dumps({"messages": c, "add_generation_prompt": True}) + "\n" for c in chats)))
    same(f"{name}: chat template", [tok.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats], [w["text"] for w in want])


def from_gguf(s):
    """Tokenizer files that we write from GGUF metadata give the ids of the original."""
    out = s.folder(s.gguf("F16"), "from-gguf")
    tokenizer(f"{s.name}: tokenizer files written from GGUF", out, s.base)
    template(f"{s.name}: template from GGUF", out)


def stories():
    """A SentencePiece vocabulary that only a GGUF file has."""
    src = SHARED / "stories260K/stories260K-f32.gguf"
    if src.exists():
        out = made(BUILD / "stories260K", "tune", "export", "--model", src, "--format", "safetensors", "--type", "F32")
        tokenizer("stories260K: SentencePiece tokenizer from GGUF", out, src)
        close("stories260K: logits of the folder from GGUF", theirs(load(out), np.arange(3, 51).reshape(2, 24)), logits(src, np.arange(3, 51).reshape(2, 24)), LIMIT)


# 7. Weights of torchao, which Transformers saves.

TORCHAO = {
    "int8": (LIMIT, Int8WeightOnlyConfig()),
    "int8-groups": (LIMIT, Int8WeightOnlyConfig(granularity=PerGroup(32))),
    "float8": (LIMIT, Float8WeightOnlyConfig()),
    "int4-asym": (LIMIT, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32), mapping_type=MappingType.ASYMMETRIC)),
    "int4-int8-inputs": (5e-2, Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=PerGroup(32))),  # an input between two codes may take the other
}


def torchao(s, name):
    limit, config = TORCHAO[name]
    path = BUILD / f"{s.name}-torchao-{name}"
    m = load(s.base, quantization_config=TorchAoConfig(config))
    m.save_pretrained(path)
    close(f"{s.name}: torchao {name} logits", theirs(m, s.ids()), logits(path, s.ids()), limit)


# 8. What the quickstart leaves.

def quickstart_adapter(s):
    m = PeftModel.from_pretrained(load(s.base), s.run / "adapter")
    close("quickstart: adapter in PEFT", theirs(m, s.ids()), logits(s.base, s.ids(), s.run / "adapter"), LIMIT)


def quickstart(s, name, limit):
    """Logits, the greedy tokens of our evaluation's prompts, and the answers it recorded."""
    path = s.run / name
    m, tok = load(path), AutoTokenizer.from_pretrained(path)
    noise = close(f"quickstart: {name} logits", theirs(m, s.ids()), logits(path, s.ids()), limit)
    greedy(f"quickstart: {name}", s, path, continued(m, s, 64), 64, noise)
    got = [tok.decode(i, skip_special_tokens=True).strip() for i in continued(m, s, 64)(tokenize(path, s.prompts()))]
    same(f"quickstart: {name} answers of its evaluation", got, s.answers(name), s.prompts())


checks = [(tokenizer, "tokenizer learned by TrainBPE", generated() / "init"), (template, "pocket", generated() / "init"), (stories,)]
if (SHARED / "golden/train/lora/base-llama").exists():
    untied = Subject("untied", SHARED / "golden/train/lora/base-llama", tokens=320)
    checks += [(base, untied)] + [(peft_adapter, untied, n) for n in [*PEFTS, *UNTIED]]
for s in subjects():
    checks += [(base, s)]
    checks += [(our_adapter, s, n) for n in OURS] + [(peft_adapter, s, n) for n in PEFTS]
    checks += [(merged, s), (added_tokens, s), (tokenizer, f"{s.name}: merged folder", s.dir / "merged"), (from_gguf, s)]
    checks += [(gguf, s, k) for k in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q6_K")]
    checks += [(nf4, s, "nf4"), (nf4, s, "nf4-single", "--single-quant"), (nf4, s, "fp4", "--scheme", "FP4"), (int8, s), (fine_grained, s)]
    checks += [(torchao, s, n) for n in TORCHAO]
    checks += [(compressed, s, n) for n in COMPRESSED] + [(compressor, s, n) for n in COMPRESSORS] + [(float4, s, n) for n in ("NVFP4A16", "MXFP4A16")]
    checks += [(quantized, s, n) for n in (("gptq", "gptq-v2", "awq") if s.random else QUANTS)]
q = Quickstart()
checks += [(quickstart_adapter, q), (quickstart, q, "merged", LIMIT), (quickstart, q, "gptq", 1e-2), (quickstart, q, "awq", 1e-2)]
run(*checks)
