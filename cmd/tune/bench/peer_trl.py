"""TRL's trainers of preferences and of rewards, and Transformers' generate beside them. Arguments: a JSON object, see sections.py."""
from worker import serve  # first: it keeps libraries from printing between the answers

import json
import sys
import tempfile
import time

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

o = json.loads(sys.argv[1])
torch.set_num_threads(o["threads"])
dtype = getattr(torch, o["dtype"])
tokenizer = AutoTokenizer.from_pretrained(o["model"], padding_side="left")
rows = [json.loads(l) for l in open(o["rows"])]


def trainer(name):
    """The class and the configuration of an objective."""
    if name == "orpo":
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer
        return ORPOTrainer, ORPOConfig, {"max_length": 1024}
    if name == "grpo":
        from trl import GRPOConfig, GRPOTrainer
        return GRPOTrainer, GRPOConfig, {"num_generations": 8, "max_completion_length": o["new_tokens"]}
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
    return {"dpo": (DPOTrainer, DPOConfig), "kto": (KTOTrainer, KTOConfig)}[name] + ({"max_length": 1024},)


class Clock(TrainerCallback):
    def __init__(self):
        self.seconds, self.lengths, self.answers = [], [], []

    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.began)

    def on_log(self, args, state, control, logs=None, **_):
        if logs and "completions/mean_length" in logs:
            self.lengths.append(logs["completions/mean_length"])


def clocked(cls, clock):
    """A trainer of cls whose answers are timed."""
    class Clocked(cls):
        def _generate(self, prompts, *args, **kwargs):
            began = time.perf_counter()
            out = super()._generate(prompts, *args, **kwargs)
            clock.answers.append(time.perf_counter() - began)
            return out
    return Clocked


def steps(_):
    """The steps after the first of one training."""
    cls, config, options = trainer(o["objective"])
    model = AutoModelForCausalLM.from_pretrained(o["model"], dtype=dtype, attn_implementation="sdpa")
    clock = Clock()
    if o["objective"] == "grpo":
        cls = clocked(cls, clock)
    with tempfile.TemporaryDirectory() as out:
        args = config(output_dir=out, per_device_train_batch_size=o["batch"], gradient_accumulation_steps=1, max_steps=o["steps"] + 1, learning_rate=1e-5, use_cpu=True, bf16=False,
                      gradient_checkpointing=False, report_to=[], logging_steps=1, save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, **options)
        more = {"reward_funcs": lambda completions, **_: [float(len(c)) / 1000 for c in completions]} if o["objective"] == "grpo" else {}
        cls(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock],
            peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"), **more).train()
    return {"seconds": clock.seconds[1:], "lengths": clock.lengths[1:], "answers": clock.answers[1:]}


def answers(_):
    """So many answers of a fixed length, drawn together."""
    batch = tokenizer([r["prompt"] for r in rows[:o["batch"]]], return_tensors="pt", padding=True)
    t = time.perf_counter()
    with torch.no_grad():
        out = model.generate(**batch, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=o["new_tokens"], min_new_tokens=o["new_tokens"], pad_token_id=tokenizer.eos_token_id)
    assert out.shape[1] == batch["input_ids"].shape[1] + o["new_tokens"]
    return {"seconds": time.perf_counter() - t, "prompt": round(batch["attention_mask"].sum().item() / o["batch"])}


if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token
if o["objective"] == "generate":
    model = AutoModelForCausalLM.from_pretrained(o["model"], dtype=dtype, attn_implementation="sdpa").eval()
serve(answers if o["objective"] == "generate" else steps)
