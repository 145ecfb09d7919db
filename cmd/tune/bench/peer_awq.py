"""llm-compressor: a folder of 4-bit weights by AWQ, calibrated with given tokens. Arguments: a JSON object."""
from worker import serve  # first: it keeps libraries from printing between the answers

import json
import sys
import time

o = json.loads(sys.argv[1])
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(o["threads"])
IntermediatesCache.pin_memory = lambda *_: None  # it needs an NVIDIA driver otherwise
rows = [json.loads(l)["input_ids"] for l in open(o["rows"])][: o["samples"]]
data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(r) for r in rows]})
weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 64}


def quantize(_):
    t = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(o["model"], dtype=torch.float32)
    recipe = [AWQModifier(), QuantizationModifier(ignore=["lm_head"], config_groups={"group_0": {"targets": ["Linear"], "weights": weights}})]
    oneshot(model=model, processor=AutoTokenizer.from_pretrained(o["model"]), dataset=data, recipe=recipe, max_seq_length=512, num_calibration_samples=o["samples"])
    model.save_pretrained(o["output"], save_compressed=True)
    return {"seconds": time.perf_counter() - t}


serve(quantize)
