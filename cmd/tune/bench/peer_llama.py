"""llama.cpp through llama-cpp-python: a prompt and its greedy continuation, or quantizing a file. Arguments: a JSON object."""
import ctypes
from worker import serve  # first: it keeps libraries from printing between the answers

import json
import sys
import time

import llama_cpp
import numpy as np

o = json.loads(sys.argv[1])


def speed(length):
    """A prompt of so many tokens and what follows, by its own C calls, so that Python costs a microsecond a token."""
    n, length = 0, int(length)
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), True)
    t = time.perf_counter()
    assert llama_cpp.llama_decode(ctx, llama_cpp.llama_batch_get_one(prompt, length)) == 0
    logits = llama_cpp.llama_get_logits_ith(ctx, -1)
    token = int(np.ctypeslib.as_array(logits, (vocab,)).argmax())
    took = time.perf_counter() - t
    one = (ctypes.c_int32 * 1)()
    t = time.perf_counter()
    while n < o["decode"] - 1:
        one[0] = token
        assert llama_cpp.llama_decode(ctx, llama_cpp.llama_batch_get_one(one, 1)) == 0
        token = int(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(ctx, -1), (vocab,)).argmax())
        n += 1
    return {"prompt": length / took, "decode": n / (time.perf_counter() - t)}


def quantize(_):
    p = llama_cpp.llama_model_quantize_default_params()
    p.nthread, p.ftype = o["threads"], getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + o["type"])
    t = time.perf_counter()
    assert llama_cpp.llama_model_quantize(o["model"].encode(), o["output"].encode(), ctypes.byref(p)) == 0
    return {"seconds": time.perf_counter() - t}


if o["work"] == "quantize":
    llama_cpp.llama_backend_init()
    serve(quantize)
else:
    began = time.perf_counter()
    llm = llama_cpp.Llama(o["model"], n_ctx=1024, n_batch=o["prompt"], n_ubatch=o["prompt"], n_threads=o["threads"], n_threads_batch=o["threads"], verbose=False)
    ctx, vocab = llm._ctx.ctx, llm.n_vocab()
    prompt = (ctypes.c_int32 * o["prompt"])(*(i * 7919 % vocab for i in range(o["prompt"])))
    serve(speed, load=time.perf_counter() - began)
