"""PEFT or plain PyTorch: optimizer steps of 4×512 tokens. Arguments: a JSON object, see sections.py and gpu.sh, whose device is a GPU's and whose rows are longer."""
from worker import serve  # first: it keeps libraries from printing between the answers

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

o = json.loads(sys.argv[1])
device, batch = o.get("device", "cpu"), o.get("batch", 4)
on_gpu = device.startswith("cuda")
torch.set_num_threads(o["threads"])
torch.manual_seed(1)
dtype = getattr(torch, o["dtype"])
quant = None
if o["nf4"]:
    quant = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
model = AutoModelForCausalLM.from_pretrained(o["model"], dtype=torch.float32 if o["nf4"] and dtype == torch.float32 else dtype, quantization_config=quant, attn_implementation="sdpa", **({"device_map": {"": device}} if on_gpu else {}))
model.config.use_cache = False
if o["lora"]:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    if o["nf4"]:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=o["checkpointing"], gradient_checkpointing_kwargs={"use_reentrant": False})
    elif o["checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=o.get("targets", "all-linear"), task_type="CAUSAL_LM"))
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
opt = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
ids = torch.tensor([json.loads(l)["input_ids"] for l in open(o["rows"])], device=device)
at = 0


def step(_):
    global at
    rows = ids[[(at + i) % len(ids) for i in range(batch)]]
    at += batch
    t = time.perf_counter()
    loss = model(input_ids=rows, labels=rows).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    opt.step()
    opt.zero_grad()
    if on_gpu:
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - t, "loss": loss.item(), "gpu_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0}


serve(step, trained=sum(p.numel() for p in trained))
