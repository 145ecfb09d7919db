"""llama.cpp and gguf-py: our GGUF files load there, with our tokens, our text and our decoded weights."""
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from lib import BUILD, NEW_TOKENS, POCKET, ROOT, SHARED, TEXTS, Quickstart, close, generated, greedy, lines, logits, made, ours, run, same, say, subjects, tokenize
from llama import Llama, chat
from safetensors.numpy import load_file, save_file

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q6_K")
# What a file's logits may be off: llama.cpp rounds activations to 8 bits for
# quantized weights and to F16 for F16 weights; only F32 is computed in f32.
LIMITS = {"F32": 1e-4, "F16": 5e-3, "BF16": 2e-2}
QUANTIZED = 5e-2


def theirs(m, ids):
    rows = []
    for row in ids:
        m.reset()
        rows.append(m.eval(row))
    return np.stack(rows)


def file(s, kind, path=None):
    path = path or s.gguf(kind)
    m = Llama(path)
    noise = close(f"{s.name}: {kind} logits", theirs(m, s.ids()), logits(path, s.ids()), LIMITS.get(kind, QUANTIZED))
    greedy(f"{s.name}: {kind}", s, path, lambda prompts: [m.greedy(p, NEW_TOKENS, s.stops()) for p in prompts], NEW_TOKENS, noise)


# Every type of a GGUF's matrices, and the mixture that is named otherwise.
TYPES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS IQ3_S IQ3_XXS IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S TQ2_0 TQ1_0 Q2_0 Q1_0 MXFP4 NVFP4".split()
MIXTURES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "IQ2_S": "IQ2_M", "MXFP4": "MXFP4_MOE"}


