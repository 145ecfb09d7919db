"""llama.cpp and gguf-py: our GGUF files load there, with our tokens, our text and our decoded weights."""
import json
import os
import re
import subprocess
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from lib import BUILD, NEW_TOKENS, ROOT, SHARED, TEXTS, Quickstart, close, greedy, lines, logits, ours, run, same, say, subjects, tokenize
from llama import Llama, chat
from safetensors.numpy import load_file

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


checks = []
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
