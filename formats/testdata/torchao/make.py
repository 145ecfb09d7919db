"""Small quantized weights as torchao and HQQ store them, and what they mean.

    uv pip install torch==2.15.0 torchao==0.18.0 safetensors==0.8.0 hqq==0.2.8.post1 termcolor==3.3.0 numpy
    python3 -B make.py   # writes cases.json and arrays.safetensors beside it

torchao and HQQ store and decode the weights themselves, but for two classes that need a GPU: Int4Tensor and Int4TilePackedTo4dTensor are packed by numpy in the layout
that torchao and PyTorch (aten/src/ATen/native/cuda/int4mm.cu) state, and decoded with one rounding, as the kernel's fma is. Swizzled scales are torchao's own.
cases.json: for each case the quantization_config, __metadata__, and SHA-256 of the decoded weight in little-endian F32, with its first values.
"""
import hashlib
import json
import pathlib

import numpy as np
import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from safetensors.torch import save_file
from torchao.prototype.mx_formats.mx_tensor import MXTensor, QuantizeTensorToMXKwargs
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
from torchao.prototype.mx_formats.utils import to_blocked
from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
from torchao.quantization import Float8Tensor, Int4Tensor, Int4TilePackedTo4dTensor, Int8Tensor, IntxUnpackedToInt8Tensor, MappingType
from torchao.quantization.granularity import PerBlock, PerGroup, PerRow, PerTensor
from torchao.quantization.quantize_.workflows import QuantizeTensorToFloat8Kwargs, QuantizeTensorToInt8Kwargs

HERE = pathlib.Path(__file__).parent
MODULE = "model.layers.0.q"
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
torch.manual_seed(0)
arrays, cases = {}, {}


def case(name, config, tensors, metadata, want):
    for k, v in tensors.items():
        arrays[f"{name}/{k}"] = v.contiguous().clone()
    rounded, want = str(want.dtype).removeprefix("torch."), want.float().contiguous()
    cases[name] = {"config": config, "metadata": metadata, "rounded": rounded, "shape": list(want.shape), "sha256": hashlib.sha256(want.numpy().tobytes()).hexdigest(), "first": want.flatten()[:4].tolist()}


def ao(name, x, want=None):
    tensors, metadata = flatten_tensor_state_dict({f"{MODULE}.weight": x})
    case(name, {"quant_method": "torchao"}, tensors, metadata, x.dequantize() if want is None else want)


def w(dtype=F32, shape=(16, 64)):
    return (torch.randn(shape) * 0.1 + 0.02).to(dtype)


for name, per in (("row", PerRow()), ("group", PerGroup(32)), ("tensor", PerTensor())):
    ao(f"int8-{name}", Int8Tensor.from_hp(w(), per))
    ao(f"float8-{name}", Float8Tensor.from_hp(w(), granularity=per))
ao("int8-bf16", Int8Tensor.from_hp(w(BF16), PerRow()))
ao("int8-asym", Int8Tensor.from_hp(w(), PerGroup(32), mapping_type=MappingType.ASYMMETRIC))
ao("float8-bf16", Float8Tensor.from_hp(w(BF16), granularity=PerRow()))
ao("float8-block", Float8Tensor.from_hp(w(), granularity=PerBlock([8, 32])))
per_token = QuantizeTensorToInt8Kwargs(granularity=PerRow(), mapping_type=MappingType.SYMMETRIC)
ao("int8-token", Int8Tensor.from_hp(w(), PerRow(), act_quant_kwargs=per_token))
ao("int8-token-asym", Int8Tensor.from_hp(w(), PerRow(), act_quant_kwargs=QuantizeTensorToInt8Kwargs(granularity=PerRow(), mapping_type=MappingType.ASYMMETRIC)))
ao("int8-per-tensor", Int8Tensor.from_hp(w(), PerRow(), act_quant_kwargs=QuantizeTensorToInt8Kwargs(granularity=PerTensor(), mapping_type=MappingType.SYMMETRIC)))
ao("int8-static", Int8Tensor.from_hp(w(), PerRow(), act_quant_kwargs=QuantizeTensorToInt8Kwargs(granularity=PerTensor(), mapping_type=MappingType.SYMMETRIC), act_quant_scale=torch.tensor([[0.01]])))
ao("float8-token", Float8Tensor.from_hp(w(), granularity=PerRow(), act_quant_kwargs=QuantizeTensorToFloat8Kwargs(granularity=PerRow())))
ao("float8-per-tensor", Float8Tensor.from_hp(w(), granularity=PerTensor(), act_quant_kwargs=QuantizeTensorToFloat8Kwargs(granularity=PerTensor())))
for bits in range(1, 9):
    for kind in (MappingType.SYMMETRIC, MappingType.ASYMMETRIC):
        x = IntxUnpackedToInt8Tensor.from_hp(w(BF16 if bits % 2 else F32, (8, 64)), (1, 32), getattr(torch, f"int{bits}"), mapping_type=kind)
        ao(f"intx{bits}-{kind.name.lower()}", x)
