"""vLLM on the CPU: our merged, GPTQ and AWQ folders load there and generate the tokens of our own evaluation of them."""
import numpy as np
from lib import Quickstart, close, greedy, logits, run, subjects
from vllm import LLM, SamplingParams

NEW_TOKENS = 8  # bfloat16 arithmetic: short, so that a near tie late in a text decides nothing
QUANTS = {"gptq": ("gptq",), "gptq-g32": ("gptq", "--group-size", 32), "rtn": ("rtn",), "awq": ("awq",)}


def log_probs(x, ids):
    """Log-probability f64 [B,T-1] that logits x [B,T,V] give to each next id."""
    x = x[:, :-1].astype(np.float64)
    top = x.max(-1)
    return np.take_along_axis(x, ids[:, 1:, None], -1)[..., 0] - top - np.log(np.exp(x - top[..., None]).sum(-1))


def folder(s, name, path):
    llm = LLM(model=str(path), dtype="bfloat16", enforce_eager=True, max_model_len=128, max_num_seqs=4)

    def answers(prompts, **sampling):
        sampling = SamplingParams(temperature=0, detokenize=False, **sampling)
        return llm.generate([{"prompt_token_ids": list(map(int, p))} for p in prompts], sampling, use_tqdm=False)

    ids, x = s.ids(), logits(path, s.ids())
    theirs = [[p[int(t)].logprob for p, t in zip(o.prompt_logprobs[1:], row[1:])] for o, row in zip(answers(ids, max_tokens=1, prompt_logprobs=0), ids)]
    want = log_probs(x, ids)
    noise = close(f"{s.name}: {name} log-probabilities of a text", theirs, want, 2e-2 * max(1, np.abs(x).max() / np.abs(want).max()))
    greedy(f"{s.name}: {name}", s, path, lambda prompts: [o.outputs[0].token_ids for o in answers(prompts, max_tokens=NEW_TOKENS)], NEW_TOKENS, noise)


def merged(s):
    folder(s, "merged", s.merged())


def quantized(s, name):
    folder(s, name, s.quant(name, *QUANTS[name]))


checks = []
for s in subjects():
    checks += [(merged, s)] + [(quantized, s, n) for n in QUANTS]
q = Quickstart()
checks += [(folder, q, n, q.run / n) for n in ("merged", "gptq", "awq")]
run(*checks)
