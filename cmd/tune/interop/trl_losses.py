"""Losses and gradient norms of TRL's own trainers on the pairs of golden/train/prefs, for option
combinations that the recorded cases leave out: python3 trl_losses.py SHARED/data/golden/train
writes train/testdata/trl_losses.json to standard output. Needs trl, peft and torch."""
import json
import sys
import types
from collections import defaultdict

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl import DPOTrainer, SFTTrainer
from trl.trainer.utils import add_fused_lm_head

GOLDEN = sys.argv[1].rstrip("/")
PAIRS = json.load(open(GOLDEN + "/prefs/prefs.json"))
OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1", "log_sum_sq_probs")
PAD = 258

DIVERGENCES = [
    {"f_divergence_type": "forward_kl"},
    {"f_divergence_type": "js_divergence"},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.2},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.2},
]


def configs():
    for loss in ("sigmoid", "ipo", "sigmoid_norm", "nca_pair", "bco_pair", "sppo_hard", "apo_down"):
        for d in DIVERGENCES:
            yield {"objective": "dpo", "loss_type": [loss], "beta": 0.3} | d
    for loss in ("sigmoid", "nca_pair", "discopop"):
        yield {"objective": "dpo", "loss_type": [loss], "beta": 0.3, "use_weighting": True}
    yield {"objective": "dpo", "loss_type": ["sigmoid_norm", "bco_pair"], "loss_weights": [0.7, 1.3], "beta": 0.5, "ld_alpha": 0.4,
           "f_divergence_type": "js_divergence", "use_weighting": True}
    yield {"objective": "sft", "loss_type": ["dft"]}


def pad(rows, value):
    longest = max(map(len, rows))
    return torch.tensor([r + [value] * (longest - len(r)) for r in rows])


def policy():
    m = AutoModelForCausalLM.from_pretrained(GOLDEN + "/lora/base-llama", attn_implementation="eager", dtype=torch.float32)
    add_fused_lm_head(m, outputs=OUTPUTS)
    return PeftModel.from_pretrained(m, GOLDEN + "/lora/lora/adapter", is_trainable=True).train()


def trainer(cls, model, args, **fields):
    """cls without its constructor, which wants a tokenizer and a data set."""
    t = object.__new__(cls)
    t.accelerator = types.SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x, device=torch.device("cpu"), unwrap_model=lambda m: m,
                                          num_processes=1, parallelism_config=None)
    t.model, t.ref_model, t.aux_loss_enabled, t._total_train_tokens, t._tp_size = model, None, False, 0, 1
    t._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    t.args = types.SimpleNamespace(gradient_checkpointing_kwargs=None, **args)
    for key, value in fields.items():
        setattr(t, key, value)
    return t


def loss_of(c, model):
    prompts, answers = PAIRS["prompts"], PAIRS["chosen"] + PAIRS["rejected"]
    if c["objective"] == "sft":
        prompts, answers = prompts, PAIRS["chosen"]
    rows = [p + a for p, a in zip(prompts * 2, answers)]
    batch = {"input_ids": pad(rows, PAD), "attention_mask": pad([[1] * len(r) for r in rows], 0)}
    learned = pad([[0] * len(p) + [1] * len(a) for p, a in zip(prompts * 2, answers)], 0)
    if c["objective"] == "sft":
        batch["labels"] = batch["input_ids"].masked_fill(learned == 0, -100)
        t = trainer(SFTTrainer, model, {"loss_type": c["loss_type"][0], "average_tokens_across_devices": False}, compute_loss_func=None, label_smoother=None)
        return t.compute_loss(model, batch)
    batch["completion_mask"] = learned
    t = trainer(DPOTrainer, model, {"discopop_tau": 0.05}, precompute_ref_logps=False, ld_alpha=c.get("ld_alpha"), f_divergence_type=c.get("f_divergence_type", "reverse_kl"),
                f_alpha_divergence_coef=c.get("f_alpha_divergence_coef", 0.5), loss_types=c["loss_type"], loss_weights=c.get("loss_weights", [1.0]), beta=c["beta"],
                label_smoothing=0.0, use_weighting=c.get("use_weighting", False))
    return t._compute_loss(model, batch, False)


def main():
    torch.set_num_threads(1)
    model, lines = policy(), []
    for c in configs():
        model.zero_grad()
        loss = loss_of(c, model)
        loss.backward()
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None))
        lines.append(json.dumps({"config": c, "loss": loss.item(), "grad_norm": norm.item()}))
    print("[\n" + ",\n".join(lines) + "\n]")


main()
