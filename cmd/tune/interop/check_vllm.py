"""vLLM on the CPU: our merged, GPTQ and AWQ folders load there and generate the tokens of our own evaluation of them."""
from lib import greedy, run, subjects
from vllm import LLM, SamplingParams

NEW_TOKENS = 8  # bfloat16 arithmetic: short, so that a near tie late in a text decides nothing
QUANTS = {"gptq": ("gptq",), "gptq-g32": ("gptq", "--group-size", 32), "rtn": ("rtn",), "awq": ("awq",)}


def folder(s, name, path):
    llm = LLM(model=str(path), dtype="bfloat16", enforce_eager=True, max_model_len=128, max_num_seqs=4)
    sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, detokenize=False)
    theirs = lambda prompts: [o.outputs[0].token_ids for o in llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)]
    greedy(f"{s.name}: {name}", s, path, theirs, NEW_TOKENS)


def merged(s):
    folder(s, "merged", s.merged())


def quantized(s, name):
    folder(s, name, s.quant(name, *QUANTS[name]))


checks = []
for s in subjects():
    checks += [(merged, s)] + [(quantized, s, n) for n in QUANTS]
run(*checks)
