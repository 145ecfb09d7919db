"""Small quantized weights as other programs store them, and what they mean.

    uv pip install torch==2.15.0 safetensors==0.8.0 transformers==5.23.0 compressed-tensors==0.20.1 auto-round==0.16.1
    python3 -B make.py   # writes cases.json and arrays.safetensors beside it

compressed-tensors and AutoRound store and decode the weights themselves. What needs a GPU, or a model around it, is stored by numpy in the layout that the
program's documentation or source states: GPTQModel (words of 8, 16 and 64 bits; FP8 divided by its scales), Transformers' fp8 and mxfp8, DeepSeek V4's experts, Quark, ModelOpt.
cases.json: for each case the quantization_config, and SHA-256 of the decoded weight in little-endian F32, with its first values; rounded is the type that the program decodes to.
"""
import hashlib
import json
import pathlib

import compressed_tensors
import numpy as np
import torch
from auto_round.data_type.nvfp import e5m3_to_float_tensor
from auto_round.experimental.qmodules.fp4_utils import unpack_fp4_from_uint8
from auto_round.experimental.qmodules.mx import get_fp_scale
from auto_round.experimental.qmodules.mxint4_utils import unpack_int4_from_uint8
from auto_round.utils.bit_packing import unpack_bitstream
from auto_round_extension.torch.qlinear_torch import QuantLinear as PlainZeros
from auto_round_extension.torch.qlinear_torch_zp import QuantLinear as LessOne
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

HERE = pathlib.Path(__file__).parent
MODULE = "model.layers.0.q"
E4M3, E8M0 = torch.float8_e4m3fn, torch.float8_e8m0fnu
torch.manual_seed(0)
arrays, cases = {}, {}


def case(name, config, tensors, want):
    for k, v in tensors.items():
        arrays[f"{name}/{MODULE}.{k}"] = v.contiguous().clone()
    rounded, want = str(want.dtype).removeprefix("torch."), want.float().contiguous()
    cases[name] = {"config": config, "rounded": rounded, "shape": list(want.shape), "sha256": hashlib.sha256(want.numpy().tobytes()).hexdigest(), "first": want.flatten()[:4].tolist()}