def types():
    """Logits of a random model of two blocks, each of its matrices but the embedding in one type: rows of 256 and 512, which every type divides."""
    rng, out = np.random.default_rng(7), BUILD / "types"
    out.mkdir(exist_ok=True)
    e, f, v = 256, 512, json.loads((POCKET / "config.json").read_text())["vocab_size"]
    dense = out / "dense"
    if not (dense / "config.json").exists():
        dense.mkdir(exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(POCKET / name, dense)
        drawn = lambda rows, cols: (rng.standard_t(5, (rows, cols)) * 0.8 / cols**0.5).astype(np.float32)
        w = {"model.embed_tokens.weight": drawn(v, e) * 16, "lm_head.weight": drawn(v, e), "model.norm.weight": np.ones(e, np.float32)}
        for i in range(2):
            at = f"model.layers.{i}."
            w |= {at + n: np.ones(e, np.float32) for n in ("input_layernorm.weight", "post_attention_layernorm.weight")}
            w |= {at + f"self_attn.{n}_proj.weight": drawn(r, e) for n, r in (("q", e), ("k", e // 2), ("v", e // 2), ("o", e))}
            w |= {at + f"mlp.{n}_proj.weight": drawn(r, c) for n, r, c in (("gate", f, e), ("up", f, e), ("down", e, f))}
        save_file(w, dense / "model.safetensors")
        (dense / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": e, "intermediate_size": f, "num_hidden_layers": 2, "num_attention_heads": 4,
                                                       "num_key_value_heads": 2, "head_dim": 64, "vocab_size": v, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}))
    ids = rng.integers(0, v, (2, 32))
    weights = made(out / "imatrix.gguf", "quant", "imatrix", "--model", dense, "--calibration", generated() / "corpus.jsonl", "--samples", "16", "--max-length", "128", "--process-output")
    for kind in TYPES:
        path = made(out / f"{kind}.gguf", "quant", "gguf", "--model", dense, "--type", MIXTURES.get(kind, kind), "--pure", "--token-embedding-type", "Q8_0", "--imatrix", weights)
        same(f"types: {kind} matrices", sorted({t["dtype"] for t in json.loads(ours("tune", "inspect", "--json", path))["tensors"] if len(t["shape"]) > 1 and t["name"] != "token_embd.weight"}), [kind])
        close(f"types: {kind} logits", theirs(Llama(path), ids), logits(path, ids), LIMITS.get(kind, QUANTIZED))


def text(s, kind):
    """Greedy text from text: their tokenizer, model and decoding against ours."""
    path, prompts = s.gguf(kind), s.prompts()
    m = Llama(path)
    got = [m.text(m.greedy(m.tokenize(p), NEW_TOKENS)).decode() for p in prompts]
    want = [lines(ours("tune", "generate", "--model", path, "--prompt", p, "--max-new-tokens", NEW_TOKENS, "--dtype", "f32"))[0]["text"] for p in prompts]
    same(f"{s.name}: {kind} greedy text", got, want, prompts)


def tokenizer(name, path):
    m = Llama(path, vocab_only=True)
    texts = [t for t in TEXTS if t]
    same(f"{name}: token ids", [m.tokenize(t) for t in texts], tokenize(path, texts), texts)


def template(s):
    """The chat template in the file, rendered by llama.cpp's server."""
    if not Llama(s.gguf("F16"), vocab_only=True).metadata("tokenizer.chat_template"):
        return
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\nthere"}]
    want = lines(ours("tune", "render", "--model", s.gguf("F16"), stdin=json.dumps({"messages": asked, "add_generation_prompt": True}) + "\n"))
    same(f"{s.name}: chat template", [chat(s.gguf("F16"), asked)], [want[0]["text"]])


def architectures():
    """The reference case of every architecture, and its adapter, and models of the classes without one: the test that make conformance tells of in docs/support.md."""
    cmd = ["go", "test", "./lora", "-run", "^TestLlamaCpp(Classes)?$", "-count=1", "-v", "-timeout", "30m"]
    p = subprocess.run(cmd, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "TUNEKIT_LLAMACPP_PYTHON": sys.executable})
    (BUILD / "architectures.log").write_text(p.stdout + p.stderr)
    parts = re.findall(r"--- (PASS|FAIL): TestLlamaCpp(?:Classes)?/(\S+/\S+|(?<=Classes/)\S+)", p.stdout)
    for result, name in parts:
        say(result == "PASS", f"architectures: {name}", "as docs/support.md says")
    say(p.returncode == 0 and len(parts) > 300, "architectures", f"{len(parts)} parts, exit status {p.returncode}, see build/interop/architectures.log")


HF_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight",
}
PARTS = {
    "attn_norm": "input_layernorm", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def hf_name(name):
    """The Hugging Face name of a tensor stored in the same order there; None for q and k, whose rows GGUF permutes."""
    if name in HF_NAMES:
        return HF_NAMES[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{PARTS[part]}.weight" if part in PARTS else None


def reader(s, kind):
    """gguf-py reads the file's metadata, and its own decoders give the weights that we decode."""
    path = s.gguf(kind)
    r = GGUFReader(path)
    say(r.fields["general.architecture"].contents() == "llama" and len(r.tensors) > 0, f"{s.name}: {kind} metadata by gguf-py", f"{len(r.fields)} keys, {len(r.tensors)} tensors")
    dense = s.folder(path, f"{kind}-f32")
    weights = {k: v for f in dense.glob("*.safetensors") for k, v in load_file(f).items()}
    compared = differ = 0
    for t in r.tensors:
        name = hf_name(t.name)
        if name in weights:
            x = dequantize(t.data, t.tensor_type).reshape(weights[name].shape)
            compared += x.size
            differ += int((x != weights[name]).sum())
    say(compared > 0 and differ == 0, f"{s.name}: {kind} weights decoded by gguf-py", f"{differ} of {compared} differ")


checks = [(types,)]
if (SHARED / "stories260K").exists():
    checks += [(tokenizer, "stories260K", SHARED / "stories260K/stories260K-f32.gguf")]
for s in subjects():
    checks += [(tokenizer, s.name, s.gguf("F16")), (template, s)]
    checks += [(file, s, k) for k in KINDS] + [(reader, s, k) for k in KINDS]
    if not s.random:  # whose bytes are seldom UTF-8: each program tells those in its own way
        checks += [(text, s, "F16")]
    if s.origin:
        checks += [(tokenizer, f"{s.name} as it came", s.origin), (file, s, "original", s.origin)]
if SHARED.exists():
    checks += [(architectures,)]
q = Quickstart()
checks += [(file, q, k, q.run / f"gguf/quickstart-{k}.gguf") for k in ("Q8_0", "Q4_K_M")]
run(*checks)
