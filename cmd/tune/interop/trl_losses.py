"""Losses and gradient norms of TRL's own trainers on the pairs of golden/train/prefs, for option
combinations that the recorded cases leave out: python3 trl_losses.py SHARED/data/golden/train
writes train/testdata/trl_losses.json to standard output, with a second argument grpo
train/testdata/trl_grpo.json, on the answers of golden/train/grpo, with rloo, entropy or sync
trl_rloo.json (RLOOTrainer), trl_entropy.json (GRPO's adaptive entropy) or trl_sync.json (a reference
that moves), with curves trl_curves.json, 30 steps of every objective, with routers router_loss.json
(Transformers' losses over routers), with top_k top_k.json (a teacher's likeliest tokens, by formula). Needs
trl, peft and torch."""
import contextlib
import json
import sys
import types
from collections import defaultdict

import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RewardTrainer, RLOOTrainer, SFTTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.gkd import GKDTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.callbacks import SyncRefModelCallback
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


def policy(fused=True):
    m = AutoModelForCausalLM.from_pretrained(GOLDEN + "/lora/base-llama", attn_implementation="eager", dtype=torch.float32)
    if fused:
        add_fused_lm_head(m, outputs=OUTPUTS)
    return PeftModel.from_pretrained(m, GOLDEN + "/lora/lora/adapter", is_trainable=True).train()


def trainer(cls, model, args, **fields):
    """cls without its constructor, which wants a tokenizer and a data set."""
    t = object.__new__(cls)
    t.accelerator = types.SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x, device=torch.device("cpu"), unwrap_model=lambda m: m,
                                          num_processes=1, parallelism_config=None, is_main_process=False, autocast=contextlib.nullcontext, sync_gradients=True,
                                          reduce=lambda x, reduction: x, pad_across_processes=lambda x, **_: x)
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


def grpo_configs():
    """What differs from the defaults of grpo.json; micro is the number of micro-batches."""
    for loss in ("dapo", "grpo", "sapo", "bnpo"):
        yield {"loss_type": loss, "entropy_coef": 0.05, "top_entropy_quantile": 0.4}
    yield {"loss_type": "dapo", "mask_truncated_completions": True, "micro": 4, "epsilon": 0.05}
    yield {"loss_type": "dapo", "importance_sampling_level": "sequence", "mask_truncated_completions": True, "micro": 4, "epsilon": 0.01, "top_entropy_quantile": 0.5}
    yield {"loss_type": "vespo", "vespo_k_pos": 0.5, "vespo_k_neg": 0.5, "vllm": True, "vllm_importance_sampling_mode": "token_mask",
           "vllm_importance_sampling_clip_max": 1.1}


def grpo():
    golden, batch = json.load(open(GOLDEN + "/grpo/grpo.json")), load_file(GOLDEN + "/grpo/batch.safetensors")
    advantages = next(a["advantages"] for a in golden["advantages"]
                      if a["rewards"] == "two" and a["scale_rewards"] == "group" and a["aggregation"] == "sum_then_normalize" and not a.get("reward_weights"))
    old, written = batch["old_per_token_logps"], batch["old_per_token_logps"].clone()
    for row, values in enumerate(golden["sampling_logps_without_null"]):
        written[row, : len(values)] = torch.tensor(values)
    model, lines = policy(), []
    for i, c in enumerate(grpo_configs()):
        mask, micro = batch["completion_mask"].long().clone(), c.get("micro", 1)
        if c.get("mask_truncated_completions"):
            mask[golden["truncated"]] = 0
        inputs = {"prompt_ids": batch["prompt_ids"].long(), "prompt_mask": batch["prompt_mask"].long(), "completion_ids": batch["completion_ids"].long(),
                  "completion_mask": mask, "advantages": torch.tensor(advantages), "old_per_token_logps": old}
        if c.get("vllm"):  # token_mask
            ratio = torch.exp((old - written) * mask)
            inputs["importance_sampling_ratio"] = ratio.masked_fill(ratio > c["vllm_importance_sampling_clip_max"], 0.0)
        args = {"report_to": [], "use_bias_correction_kl": False, "delta": None, "steps_per_generation": micro, "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05,
                "vespo_k_pos": c.get("vespo_k_pos"), "vespo_lambda_pos": 3.0, "vespo_k_neg": c.get("vespo_k_neg"), "vespo_lambda_neg": 2.0}
        t = trainer(GRPOTrainer, model, args, top_entropy_quantile=c.get("top_entropy_quantile", 1.0), off_policy_mask_threshold=None, beta=0.0, loss_type=c["loss_type"],
                    importance_sampling_level=c.get("importance_sampling_level", "token"), epsilon_low=c.get("epsilon", 0.2), epsilon_high=0.28, use_vllm=c.get("vllm", False),
                    vllm_importance_sampling_correction=c.get("vllm", False), current_gradient_accumulation_steps=micro, max_completion_length=24,
                    entropy_coef=c.get("entropy_coef", 0.0), use_adaptive_entropy=False, _entropy_bonus_enabled=c.get("entropy_coef", 0.0) != 0)
        model.zero_grad()
        losses, metrics, size = [], [], len(mask) // micro
        for k in range(micro):
            part = {key: v[k * size : (k + 1) * size] for key, v in inputs.items()} | {"num_items_in_batch": mask.sum()}
            t._metrics["train"] = defaultdict(list)
            loss = t._compute_loss(model, part)
            loss.backward()
            losses.append(loss.item())
            metrics.append({key: v[-1] for key, v in t._metrics["train"].items()})
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None))
        one = micro == 1
        lines.append(json.dumps({"name": f"more.{i}", "config": c, "rewards": "two", "reward_weights": None, "off_policy": True, "env_mask": False,
                                 "sampling_logprobs": c.get("vllm", False), "loss": losses[0] if one else losses, "grad_norm": norm.item(),
                                 "metrics": metrics[0] if one else metrics}))
    return lines


