"""llama.cpp's C interface, as the wheel of xllamacpp carries it.

    python llama.py < requests > answers

computes what each request (a line of JSON, see answer) asks for. llama.cpp
ends the process where a model breaks one of its assertions.
"""
import ctypes
import json
import os
import pathlib
import sys

import numpy as np
import xllamacpp

LIB = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
F32 = 0  # ggml's number
LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
messages = []


def _log(level, text, _):
    if level == 4:  # errors
        messages.append(text.decode(errors="replace").strip())


_log = LOG(_log)


class ModelParams(ctypes.Structure):
    _fields_ = [
        ("devices", ctypes.c_void_p), ("tensor_buft_overrides", ctypes.c_void_p), ("n_gpu_layers", ctypes.c_int32), ("split_mode", ctypes.c_int32),
        ("load_mode", ctypes.c_int32), ("lazy_mode", ctypes.c_int32), ("main_gpu", ctypes.c_int32), ("tensor_split", ctypes.c_void_p),
        ("progress_callback", ctypes.c_void_p), ("progress_callback_user_data", ctypes.c_void_p), ("kv_overrides", ctypes.c_void_p),
        ("vocab_only", ctypes.c_bool), ("check_tensors", ctypes.c_bool), ("use_extra_bufts", ctypes.c_bool), ("no_host", ctypes.c_bool),
        ("no_alloc", ctypes.c_bool), ("load_mtp", ctypes.c_bool), ("rest", ctypes.c_uint8 * 64),
    ]


class ContextParams(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_uint32) for n in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq")),
        *((n, ctypes.c_int32) for n in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type", "pooling_type", "attention_type", "flash_attn_type")),
        *((n, ctypes.c_float) for n in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", ctypes.c_uint32), ("defrag_thold", ctypes.c_float), ("cb_eval", ctypes.c_void_p), ("cb_eval_user_data", ctypes.c_void_p),
        ("type_k", ctypes.c_int32), ("type_v", ctypes.c_int32), ("rest", ctypes.c_uint8 * 192),
    ]


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p), ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)), ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


def _function(name, result, *args):
    f = getattr(LIB, name)
    f.restype, f.argtypes = result, args
    return f


