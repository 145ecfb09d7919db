"""Writes classes.json: what Transformers 5.23.0 and PEFT compute of tiny models of classes without a case in golden/arch.

    OMP_NUM_THREADS=1 python3 -B classes.py [NAME ...]

With names only those are made again. A model is saved by its class, its tensors are filled from their names in the folder as variants.py does it, and it is
loaded again. "logits" are those behind the last token, every sixteenth; "greedy" is text with a cache; "grads" are of the mean cross-entropy of the next
tokens, in the names of Transformers: the root of the sum of squares and the first two elements; "lora" are logits with an adapter of rank 2, alpha 4 on the
linear maps of the text's layers, whose weights follow from their names in PEFT's file, too, and of each module's A and B gradients of the same loss. An
encoder reads SOURCE, and its decoder predicts the tokens. "tensors" are those of the folder, but of other parts than the
text's one of each.
"""
import copy
import json
import pathlib
import re
import sys
import tempfile

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

from variants import IDS, made

SEES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
CLIP = {**SEES, "model_type": "clip_vision_model", "projection_dim": 16}
SIGLIP = {**SEES, "model_type": "siglip_vision_model"}
TEXT = {"vocab_size": 256, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {**TEXT, "model_type": "llama"}
LATENT = {**{k: v for k, v in TEXT.items() if k != "num_key_value_heads"}, "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 12}
SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
DEEP = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 48, "patch_size": 4, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
STACK = {**TEXT, "head_dim": 16, "sliding_window": 3, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 6.0}
SOURCE = [33, 7, 250, 9, 9, 77, 140, 21, 60, 5, 1]  # what an encoder reads
GLM_SEES = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "image_size": 8, "patch_size": 4, "out_hidden_size": 48}
CLASSES = {
    "glm": ("GlmForCausalLM", {**TEXT, "head_dim": 16}),
    "glm even": ("GlmForCausalLM", {**TEXT, "head_dim": 12, "partial_rotary_factor": 0.34, "attention_bias": False}),  # whose heads are the width over their number
    "helium": ("HeliumForCausalLM", {**TEXT, "head_dim": 12, "attention_bias": True, "mlp_bias": True}),
    "cwm": ("CwmForCausalLM", {**TEXT, "head_dim": 16, "num_hidden_layers": 3, "sliding_window": 5}),
    "youtu": ("YoutuForCausalLM", {k: v for k, v in LATENT.items() if k != "pad_token_id"}),
    "granitemoeshared": ("GraniteMoeSharedForCausalLM", {**TEXT, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 40, "embedding_multiplier": 3.0,
                                                         "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2}),
    "llava": ("LlavaForConditionalGeneration", {"text_config": LLAMA, "vision_config": CLIP, "image_token_index": 9}),
    "llava mistral": ("LlavaForConditionalGeneration", {"text_config": {**TEXT, "model_type": "mistral", "head_dim": 16, "sliding_window": 4},
                                                        "vision_config": {**SEES, "model_type": "pixtral"}, "image_token_index": 9}),
    "llava_next": ("LlavaNextForConditionalGeneration", {"text_config": {**TEXT, "model_type": "granite", "embedding_multiplier": 2.0}, "vision_config": SIGLIP, "image_token_index": 9, "tie_word_embeddings": True}),
    "llava_next_video": ("LlavaNextVideoForConditionalGeneration", {"text_config": LLAMA, "vision_config": CLIP}),
    "llava_onevision": ("LlavaOnevisionForConditionalGeneration", {"text_config": {**TEXT, "model_type": "qwen2"}, "vision_config": SIGLIP, "image_token_index": 9, "video_token_index": 10}),
    "vipllava": ("VipLlavaForConditionalGeneration", {"text_config": LLAMA, "vision_config": CLIP, "vision_feature_layers": [-1]}),
    "video_llava": ("VideoLlavaForConditionalGeneration", {"text_config": LLAMA, "vision_config": CLIP}),
    "internvl": ("InternVLForConditionalGeneration", {"text_config": {**TEXT, "model_type": "qwen3", "head_dim": 16}, "vision_config": {**SEES, "image_size": [8, 8], "patch_size": [4, 4]}, "tie_word_embeddings": False}),
    "aya_vision": ("AyaVisionForConditionalGeneration", {"text_config": {**TEXT, "model_type": "cohere2", "sliding_window": 4, "sliding_window_pattern": 2}, "vision_config": SIGLIP}),
    "cohere2_vision": ("Cohere2VisionForConditionalGeneration", {"text_config": {**TEXT, "model_type": "cohere2", "sliding_window": 4}, "vision_config": SIGLIP, "alignment_intermediate_size": 32}),
    "got_ocr2": ("GotOcr2ForConditionalGeneration", {"text_config": {**TEXT, "model_type": "qwen2"}, "vision_config": {"hidden_size": 16, "output_channels": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
                                                                                                                      "patch_size": 4, "window_size": 2, "global_attn_indexes": [0], "mlp_dim": 16}}),
    "idefics2": ("Idefics2ForConditionalGeneration", {"text_config": {**TEXT, "model_type": "mistral"}, "vision_config": {**SEES, "model_type": "idefics2_vision"},
                                                      "perceiver_config": {"resampler_n_latents": 2, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 8, "num_key_value_heads": 2}}),
    "idefics3": ("Idefics3ForConditionalGeneration", {"text_config": LLAMA, "vision_config": {**SEES, "model_type": "idefics3_vision"}}),
    "smolvlm": ("SmolVLMForConditionalGeneration", {"text_config": LLAMA, "vision_config": {**SEES, "model_type": "smolvlm_vision"}}),
    "lighton_ocr": ("LightOnOcrForConditionalGeneration", {"text_config": {**TEXT, "model_type": "qwen3", "head_dim": 16}, "vision_config": {**SEES, "model_type": "pixtral"}}),
    "lfm2_vl": ("Lfm2VlForConditionalGeneration", {"text_config": {**TEXT, "model_type": "lfm2", "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}, "vision_config": {**SEES, "model_type": "siglip2_vision_model", "num_patches": 4}}),
    "deepseek_vl": ("DeepseekVLForConditionalGeneration", {"text_config": LLAMA, "vision_config": SIGLIP, "tie_word_embeddings": False}),
    "exaone4_5": ("Exaone4_5_ForConditionalGeneration", {"text_config": {**TEXT, "model_type": "exaone4", "sliding_window": 4}, "vision_config": {k: v for k, v in DEEP.items() if k not in ("deepstack_visual_indexes", "num_position_embeddings")}}),
    "llama4": ("Llama4ForConditionalGeneration", {"text_config": {**TEXT, "model_type": "llama4_text", "head_dim": 12, "intermediate_size_mlp": 64, "num_local_experts": 4, "num_hidden_layers": 4, "attention_chunk_size": 4, "floor_scale": 4},
                                                  "vision_config": {**SEES, "model_type": "llama4_vision_model", "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}}),
    "voxtral": ("VoxtralForConditionalGeneration", {"text_config": LLAMA, "audio_config": {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_mel_bins": 8, "max_source_positions": 16}}),
    "qwen2_audio": ("Qwen2AudioForConditionalGeneration", {"text_config": {**TEXT, "model_type": "qwen2"}, "audio_config": {"d_model": 16, "encoder_ffn_dim": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "num_mel_bins": 8, "max_source_positions": 16}}),
    "granite_speech": ("GraniteSpeechForConditionalGeneration", {"text_config": {**TEXT, "model_type": "granite", "logits_scaling": 2.0}, "has_lora_adapter": False, "tie_word_embeddings": False,
                       "encoder_config": {"input_dim": 8, "num_layers": 2, "hidden_dim": 16, "feedforward_mult": 1, "num_heads": 2, "dim_head": 8, "output_dim": 8, "context_size": 8, "max_pos_emb": 8},
                       "projector_config": {"model_type": "blip_2_qformer", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "encoder_hidden_size": 16, "vocab_size": 8}}),
    "janus": ("JanusForConditionalGeneration", {"text_config": LLAMA, "vision_config": {**SEES, "model_type": "janus_vision_model", "projection_dim": 48}, "tie_word_embeddings": False,
                                                "vq_config": {"embed_dim": 8, "num_embeddings": 8, "latent_channels": 8, "base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "num_patches": 2, "projection_dim": 48, "image_token_embed_dim": 48}}),
    "ovis2": ("Ovis2ForConditionalGeneration", {"text_config": {**TEXT, "model_type": "qwen2"}, "vision_config": {**SEES, "vocab_size": 16, "num_visual_indicator_tokens": 5}, "hidden_size": 48, "vocab_size": 256, "tie_word_embeddings": False,
                                                "image_token_id": 9, "visual_indicator_token_ids": [11, 12, 13, 14, 15]}),
    "video_llama_3": ("VideoLlama3ForConditionalGeneration", {"text_config": {**TEXT, "model_type": "qwen2"}, "vision_config": SEES}),
    "qwen3_asr": ("Qwen3ASRForConditionalGeneration", {"text_config": {**TEXT, "model_type": "qwen3", "head_dim": 16}, "tie_word_embeddings": True,
                  "audio_config": {"d_model": 16, "encoder_ffn_dim": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "num_mel_bins": 8, "max_source_positions": 16, "downsample_hidden_size": 8, "output_dim": 48}}),
    "glmasr": ("GlmAsrForConditionalGeneration", {"text_config": LLAMA, "audio_config": {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_mel_bins": 8}, "tie_word_embeddings": False}),
    "audioflamingo3": ("AudioFlamingo3ForConditionalGeneration", {"text_config": {**TEXT, "model_type": "qwen2"}, "audio_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_mel_bins": 8, "max_source_positions": 16}}),
    "qwen3_vl": ("Qwen3VLForConditionalGeneration", {"text_config": {**TEXT, "head_dim": 12, "rope_parameters": {**SECTIONS, "mrope_interleaved": True}}, "vision_config": DEEP}),
    "glm4v": ("Glm4vForConditionalGeneration", {"text_config": {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 1]}}, "vision_config": GLM_SEES}),
    "glm46v": ("Glm46VForConditionalGeneration", {"text_config": {**TEXT, "model_type": "glm4v_text", "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}}, "vision_config": {**GLM_SEES, "model_type": "glm4v_vision"}}),
    "glm4v_moe": ("Glm4vMoeForConditionalGeneration", {"text_config": {**TEXT, "head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "n_shared_experts": 1, "routed_scaling_factor": 1.5,
                                                                   "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}}, "vision_config": GLM_SEES}),
    "umt5": ("UMT5ForConditionalGeneration", {"vocab_size": 256, "d_model": 48, "d_kv": 12, "d_ff": 64, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 128}),
    "t5gemma": ("T5GemmaForConditionalGeneration", {"encoder": {**STACK, "num_hidden_layers": 2}, "decoder": {**STACK, "num_hidden_layers": 3, "intermediate_size": 80}, "vocab_size": 256}),
    "qwen3_vl_moe": ("Qwen3VLMoeForConditionalGeneration", {"text_config": {**TEXT, "head_dim": 12, "rope_parameters": {**SECTIONS, "mrope_interleaved": True}, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}, "vision_config": DEEP}),
}
CLASSES |= {
    "olmoe clip": ("OlmoeForCausalLM", {**TEXT, "num_experts": 4, "num_experts_per_tok": 2, "clip_qkv": 0.7}),
    "afmoe biases": ("AfmoeForCausalLM", {**TEXT, "head_dim": 12, "attention_bias": True, "sliding_window": 4, "num_dense_layers": 1, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                                          "num_shared_experts": 1, "mup_enabled": True, "global_attn_every_n_layers": 2, "score_func": "sigmoid", "route_norm": True}),
    "cohere2_moe biases": ("Cohere2MoeForCausalLM", {**TEXT, "head_dim": 12, "attention_bias": True, "sliding_window": 4, "sliding_window_pattern": 2, "num_experts": 4, "num_experts_per_tok": 2,
                                                     "num_shared_experts": 1, "first_k_dense_replace": 0, "tie_word_embeddings": True}),
    "bloom normed": ("BloomForCausalLM", {"vocab_size": 256, "hidden_size": 48, "n_layer": 2, "n_head": 4, "apply_residual_connection_post_layernorm": True, "pad_token_id": 0}),
    "llama4 two": ("Llama4ForCausalLM", {**TEXT, "head_dim": 16, "intermediate_size": 24, "intermediate_size_mlp": 40, "num_local_experts": 4, "num_experts_per_tok": 2, "interleave_moe_layer_step": 1,
                                         "attention_chunk_size": 8192, "num_hidden_layers": 4}),
}
CLASSES |= {
    "kimi_k25": ("Kimi_K25ForConditionalGeneration", {"text_config": {**LATENT, "model_type": "deepseek_v3", "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 24,
                                                                      "n_shared_experts": 1, "first_k_dense_replace": 1},
                                                      "vision_config": {**SEES, "pos_emb_height": 2, "pos_emb_width": 2, "pos_emb_time": 1}, "projection_hidden_size": 16, "tie_word_embeddings": False}),
    "qianfan_ocr": ("QianfanOCRForConditionalGeneration", {"text_config": {**TEXT, "model_type": "qwen3", "head_dim": 16}, "vision_config": {**SEES, "image_size": [8, 8], "patch_size": [4, 4]}}),
    "deepseek_vl_hybrid": ("DeepseekVLHybridForConditionalGeneration", {"text_config": LLAMA, "vision_config": SIGLIP, "tie_word_embeddings": False,
                                                                        "high_res_vision_config": {"model_type": "sam_vision_model", "hidden_size": 16, "output_channels": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
                                                                                                   "patch_size": 4, "window_size": 2, "global_attn_indexes": [0], "mlp_dim": 16}}),
}
PARTS = re.compile(r"^(model\.[a-z_]+\.|[a-z_]+[.\d]?)")


def part(name):
    return PARTS.match(name).group()


def text_of(model):
    """The names of parameters that belong to the half that reads text begin with one of these."""
    return [n for n, _ in model.named_modules() if n.split(".")[-1] in ("language_model", "text_model")] + ["lm_head"] if getattr(model.config, "text_config", None) else [""]


def spaced(x):
    return [float(f"{v:.6g}") for v in x[::16].tolist()]


def numbers(g):
    return [float(f"{v:.6g}") for v in [g.double().norm().item(), *g.flatten()[:2].tolist()]]


def filled(name, shape):
    """Queries of T5 are small, as in its own first values: nothing divides its scores, and large ones make float32's noise large."""
    return made(name, shape) * (0.25 if name.endswith("Attention.q.weight") else 1)


def measured(cls_name, config):
    cls = getattr(transformers, cls_name)
    with tempfile.TemporaryDirectory() as d:
        cls(cls.config_class(**copy.deepcopy(config))).save_pretrained(d)
        path = pathlib.Path(d, "model.safetensors")
        saved = {re.sub(r"^(language_model\.model\.)(blocks|encoder\.layers)\.", r"\1layers.", k): v for k, v in load_file(path).items()}  # as published; 5.23 saves some halves as it does what sees
        save_file({k: filled(k, v.shape) if v.is_floating_point() else v for k, v in saved.items()}, path, {"format": "pt"})
        m = cls.from_pretrained(d, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
        out = {"config": json.loads(pathlib.Path(d, "config.json").read_text())}
    halves = text_of(m)
    ids = torch.tensor([IDS])
    given, prompt, skipped, first = {"input_ids": ids}, ids, len(IDS), 1
    if m.config.is_encoder_decoder:
        start = m.generation_config.decoder_start_token_id
        start = m.config.decoder.bos_token_id if start is None else start
        out["source"], prompt, skipped, first = SOURCE, torch.tensor([SOURCE]), 1, 0
        given = {"input_ids": prompt, "decoder_input_ids": torch.tensor([[start, *IDS[:-1]]])}

    def loss(model):
        logits = model(**given, use_cache=False).logits
        (torch.nn.functional.cross_entropy(logits[0, :len(IDS) - first], ids[0, first:])).backward()

    if "source" in out:  # through two stacks float32 is off by more than the rest
        m = m.double()
    with torch.no_grad():
        out["logits"] = spaced(m(**given, use_cache=False).logits[0, -1])
        more = {"decoder_start_token_id": start} if m.config.is_encoder_decoder else {}
        text = m.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, min_new_tokens=8, do_sample=False, eos_token_id=None, **more)
        out["greedy"] = text[0, skipped:].tolist()
    loss(m)
    grads = {n: p.grad for n, p in m.named_parameters() if p.grad is not None and n.startswith(tuple(halves))}
    out["grads"] = {n: numbers(g) for n, g in grads.items() if re.search(r"(layers|\bh|block)\.1\.|norm\.weight|lm_head" + ("|embed_tokens|shared" if "source" in out else ""), n)}
    out["tensors"], parts = {}, set()
    for name, v in saved.items():
        other = halves != [""] and not name.startswith(("language_model.", "model.language_model.", "model.text_model.", "lm_head"))
        if not other or part(name) not in parts:
            out["tensors"][name] = list(v.shape)
        parts.add(part(name))
    linear = [n for n, x in m.named_modules() if isinstance(x, torch.nn.Linear) and re.search(r"(layers\.\d+|\bh\.\d+|block\.\d+\.layer\.\d)\.(SelfAttention|EncDecAttention|DenseReluDense|cross_attn|self_attn|self_attention|mlp|shared_mlp|feed_forward)\b(?!\.gate$|\.router$)", n) and n.startswith(tuple(halves))]
    if any(".mlp.experts" in n for n, _ in m.named_modules()):  # whose names PEFT takes for those of experts
        linear = [n for n in linear if ".mlp." not in n and not n.endswith(".gate_proj")]
    m.zero_grad()
    p = peft.get_peft_model(m, peft.LoraConfig(r=2, lora_alpha=4, target_modules=linear)).eval()
    state = {k: (0.3 * made(k, v.shape)).to(m.dtype) for k, v in peft.get_peft_model_state_dict(p).items()}
    peft.set_peft_model_state_dict(p, state)
    with torch.no_grad():
        out["lora"] = {"modules": linear, "logits": spaced(p(**given, use_cache=False).logits[0, -1])}
    loss(p)
    by = dict(p.named_parameters())
    out["lora"]["grads"] = [sum((numbers(by[f"base_model.model.{n}.lora_{x}.default.weight"].grad) for x in "AB"), []) for n in linear]
    return out


transformers.logging.set_verbosity_error()
path = pathlib.Path(__file__).with_suffix(".json")
have = json.loads(path.read_text()) if path.exists() else {}
for name in sys.argv[1:] or CLASSES:
    try:
        have[name] = measured(*CLASSES[name])
        print(name, have[name]["logits"][:3], flush=True)
    except Exception as e:
        print(name, type(e).__name__, str(e)[:300], flush=True)
    path.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(have[k], separators=(',', ':'))}" for k in CLASSES if k in have) + "\n}\n")