def entropy():
    """Steps of GRPO on the same answers, with use_adaptive_entropy and no update between."""
    golden, batch = json.load(open(GOLDEN + "/grpo/grpo.json")), load_file(GOLDEN + "/grpo/batch.safetensors")
    advantages = torch.tensor(next(a["advantages"] for a in golden["advantages"] if a["rewards"] == "two" and a["scale_rewards"] == "group"
                                   and a["aggregation"] == "sum_then_normalize" and not a.get("reward_weights")))
    model, lines = policy(), []
    for c in ({"entropy_coef": 0.02, "entropy_coef_delta": 0.005, "entropy_coef_max": 0.027, "entropy_target": 9.0},
              {"entropy_coef": 0.02, "entropy_coef_delta": 0.015, "entropy_coef_min": 0.01, "entropy_target": 0.1},
              {"entropy_coef": 0.0, "entropy_coef_delta": 0.03, "entropy_target": 9.0, "top_entropy_quantile": 0.4, "micro": 1}):
        micro = c.get("micro", 2)
        args = {"report_to": [], "use_bias_correction_kl": False, "delta": None, "steps_per_generation": micro, "entropy_coef_min": c.get("entropy_coef_min", 0.0),
                "entropy_coef_max": c.get("entropy_coef_max", 1.0), "entropy_coef_delta": c["entropy_coef_delta"], "entropy_target": c["entropy_target"]}
        t = trainer(GRPOTrainer, model, args, top_entropy_quantile=c.get("top_entropy_quantile", 1.0), off_policy_mask_threshold=None, beta=0.0, loss_type="dapo",
                    importance_sampling_level="token", epsilon_low=0.2, epsilon_high=0.28, use_vllm=False, vllm_importance_sampling_correction=False,
                    current_gradient_accumulation_steps=micro, max_completion_length=24, entropy_coef=c["entropy_coef"], use_adaptive_entropy=True,
                    _entropy_bonus_enabled=True, _last_world_entropy=float("inf"), _entropy_window_stats=None)
        mask, steps, size = batch["completion_mask"].long(), [], len(batch["completion_mask"]) // micro
        for _ in range(4):
            model.zero_grad()
            total = 0.0
            for k in range(micro):
                at = slice(k * size, (k + 1) * size)
                part = {key: batch[key][at].long() for key in ("prompt_ids", "prompt_mask", "completion_ids")}
                t.accelerator.sync_gradients = k == micro - 1
                loss = t._compute_loss(model, part | {"completion_mask": mask[at], "advantages": advantages[at], "num_items_in_batch": mask.sum()})
                loss.backward()
                total += loss.item()
            norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None))
            steps.append({"loss": total, "grad_norm": norm.item(), "entropy_coef": t._metrics["train"]["entropy_coef"][-1]})
        lines.append(json.dumps({"config": c, "steps": steps}))
    return lines


