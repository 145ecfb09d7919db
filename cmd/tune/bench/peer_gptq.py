"""GPTQModel: a folder of 4-bit weights, calibrated with given tokens. Arguments: a JSON object."""
from worker import serve  # first: it keeps libraries from printing between the answers

import json
import sys
import time


o = json.loads(sys.argv[1])
import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

torch.set_num_threads(o["threads"])
rows = [json.loads(l)["input_ids"] for l in open(o["rows"])][: o["samples"]]
calibration = [{"input_ids": torch.tensor([r]), "attention_mask": torch.ones(1, len(r), dtype=torch.long)} for r in rows]


def quantize(_):
    t = time.perf_counter()
    config = QuantizeConfig(bits=4, group_size=64, sym=True, desc_act=False)
    model = GPTQModel.load(o["model"], config, device="cpu")
    model.quantize(calibration, batch_size=1)
    model.save(o["output"])
    return {"seconds": time.perf_counter() - t}


serve(quantize)