ao("intx4-axis-token", IntxUnpackedToInt8Tensor.from_hp(w(), (1, 64), torch.int4, activation_quantization="int8_asym_per_token"))
for swizzled in (False, True):
    tail = "-swizzled" if swizzled else ""
    act = QuantizeTensorToMXKwargs(elem_dtype=torch.float8_e4m3fn, is_swizzled_scales=swizzled)
    for elem in (torch.float8_e4m3fn, torch.float4_e2m1fn_x2):
        x = MXTensor.to_mx(w(BF16, (144, 160)), elem, 32)
        want = x.dequantize()
        if swizzled:
            x = MXTensor(x.qdata, to_blocked(x.scale).view(64, 32), elem, 32, BF16, x.kernel_preference, act, True)
        ao(f"mx-{str(elem)[6:12]}{tail}", x, want)
    big = w(BF16, (144, 160))
    x = NVFP4Tensor.to_nvfp4(big, per_tensor_scale=per_tensor_amax_to_scale(big.abs().max()) if swizzled else None)
    want = x.dequantize(F32)
    if swizzled:
        x = NVFP4Tensor(x.qdata, to_blocked(x.scale).view(64, 48), 16, BF16, x.per_tensor_scale, is_swizzled_scales=True)
    ao(f"nvfp4{tail}", x, want)


# codes of 4 bits with zero points that are floats: two a byte, or in tiles
def fma(codes, scale, zero, group):
    wide = lambda a: a.double().repeat_interleave(group, 1)[:, :codes.shape[1]]
    return (codes.double() * wide(scale) + wide(zero)).float().to(scale.dtype)


def int4(name, dtype, rows, cols, group, **args):
    codes = torch.randint(-8, 8, (rows, cols))
    scale, zero = w(dtype, (rows, cols // group)), w(dtype, (rows, cols // group))
    packed = ((codes[:, ::2] & 15) | (codes[:, 1::2] & 15) << 4).to(torch.uint8).view(torch.int8)
    ao(name, Int4Tensor(packed, scale.T.contiguous(), zero.T.contiguous(), [1, group], torch.Size((rows, cols)), **args), fma(codes, scale, zero, group))


def tiled(name, rows, cols, group):
    """Words of lanes, each of 8 codes of a row: lane 4i+j has row i and of 16 columns 2j, 2j+1, 2j+8, 2j+9."""
    high, wide = -(-rows // 8) * 8, -(-cols // 1024) * 1024
    codes, scale, zero = torch.randint(0, 16, (high, wide)), w(BF16, (high, wide // group)), w(BF16, (high, wide // group))
    two = (codes[:, ::2] << 4 | codes[:, 1::2]).numpy().astype(np.uint32)  # bytes, the even column above
    out = np.zeros((high // 8, wide // 128, 32, 4), np.uint32)
    for t in range(32):
        for k in range(4):
            at = k * 16 + t % 4
            v = [two.reshape(high // 8, 8, wide // 128, 64)[:, t // 4, :, at + d] for d in (0, 4, 8, 12)]
            out[:, :, t, k] = sum((v[i] >> 4) << 4 * i | (v[i] & 15) << 4 * (i + 4) for i in range(4))
    pairs = torch.stack((scale, zero), -1).transpose(0, 1).contiguous()
    x = Int4TilePackedTo4dTensor(torch.from_numpy(out.view(np.int32)), pairs, [1, group], torch.Size((rows, cols)))
    ao(name, x, fma(codes - 8, scale, zero, group)[:rows, :cols])


int4("int4", BF16, 16, 64, 32)
int4("int4-f16", F16, 8, 128, 64)
int4("int4-f32", F32, 8, 64, 64)
int4("int4-fp8", BF16, 8, 64, 32, activation_dtype=torch.float8_e4m3fn)
tiled("int4-tiles", 16, 1024, 128)
tiled("int4-tiles-filled", 11, 96, 32)


# HQQ
def hqq(name, bits, axis, group, dtype, shape=(16, 64), **args):
    linear = torch.nn.Linear(shape[1], shape[0], bias=False)
    linear.weight.data = w(F32, shape)
    config = BaseQuantizeConfig(nbits=bits, group_size=group, axis=axis, **args)
    x = HQQLinear(linear, config, compute_dtype=dtype, device="cpu")
    state = {f"{MODULE}.{k}": v for k, v in x.state_dict().items()}
    case(name, {"quant_method": "hqq", "quant_config": {k: v for k, v in config["weight_quant_params"].items()}, "skip_modules": ["lm_head"]}, state, {}, x.dequantize())


for bits in (8, 4, 3, 2, 1):
    for axis in (0, 1):
        hqq(f"hqq-{bits}-axis{axis}", bits, axis, 32, F16 if axis else BF16)
hqq("hqq-4-f32", 4, 1, 64, F32)
hqq("hqq-6", 6, 1, 32, F16)
hqq("hqq-5-axis0", 5, 0, 32, F16)
hqq("hqq-4-round", 4, 1, 32, F32)

# several matrices in one
ao("int8-experts", Int8Tensor.from_hp(w(shape=(3, 8, 32)), PerRow()))
ao("float8-experts", Float8Tensor.from_hp(w(shape=(3, 8, 32)), granularity=PerTensor()))

# codes under the type of floats
hqq("hqq-4-view", 4, 1, 64, F16, view_as_float=True)
hqq("hqq-3-axis0-view", 3, 0, 32, BF16, view_as_float=True)

save_file(arrays, HERE / "arrays.safetensors")
(HERE / "cases.json").write_text(json.dumps(cases, indent=0) + "\n")