def rloo_configs():
    """Options, reward table, weights, and whether the answers were written by another."""
    yield {}, "one", None, False
    yield {"beta": 0.0}, "none", None, True
    yield {"beta": 0.3, "normalize_advantages": True}, "two", [0.7, 0.3], True
    yield {"beta": 0.3, "reward_clip_range": [0.2, 0.6], "epsilon": 0.05, "epsilon_high": 0.1}, "flat_group", None, True
    yield {"beta": 0.1, "mask_truncated_completions": True, "micro": 3, "epsilon": 0.02, "normalize_advantages": True}, "none", [1.0, 0.5], True
    yield {"beta": 0.1, "temperature": 0.7}, "two", None, True


def rloo():
    golden, batch = json.load(open(GOLDEN + "/grpo/grpo.json")), load_file(GOLDEN + "/grpo/batch.safetensors")
    lines = []
    for c, table, weights, off in rloo_configs():
        model, micro, temperature = policy(), c.get("micro", 1), c.get("temperature", 1.0)
        if temperature != 1:
            add_fused_lm_head(model.base_model.model, temperature=temperature, outputs=OUTPUTS)
        rewards = torch.tensor([[float("nan") if v is None else v for v in row] for row in golden["rewards"][table]]).T
        prompts = [p for p in golden["prompts"] for _ in range(4)]
        args = {"per_device_train_batch_size": 12, "report_to": []}
        t = trainer(RLOOTrainer, model, args, beta=c.get("beta", 0.05), mask_truncated_completions=c.get("mask_truncated_completions", False), pad_to_multiple_of=None,
                    _tokenizer=types.SimpleNamespace(pad_token_id=PAD), eos_token_ids=[257], num_generations=4, normalize_advantages=c.get("normalize_advantages", False),
                    reward_weights=torch.tensor(weights or [1.0] * rewards.shape[1]), reward_clip_range=c.get("reward_clip_range"), reward_func_names=["a", "b"][: rewards.shape[1]],
                    _logs={"prompt": [], "completion": [], "rewards": defaultdict(list), "advantages": [], "extra": defaultdict(list)}, _pending_extra_logs={}, _pending_metrics={},
                    epsilon_low=c.get("epsilon", 0.2), epsilon_high=c.get("epsilon_high") or c.get("epsilon", 0.2))
        t.accelerator.process_index = 0
        t._generate = lambda _: (prompts, golden["completions"], ["x"] * 12)
        t._calculate_rewards = lambda *_: rewards
        import trl.trainer.rloo_trainer as module
        module.gather_object = lambda x: x
        module.gather = lambda x: x
        inputs = t._generate_and_score_completions([{"prompt": p} for p in prompts])
        logged = {k: v[-1] for k, v in t._metrics["train"].items()}
        if off:
            inputs["old_logps"] = (batch["old_per_token_logps"] * inputs["completion_mask"]).sum(1)
        losses, metrics, size = [], [], 12 // micro
        for k in range(micro):
            t._metrics["train"] = defaultdict(list)
            loss = t._compute_loss(model, {key: v[k * size : (k + 1) * size] for key, v in inputs.items()}) / micro
            loss.backward()
            losses.append(loss.item())
            metrics.append({key: v[-1] for key, v in t._metrics["train"].items()})
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None))
        lines.append(json.dumps({"name": f"more.rloo{len(lines)}", "config": c, "rewards": table, "reward_weights": weights, "off_policy": off,
                                 "advantages": inputs["advantages"].tolist(), "logged": logged, "loss": losses[0] if micro == 1 else losses, "grad_norm": norm.item(),
                                 "metrics": metrics[0] if micro == 1 else metrics}))
    return lines


def sync():
    """DPO of all weights and of an adapter against a copy that comes after them every two steps."""
    rows = [p + a for p, a in zip(PAIRS["prompts"] * 2, PAIRS["chosen"] + PAIRS["rejected"])]
    learned = pad([[0] * len(p) + [1] * len(a) for p, a in zip(PAIRS["prompts"] * 2, PAIRS["chosen"] + PAIRS["rejected"])], 0)
    batch = {"input_ids": pad(rows, PAD), "attention_mask": pad([[1] * len(r) for r in rows], 0), "completion_mask": learned}
    lines = []
    for kind, rate in (("none", 3e-4), ("lora", 1e-3)):
        for alpha in (0.6, 1.0):
            model, ref = policy(), policy()
            if kind == "none":
                model, ref = model.unload(), ref.unload()
                model.requires_grad_(True)
            t = trainer(DPOTrainer, model, {"discopop_tau": 0.05}, precompute_ref_logps=False, ld_alpha=None, f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5,
                        loss_types=["sigmoid"], loss_weights=[1.0], beta=0.5, label_smoothing=0.0, use_weighting=False)
            t.ref_model = ref
            o = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
            losses = []
            for step in range(8):
                o.zero_grad()
                loss = t._compute_loss(model, batch, False)
                loss.backward()
                o.step()
                losses.append(loss.item())
                if (step + 1) % 2 == 0:
                    SyncRefModelCallback._sync_target_model(model, ref, alpha)
            lines.append(json.dumps({"adapter": kind, "learning_rate": rate, "ref_model_mixup_alpha": alpha, "losses": losses}))
    return lines