P, I, S = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
model_params = _function("llama_model_default_params", ModelParams)
context_params = _function("llama_context_default_params", ContextParams)
load_model = _function("llama_model_load_from_file", P, S, ModelParams)
free_model = _function("llama_model_free", None, P)
new_context = _function("llama_init_from_model", P, P, ContextParams)
free_context = _function("llama_free", None, P)
get_vocab = _function("llama_model_get_vocab", P, P)
vocab_size = _function("llama_vocab_n_tokens", I, P)
has_encoder = _function("llama_model_has_encoder", ctypes.c_bool, P)
first_token = _function("llama_model_decoder_start_token", I, P)
batch_init = _function("llama_batch_init", Batch, I, I, I)
batch_free = _function("llama_batch_free", None, Batch)
encode = _function("llama_encode", I, P, Batch)
decode = _function("llama_decode", I, P, Batch)
get_logits = _function("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), P, I)
get_memory = _function("llama_get_memory", P, P)
clear = _function("llama_memory_clear", None, P, ctypes.c_bool)
tokenize = _function("llama_tokenize", I, P, S, I, ctypes.POINTER(I), I, ctypes.c_bool, ctypes.c_bool)
detokenize = _function("llama_detokenize", I, P, ctypes.POINTER(I), I, S, I, ctypes.c_bool, ctypes.c_bool)
is_end = _function("llama_vocab_is_eog", ctypes.c_bool, P, I)
meta = _function("llama_model_meta_val_str", I, P, S, S, ctypes.c_size_t)
adapter_init = _function("llama_adapter_lora_init", P, P, S)
set_adapters = _function("llama_set_adapters_lora", I, P, ctypes.POINTER(P), ctypes.c_size_t, ctypes.POINTER(ctypes.c_float))
log_set = _function("llama_log_set", None, LOG, P)


def _defaults():
    """The interface has no version: that its structures are those above is seen from the defaults of fields of every kind."""
    m, c = model_params(), context_params()
    seen = (m.n_gpu_layers, m.split_mode, m.lazy_mode, m.vocab_only, m.use_extra_bufts, c.n_ctx, c.n_batch, c.n_ubatch, c.n_seq_max, c.n_threads, c.flash_attn_type,
            c.yarn_ext_factor, c.yarn_beta_slow, c.defrag_thold, c.type_k, c.type_v)
    want = (-1, 1, 1, False, True, 512, 2048, 512, 1, 4, -1, -1, -1, -1, 1, 1)
    if seen != want:
        raise RuntimeError(f"the structures of xllamacpp {xllamacpp.__version__} are not those that llama.py states: defaults {seen}, want {want}")


_defaults()
log_set(_log, None)
LIB.llama_backend_init()


class Llama:
    """A model and a context of it, whose cache is of F32 as our arithmetic is."""

    def __init__(self, path, context=256, vocab_only=False, adapter=None, threads=2):
        messages.clear()
        p = model_params()
        p.vocab_only = vocab_only
        self.context = None
        self.model = load_model(str(path).encode(), p)
        if not self.model:
            raise RuntimeError("does not load: " + said())
        self.vocab = get_vocab(self.model)
        self.size = vocab_size(self.vocab)
        if vocab_only:
            return
        c = context_params()
        c.n_ctx = c.n_batch = c.n_ubatch = context
        c.n_outputs_max = c.n_outputs_max_per_seq = context
        c.n_threads = c.n_threads_batch = threads
        c.flash_attn_type, c.type_k, c.type_v = 0, F32, F32
        self.context = new_context(self.model, c)
        if not self.context:
            raise RuntimeError("makes no context: " + said())
        if adapter:
            a = adapter_init(self.model, str(adapter).encode())
            if not a:
                raise RuntimeError("does not load the adapter: " + said())
            if set_adapters(self.context, (P * 1)(a), 1, (ctypes.c_float * 1)(1)) != 0:
                raise RuntimeError("does not take the adapter: " + said())

    def __del__(self):
        if self.context:
            free_context(self.context)
        if self.model:
            free_model(self.model)

    def tokenize(self, text):
        """Ids of a text, whose special tokens are read as such, behind what the model begins with."""
        b = text.encode()
        out = (I * (len(b) + 16))()
        n = tokenize(self.vocab, b, len(b), out, len(out), True, True)
        if n < 0:
            raise RuntimeError(f"{-n} tokens of {len(b)} bytes")
        return list(out[:n])

    def text(self, ids):
        """Bytes of ids, special ones left out."""
        out = ctypes.create_string_buffer(64 * len(ids) + 64)
        n = detokenize(self.vocab, (I * len(ids))(*ids), len(ids), out, len(out), False, False)
        if n < 0:
            raise RuntimeError(f"{-n} bytes of {len(ids)} tokens")
        return out.raw[:n]

    def metadata(self, key):
        """A key of the file as text, "" where there is none."""
        out = ctypes.create_string_buffer(1 << 20)
        n = meta(self.model, key.encode(), out, len(out))
        return out.value.decode() if n >= 0 else ""

    def greedy(self, ids, tokens, ends=None):
        """The best tokens after ids, up to an end (ends; None: what the file says ends a text), which is among them."""
        self.reset()
        out, last = [], self.eval(ids)
        while True:
            t = int(last[-1].argmax())
            out.append(t)
            if len(out) == tokens or (t in ends if ends is not None else is_end(self.vocab, t)):
                return out
            last = self.eval([t], len(ids) + len(out) - 1)

    def reset(self):
        if memory := get_memory(self.context):  # an encoder alone has none
            clear(memory, True)

    def _run(self, run, ids, at):
        b = batch_init(len(ids), 0, 1)
        b.n_tokens = len(ids)
        for i, t in enumerate(ids):
            b.token[i], b.pos[i], b.n_seq_id[i], b.seq_id[i][0], b.logits[i] = int(t), at + i, 1, 0, 1
        status = run(self.context, b)
        batch_free(b)
        if status != 0:
            raise RuntimeError(f"status {status}: {said()}")

    def encode(self, ids):
        self._run(encode, ids, 0)

    def eval(self, ids, at=0):
        """Logits f32 [len(ids), V] of tokens from position at on."""
        self._run(decode, ids, at)
        return np.stack([np.ctypeslib.as_array(get_logits(self.context, i), (self.size,)).copy() for i in range(len(ids))])


def chat(path, messages):
    """The text that llama.cpp's server makes of messages, by the template in the file, up to where its answer begins."""
    p = xllamacpp.CommonParams()
    p.model.path, p.n_ctx, p.warmup, p.use_jinja = str(path), 512, False, True
    answer = xllamacpp.Server(p).handle_chat_completions({"messages": messages, "max_tokens": 1, "temperature": 0, "verbose": True})
    return answer["__verbose"]["prompt"]


def said():
    """What llama.cpp's log says went wrong: its first error, which is the cause of those that follow."""
    return messages[0] if messages else "it says nothing"


def answer(model, ids, decoder=None, adapter=None, tokens=0, logits=None):
    """Writes f32 logits of rows of ids (of the decoder's behind an encoder) to the file logits; returns the greedy tokens after each row.

    decoder: what an encoder's model is given to continue, rows like ids. tokens: how many to make.
    """
    longest = max(map(len, [*ids, *(decoder or [])])) + tokens
    m = Llama(model, (longest + 255) // 256 * 256, adapter=adapter, threads=1)  # of small models, whose threads only wait for each other
    rows, made = [], []
    for i, row in enumerate(ids):
        m.reset()
        if has_encoder(m.model):
            m.encode(row)
            row = decoder[i]
        last = m.eval(row)
        rows.append(last)
        made.append([])
        if decoder and tokens:  # an answer begins anew
            row = [first_token(m.model)]
            m.reset()
            m.encode(ids[i])
            last = m.eval(row)
        for k in range(tokens):
            made[-1].append(int(last[-1].argmax()))
            if k + 1 < tokens:
                last = m.eval(made[-1][-1:], len(row) + k)
    np.stack(rows).tofile(pathlib.Path(logits))
    return made


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # where llama.cpp prints what it asserts
    for line in sys.stdin:
        try:
            print(json.dumps({"greedy": answer(**json.loads(line))}), file=out, flush=True)
        except Exception as e:
            print(json.dumps({"error": str(e)}), file=out, flush=True)
