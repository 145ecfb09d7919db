"""Makes model.safetensors, weights in NVFP4 as ModelOpt exports them, and expected.safetensors, what ModelOpt makes of them.

    python -m venv v && v/bin/pip install nvidia-modelopt==0.47.0 torch==2.15.0 safetensors==0.8.0 requests huggingface_hub && v/bin/python make.py
"""
import json, pathlib
import torch
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
torch.manual_seed(3)
stored, expected = {}, {}
for name, shape, size in (("a", (8, 64), 0.1), ("b", (5, 32), 30.0), ("c", (16, 96), 1e-4)):
    w = torch.randn(shape) * size
    q, scale, scale2 = NVFP4QTensor.quantize(w.clone(), 16)
    expected[name + ".weight"] = q.dequantize(torch.float32, scale=scale, double_scale=scale2, block_sizes={-1: 16})
    stored |= {name + ".weight": q._quantized_data, name + ".weight_scale": scale, name + ".weight_scale_2": scale2, name + ".input_scale": torch.tensor(0.01)}
    assert stored[name + ".weight"].dtype == torch.uint8 and scale.dtype == torch.float8_e4m3fn
    assert (expected[name + ".weight"] - w).norm() < 0.12 * w.norm()
stored["norm.weight"] = expected["norm.weight"] = torch.randn(8).to(torch.bfloat16)
save_file(stored, here / "model.safetensors")
save_file(expected, here / "expected.safetensors")
config = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4", "producer": {"name": "modelopt", "version": "0.47.0"}, "ignore": ["lm_head"],
          "config_groups": {"group_0": {"input_activations": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}, "weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}, "targets": ["Linear"]}}}}
(here / "config.json").write_text(json.dumps(config, indent=1) + "\n")