def spread(scales, rows, cols):
    """One scale for every element of a matrix, of a grid of scales."""
    r, c = -(-rows // scales.shape[0]), -(-cols // scales.shape[1])
    return scales.repeat_interleave(r, 0).repeat_interleave(c, 1)[:rows, :cols]


# compressed-tensors
def extremes(w, a):
    rows, cols = w.shape
    if a.strategy == "tensor":
        return w.min().reshape(1), w.max().reshape(1)
    if a.strategy == "channel":
        return w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    if a.strategy == "block":
        h, b = a.block_structure
        p = torch.zeros(-(-rows // h) * h, -(-cols // b) * b)
        p[:rows, :cols] = w
        p = p.view(p.shape[0] // h, h, p.shape[1] // b, b)
        return p.amin((1, 3)), p.amax((1, 3))
    g = w.view(rows, -1, a.group_size)
    return g.amin(-1), g.amax(-1)


def ct(name, shape=(16, 64), other=None, **args):
    w = torch.randn(shape) * 0.1
    a = QuantizationArgs(**args)
    s = QuantizationScheme(targets=["Linear"], weights=a)
    if name.startswith(("int8", "fp8")):
        s.input_activations = QuantizationArgs(num_bits=8, type=a.type, strategy="token", dynamic=True)
    s.format = infer_module_format(torch.nn.Linear, s).value
    g = generate_gparam(w.min(), w.max()) if a.strategy == "tensor_group" else None
    scale, zero = calculate_qparams(*extremes(w, a), a, global_scale=g)
    state = {"weight": w, "weight_scale": scale}
    if g is not None:
        state["weight_global_scale"] = g.reshape(1)
    if not a.symmetric:
        state["weight_zero_point"] = zero
    program = BaseCompressor.get_value_from_registry(s.format)
    stored = program.compress(state, s)
    config = QuantizationConfig(config_groups={"group_0": s}, format=s.format, ignore=["lm_head"], quantization_status="compressed").model_dump(mode="json")
    config["version"] = compressed_tensors.__version__  # as ModelCompressor adds it
    if other:
        config["config_groups"] = {"group_0": other, "group_1": config["config_groups"]["group_0"]}
    case(name, config, stored, program.decompress(dict(stored), s)["weight"])


for bits in (1, 2, 3, 5, 6, 7):
    ct(f"pack{bits}", num_bits=bits, strategy="group", group_size=32)
    ct(f"pack{bits}-asym", num_bits=bits, symmetric=False, strategy="channel", shape=(13, 37))
ct("pack4-tensor", num_bits=4, strategy="tensor")
ct("pack8-tensor-asym", num_bits=8, symmetric=False, strategy="tensor")
ct("int8-tensor", num_bits=8, strategy="tensor")
ct("int8-tensor-asym", num_bits=8, symmetric=False, strategy="tensor", shape=(13, 37))
ct("int8-block", num_bits=8, strategy="block", block_structure=[8, 32], shape=(20, 80))
ct("fp8-group", num_bits=8, type="float", strategy="group", group_size=32)
ct("fp8-block-second-group", num_bits=8, type="float", strategy="block", block_structure=[8, 32], shape=(20, 80),
   other={"targets": ["re:.*mlp.*"], "weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}})
ct("nvfp4-48", num_bits=4, type="float", strategy="tensor_group", group_size=16, scale_dtype=E4M3, shape=(8, 48))
ct("mxfp6", num_bits=6, type="float", strategy="group", group_size=32, scale_dtype=torch.uint8)

# compressed-tensors before actorder "group" was removed: column i has the scale of group weight_g_idx[i]
q, s, order = torch.randint(-8, 8, (16, 64)), torch.rand(16, 2), torch.randperm(64)
g_idx = torch.empty(64, dtype=torch.int32)
g_idx[order] = (torch.arange(64) // 32).int()
words = sum((q[:, i::8] + 8) << (4 * i) for i in range(8)).to(torch.uint32).view(torch.int32)
config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
    "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "actorder": "group"}}}}
case("pack4-actorder", config, {"weight_packed": words, "weight_scale": s, "weight_shape": torch.tensor([16, 64]), "weight_g_idx": g_idx}, q * s[:, g_idx.long()])


# AutoRound
def autoround(name, program, bits, packing, sym=False, base=None, extra=None):
    rows, cols, group = 32, 64, 32
    w = torch.randn(rows, cols) * 0.1 + (0 if sym else 0.05)
    scale, zero = calculate_qparams(w.view(rows, -1, group).amin(-1), w.view(rows, -1, group).amax(-1), QuantizationArgs(num_bits=bits, symmetric=sym, strategy="group", group_size=group))
    zero = (zero + 2 ** (bits - 1)).clamp(1).float()
    linear = torch.nn.Linear(cols, rows, bias=False)
    linear.weight.data = (torch.round(w / spread(scale, rows, cols) + spread(zero, rows, cols)).clamp(0, 2**bits - 1) - spread(zero, rows, cols)) * spread(scale, rows, cols)
    x = program(bits, group, cols, rows, bias=False)
    x.device = "cpu"
    x.pack(linear, scale, zero, None, device="cpu")
    zeros = unpack_bitstream(x.qzeros, bits, dim=1) + (program is LessOne)
    index = torch.arange(cols) // group
    want = ((unpack_bitstream(x.qweight, bits, dim=0) - zeros[index]).float() * x.scales.float()[index]).T
    config = {"quant_method": "auto-round", "bits": bits, "group_size": group, "sym": sym, "data_type": "int", "packing_format": packing, **(base or {})}
    if extra:
        config["extra_config"] = extra
    case(name, config, x.state_dict(), want)


for bits in (2, 3, 4, 5, 6, 7, 8):
    autoround(f"auto-round-{bits}", PlainZeros, bits, "auto_round")
    autoround(f"auto-round-{bits}-gptq", LessOne, bits, "auto_round:auto_gptq")
autoround("auto-round-gptqmodel", PlainZeros, 4, "auto_round:gptqmodel")
autoround("auto-round-sym", LessOne, 4, "auto_round:auto_gptq", sym=True)
other, own = {"bits": 4, "group_size": 128, "sym": True}, {"bits": 8, "group_size": 32, "sym": False}
autoround("auto-round-extra", PlainZeros, 8, "auto_round", base=other, extra={"lm_head": {"bits": 16}, MODULE: own})
autoround("auto-round-extra-regex", PlainZeros, 8, "auto_round", base=other, extra={"mlp": {"bits": 2}, r".*layers\.\d+\.q.*": own, "layers": {"bits": 3}})


# GPTQModel
def gptq(name, bits, word, v2, config={}):
    rows, cols, group = 64, 64, 32
    q, zero, scale = torch.randint(0, 2**bits, (rows, cols)), torch.randint(0, 2**bits, (rows, 2)), (torch.rand(rows, 2) * 0.1).half()
    kind = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}[word]

    def pack(codes):  # along the first dimension
        per = word // bits
        return sum(codes[i::per].astype(kind) << kind(bits * i) for i in range(per)).astype(kind)

    zeros = np.ascontiguousarray(pack(zero.numpy()).T)
    if not v2:
        zeros -= kind(sum(1 << (bits * i) for i in range(word // bits)))
    signed = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}[word]
    stored = {"qweight": torch.from_numpy(pack(q.numpy().T).view(signed)), "qzeros": torch.from_numpy(zeros.view(signed)), "scales": scale.T}
    index = torch.arange(cols) // group
    base = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": False, "desc_act": False, "checkpoint_format": "gptq_v2" if v2 else "gptq", "pack_dtype": f"int{word}"}
    case(name, {**base, **config}, stored, (q - zero[:, index]) * scale.float()[:, index])


for word in (8, 16, 64):
    for bits in (2, 4, 8):
        gptq(f"gptq-{bits}-int{word}", bits, word, False)
    gptq(f"gptq-4-int{word}-v2", 4, word, True)
gptq("gptq-dynamic", 8, 32, False, {"bits": 4, "group_size": 128, "sym": True, "dynamic": {r"-:^(?!x).*mlp.*": {}, r"+:.*\.q$": {"bits": 8, "group_size": 32, "sym": False}}})

w = torch.randn(16, 64)
for method, scale in (("tensor", 448 / w.abs().amax().reshape(1, 1)), ("row", 448 / w.abs().amax(1, keepdim=True)), ("block", 448 / w.view(2, 8, 2, 32).abs().amax((1, 3)))):
    q, full = (w * spread(scale, 16, 64)).to(E4M3), spread(scale, 16, 64)
    stored = scale if method == "block" else scale.squeeze()
    config = {"quant_method": "fp8", "format": "float8_e4m3fn", "weight_scale_method": method, "weight_scale_semantics": "inverse", "weight_block_size": [8, 32] if method == "block" else None}
    case(f"gptqmodel-fp8-{method}", config, {"weight": q, "weight_scale_inv": stored}, q.float() / full)

# Transformers, DeepSeek, Quark
power = torch.exp2(torch.randint(-6, 2, (16, 2)).float())
byte = (torch.log2(power) + 127).to(torch.uint8)
q = (w / spread(power, 16, 64)).clamp(-448, 448).to(E4M3)
case("mxfp8", {"quant_method": "mxfp8", "weight_block_size": [1, 32]}, {"weight": q, "weight_scale_inv": byte}, q.float() * spread(power, 16, 64))
table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
codes = torch.randint(0, 16, (16, 64))
packed, want = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8), table[codes] * spread(power, 16, 64)
v4 = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0", "expert_dtype": "fp4"}
case("deepseek-v4-fp4", v4, {"weight": packed.view(torch.int8), "scale": power.to(E8M0)}, want)
case("transformers-fp4", v4, {"weight": packed.view(torch.int8), "weight_scale_inv": power.to(E8M0)}, want)
case("quark-mxfp4", {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4"}}}, {"weight": packed, "weight_scale": byte}, want)

# AutoRound's codes in bytes, decoded by its own functions
def packed_bytes(name, data_type, group, unpack, scale, extra=None):
    codes, scales = torch.randint(0, 256, (16, 32), dtype=torch.uint8), torch.randint(90, 160, (16, 64 // group), dtype=torch.uint8)
    config = {"quant_method": "auto-round", "bits": 4, "group_size": group, "sym": True, "act_bits": 16, "data_type": data_type, "packing_format": "auto_round"}
    if extra:
        config |= {"data_type": "mx_fp", "extra_config": extra}
    case(name, config, {"weight_packed": codes, "weight_scale": scales}, unpack(codes, 16, 64, dtype=torch.float32) * scale(scales).repeat_interleave(group, 1))


packed_bytes("auto-round-mxint4", "mx_int", 32, unpack_int4_from_uint8, get_fp_scale)
packed_bytes("auto-round-mxfp4", "mx_fp", 32, unpack_fp4_from_uint8, get_fp_scale)
packed_bytes("auto-round-mixed", "mx_int", 32, unpack_int4_from_uint8, get_fp_scale, extra={MODULE: {"data_type": "mx_int4"}})
packed_bytes("auto-round-e5m3", "nvfp4_v2", 16, unpack_fp4_from_uint8, e5m3_to_float_tensor)
packed_bytes("auto-round-e5m3-32", "nvfp4_v2", 32, unpack_fp4_from_uint8, e5m3_to_float_tensor)

# Blocks of other sizes: Quark's, and ModelOpt's with four dimensions
w, scale = torch.randn(192, 16), torch.rand(2, 1)
q = (w / spread(scale, 192, 16)).clamp(-448, 448).to(E4M3)
entry = {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_block", "block_size": [96, 16], "ch_axis": None, "group_size": None, "symmetric": True}}
base = {"global_quant_config": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}, "layer_quant_config": {"*.k": {"weight": {"qscheme": "per_tensor"}}, "*layers.[!1].q": entry}}
case("quark-blocks", {"quant_method": "quark", **base}, {"weight": q, "weight_scale": scale}, q.float() * spread(scale, 192, 16))
full = scale.repeat_interleave(128, 0)[:160]
q = (w[:160] / full).clamp(-448, 448).to(E4M3)
case("modelopt-blocks", {"quant_method": "modelopt", "quant_algo": "fp8_pb_wo", "ignore": ["lm_head"]}, {"weight": q, "weight_scale": scale.view(2, 1, 1, 1)}, q.float() * full)
case("modelopt-mxfp4", {"quant_method": "modelopt", "quantization": {"quant_algo": "W4A8_MXFP4_FP8", "group_size": 32}}, {"weight": packed, "weight_scale": byte}, want)

# Transformers' fp8 by blocks, decoded by its own function, and FBGEMM's by rows
w, scale = torch.randn(16, 64), torch.rand(2, 4)
q = (w / spread(scale, 16, 64)).clamp(-448, 448).to(E4M3)
fine = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [8, 16], "modules_to_not_convert": ["lm_head"]}
case("fp8-fine-grained", fine, {"weight": q, "weight_scale_inv": scale}, Fp8Dequantize(None)._dequantize_one(q, scale, torch.float32))
scale = w.abs().amax(1, keepdim=True) / 448
q = (w / scale).clamp(-448, 448).to(E4M3)
fbgemm = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]}
case("fbgemm-fp8", fbgemm, {"weight": q, "weight_scale": scale, "input_scale_ub": torch.tensor([1200.0])}, q.float() * scale)

save_file(arrays, HERE / "arrays.safetensors")
(HERE / "cases.json").write_text(json.dumps(cases, indent=0) + "\n")