def written():
    """The batch of golden/train/grpo, each answer with the advantage that the reward table two gives it."""
    golden, batch = json.load(open(GOLDEN + "/grpo/grpo.json")), load_file(GOLDEN + "/grpo/batch.safetensors")
    advantages = torch.tensor(next(a["advantages"] for a in golden["advantages"] if a["rewards"] == "two" and a["scale_rewards"] == "group"
                                   and a["aggregation"] == "sum_then_normalize" and not a.get("reward_weights")))
    return {k: batch[k].long() for k in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")} | {
        "advantages": advantages, "old_per_token_logps": batch["old_per_token_logps"], "num_items_in_batch": batch["completion_mask"].sum()}


def columns(rows, prompts):
    """Rows as the older trainers of pairs have them: ids, mask and labels without prompts."""
    return {"input_ids": pad(rows, PAD), "attention_mask": pad([[1] * len(r) for r in rows], 0), "labels": pad([[-100] * len(p) + r[len(p) :] for p, r in zip(prompts, rows)], -100)}


def steps_of():
    """Of every objective its model and a function that gives the loss of one step."""
    prompts, chosen, rejected = PAIRS["prompts"], PAIRS["chosen"], PAIRS["rejected"]
    rows = [p + a for p, a in zip(prompts * 2, chosen + rejected)]
    learned = pad([[0] * len(p) + [1] * len(a) for p, a in zip(prompts * 2, chosen + rejected)], 0)
    both = {"input_ids": pad(rows, PAD), "attention_mask": pad([[1] * len(r) for r in rows], 0), "completion_mask": learned}

    model = policy()
    t = trainer(DPOTrainer, model, {"discopop_tau": 0.05}, precompute_ref_logps=False, ld_alpha=None, f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5,
                loss_types=["sigmoid"], loss_weights=[1.0], beta=0.1, label_smoothing=0.0, use_weighting=False)
    yield "dpo", model, lambda: t._compute_loss(model, both, False)

    old = {"prompt_" + k: v for k, v in columns(prompts, [[]] * 3).items()}
    for name, answers in (("chosen_", chosen), ("rejected_", rejected)):
        old |= {name + k: v for k, v in columns([p + a for p, a in zip(prompts, answers)], prompts).items()}
    shape = {"is_encoder_decoder": False, "pad_token_id": PAD, "padding_value": PAD, "label_pad_token_id": -100, "aux_loss_coef": 0.0, "label_smoothing": 0.0}
    for name, cls, fields in (("cpo", CPOTrainer, {"loss_type": "sigmoid", "beta": 0.1, "cpo_alpha": 1.0, "alpha": 0.0}),
                              ("simpo", CPOTrainer, {"loss_type": "simpo", "beta": 2.0, "cpo_alpha": 0.0, "simpo_gamma": 0.5, "alpha": 0.0}), ("orpo", ORPOTrainer, {"beta": 0.1})):
        m = policy(False)
        o = trainer(cls, m, {}, **shape, **fields)
        yield name, m, lambda o=o, m=m: o.get_batch_loss_metrics(m, old)[0]

    kl = [p + a for p, a in zip(prompts * 2, PAIRS["kl_completions"])]
    marked = both | {"KL_input_ids": pad(kl, PAD), "KL_attention_mask": pad([[1] * len(r) for r in kl], 0), "label": torch.tensor([True] * 3 + [False] * 3),
                     "KL_completion_mask": pad([[0] * len(p) + [1] * len(a) for p, a in zip(prompts * 2, PAIRS["kl_completions"])], 0)}
    k = policy()
    kto = trainer(KTOTrainer, k, {}, loss_type="kto", calculate_KL=True, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0, precompute_ref_logps=False)
    yield "kto", k, lambda: kto._compute_loss(k, marked, False)

    def summed(m):  # of the answers of both
        return (m(**{key: both[key] for key in ("input_ids", "attention_mask")}).logits[:, :-1].log_softmax(-1).gather(2, both["input_ids"][:, 1:, None])[..., 0] * learned[:, 1:]).sum(1)

    b, before = policy(False), []  # TRL 1.16 has no BCO: the paper's formula
    with torch.no_grad(), b.disable_adapter():
        base = summed(b)

    def bco():
        reward = 0.1 * (summed(b) - base)
        before.append(reward.detach().mean())
        sign = torch.tensor([1.0] * 3 + [-1.0] * 3)
        return -torch.nn.functional.logsigmoid(sign * (reward - torch.stack(before).mean())).mean()

    yield "bco", b, bco

    head = load_file(GOLDEN + "/reward/grads.safetensors")["score.weight"]
    for name, args, margin in (("reward", None, False), ("reward centred", 0.01, True)):
        m = AutoModelForSequenceClassification.from_pretrained(GOLDEN + "/lora/base-llama", num_labels=1, attn_implementation="eager", dtype=torch.float32)
        m.config.pad_token_id = PAD
        m.score.weight.data = head.reshape(1, -1).clone()
        config = PeftConfig.from_pretrained(GOLDEN + "/lora/lora/adapter")
        config.task_type = None
        m = PeftModel.from_pretrained(m, GOLDEN + "/lora/lora/adapter", config=config, is_trainable=True).train()
        m.base_model.model.score.weight.requires_grad_(True)
        r = trainer(RewardTrainer, m, {"center_rewards_coefficient": args})
        inputs = {"input_ids": both["input_ids"], "attention_mask": both["attention_mask"]} | ({"margin": torch.tensor([0.5, 0.0, 1.5])} if margin else {})
        yield name, m, lambda r=r, m=m, inputs=inputs: r.compute_loss(m, dict(inputs))

    micro = json.load(open(GOLDEN + "/lora/batches.json"))["micro_batches"][3]
    micro = {k: torch.tensor(micro[k]) for k in ("input_ids", "labels", "attention_mask")}
    teacher = AutoModelForCausalLM.from_pretrained(GOLDEN + "/lora/base-llama", attn_implementation="eager", dtype=torch.float32)
    d = policy(False)
    gkd = trainer(GKDTrainer, d, {}, teacher_model=teacher, beta=0.5)
    yield "distill", d, lambda: gkd.compute_loss(d, micro)

    u = policy(False)  # the paper's formula: GOLD takes the mean of each sample first

    def ranked():
        said = micro["labels"][:, 1:] != -100
        of = lambda m: m(input_ids=micro["input_ids"], attention_mask=micro["attention_mask"]).logits[:, :-1][said].softmax(-1).sort(-1, descending=True).values
        with torch.no_grad():
            theirs = of(teacher)
        return (of(u) - theirs).abs().sum(-1).mean()

    yield "distill by ranks", u, ranked

    inputs = written()
    for loss in ("dapo", "grpo", "dr_grpo", "bnpo", "luspo", "cispo", "sapo", "vespo"):
        m = policy()
        args = {"report_to": [], "use_bias_correction_kl": False, "delta": None, "steps_per_generation": 1, "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05,
                "vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0}
        g = trainer(GRPOTrainer, m, args, top_entropy_quantile=1.0, off_policy_mask_threshold=None, beta=0.0, loss_type=loss, importance_sampling_level="token", epsilon_low=0.2,
                    epsilon_high=5.0 if loss == "cispo" else 0.2, use_vllm=False, vllm_importance_sampling_correction=False, current_gradient_accumulation_steps=1,
                    max_completion_length=24, entropy_coef=0.0, use_adaptive_entropy=False, _entropy_bonus_enabled=False)
        yield loss, m, lambda g=g, m=m: g._compute_loss(m, inputs)
    m = policy()
    rl = trainer(RLOOTrainer, m, {"report_to": []}, beta=0.0, epsilon_low=0.2, epsilon_high=0.2)
    answers = inputs | {"old_logps": (inputs["old_per_token_logps"] * inputs["completion_mask"]).sum(1)}
    yield "rloo", m, lambda: rl._compute_loss(m, answers)


def curves():
    """30 steps of AdamW on one batch: loss before each, and the norm of its gradient."""
    lines = []
    for name, model, loss_of in steps_of():
        trained = [p for p in model.parameters() if p.requires_grad]
        o = torch.optim.AdamW(trained, lr=3e-4, weight_decay=0.0)
        losses, norms = [], []
        for _ in range(30):
            o.zero_grad()
            loss = loss_of()
            loss.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(trained, 1.0).item())
            losses.append(loss.item())
            o.step()
        lines.append(json.dumps({"name": name, "losses": [round(x, 7) for x in losses], "norms": [float(f"{x:.6g}") for x in norms]}))
        print(name, losses[0], losses[-1], file=sys.stderr)
    return lines


def routers():
    """All weights of the Mixtral: cross entropy of a step and, for each of its micro-batches, the losses over the routers of all layers."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
    from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func
    micro = json.load(open(GOLDEN + "/lora/batches.json"))["micro_batches"][:2]
    model, lines = AutoModelForCausalLM.from_pretrained(GOLDEN + "/lora/base-mixtral", attn_implementation="eager", dtype=torch.float32).train(), []
    for aux, z in ((0.0, 0.1), (0.02, 0.03), (0.5, 0.0)):
        model.zero_grad()
        loss, tokens = 0.0, sum(v != -100 for m in micro for row in m["labels"] for v in row[1:])
        for m in micro:
            ids, labels, mask = (torch.tensor(m[key]) for key in ("input_ids", "labels", "attention_mask"))
            out = model(input_ids=ids, attention_mask=mask, output_router_logits=True)
            loss = loss + torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / tokens
            loss = loss + aux * load_balancing_loss_func(out.router_logits, model.config.num_local_experts, model.config.num_experts_per_tok, mask)
            loss = loss + z * router_z_loss_func(torch.cat([layer[mask.flatten().bool()] for layer in out.router_logits])[None])
        loss.backward()
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None))
        router = next(p for name, p in model.named_parameters() if name.endswith("layers.0.mlp.gate.weight"))
        lines.append(json.dumps({"router_aux_loss_coef": aux, "router_z_loss_coef": z, "loss": loss.item(), "grad_norm": norm.item(), "router": [float(f"{v:.7g}") for v in router.grad[0].tolist()]}))
    return lines


def top_k():
    """Divergence from a teacher's k likeliest tokens and all others as one outcome, in float64."""
    micro = json.load(open(GOLDEN + "/lora/batches.json"))["micro_batches"][3]
    ids, labels, mask = (torch.tensor(micro[key]) for key in ("input_ids", "labels", "attention_mask"))
    model, lines = policy(False).double(), []
    teacher = AutoModelForCausalLM.from_pretrained(GOLDEN + "/lora/base-llama", attn_implementation="eager", dtype=torch.float32).double()
    for k, beta, temperature in ((1, 0.0, 1.0), (5, 0.5, 0.7), (8, 1.0, 1.0), (40, 1.0, 0.7), (40, 0.0, 0.5), (40, 0.3, 2.0)):
        model.zero_grad()
        with torch.no_grad():
            q = teacher(input_ids=ids, attention_mask=mask).logits
        p, q = ((x[:, :-1][labels[:, 1:] != -100] / temperature).log_softmax(-1) for x in (model(input_ids=ids, attention_mask=mask).logits, q))
        at = q.topk(k).indices
        p, q = (torch.cat([x.gather(-1, at), torch.log1p(-x.gather(-1, at).exp().sum(-1, keepdim=True))], -1) for x in (p, q))
        kl = lambda a, b: (a.exp() * (a - b)).sum(-1)
        mixed = torch.log(beta * q.exp() + (1 - beta) * p.exp())
        loss = (kl(q, p) if beta == 0 else kl(p, q) if beta == 1 else beta * kl(q, mixed) + (1 - beta) * kl(p, mixed)).mean()
        loss.backward()
        norm = torch.sqrt(sum((x.grad ** 2).sum() for x in model.parameters() if x.grad is not None))
        lines.append(json.dumps({"loss_top_k": k, "beta": beta, "temperature": temperature, "loss": loss.item(), "grad_norm": norm.item()}))
    return lines


def main():
    torch.set_num_threads(1)
    if sys.argv[2:]:
        lines = {"grpo": grpo, "rloo": rloo, "entropy": entropy, "sync": sync, "curves": curves, "routers": routers, "top_k": top_k}[sys.argv[2]]()
        print("[\n" + ",\n".join(lines) + "\n]")
        return
    model, lines = policy(), []
    for c in configs():
        model.zero_grad()
        loss = loss_of(c, model)
        loss.backward()
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None))
        lines.append(json.dumps({"config": c, "loss": loss.item(), "grad_norm": norm.item()}))
    print("[\n" + ",\n".join(lines) + "\n]")


main()
