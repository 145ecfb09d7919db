"""Makes the files beside this one: checkpoints as torch.save writes them, and what is in them as safetensors.

    python -m venv v && v/bin/pip install torch==2.15.0 safetensors==0.8.0 numpy==2.4.6 && v/bin/python make.py

NAME.bin with NAME.safetensors can be read; one without is refused (torch_test.go says with which words).
"""
import argparse, collections, os, pathlib, warnings
import torch
from safetensors.torch import save_file

warnings.filterwarnings("ignore")
here = pathlib.Path(__file__).parent
torch.manual_seed(1)


def save(name, obj, same=None, **kw):
    torch.save(obj, here / f"{name}.bin", **kw)
    if same is not None:
        save_file({k: v.detach().clone().contiguous() for k, v in same.items()}, here / f"{name}.safetensors")


x = torch.randn(3, 5)
kinds = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool uint16 uint32 uint64 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu complex64"
types = {k: (x.abs() * 50).to(getattr(torch, k)) if k.startswith("u") or k.endswith("e8m0fnu") else (x * 50).to(getattr(torch, k)) for k in kinds.split()}
save("types", types, types)
small = {"a": x, "b": x.to(torch.bfloat16), "n": torch.arange(4)}
for p in (3, 4, 5):
    save(f"protocol{p}", small, small, pickle_protocol=p)

base = torch.arange(120, dtype=torch.float32).reshape(2, 3, 4, 5)
m = torch.randn(6, 7).to(torch.bfloat16)
views = {
    "permuted": base.permute(3, 1, 0, 2), "transposed": m.t(), "part": m[2:5, 1:4], "column": m[:, 3], "stepped": base[:, ::2, 1:, ::3], "rows": m[2:],
    "repeated": torch.arange(3).unsqueeze(1).expand(3, 4), "scalar": torch.tensor(7.5), "empty": torch.zeros(0, 4), "nothing": m[:, 3:3], "tied": m, "one": m[:1].t(),
}
save("views", views, views)
save("legacy", views, views, _use_new_zipfile_serialization=False)
older = {k: types[k] for k in "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64".split()}
save("legacytypes", older, older, _use_new_zipfile_serialization=False)

net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
save("module", net.state_dict(), net.state_dict())
params = dict(net.named_parameters())
params["0.weight"].note = "an attribute"
save("parameters", params, params)
lone = collections.OrderedDict(w=torch.ones(2))
lone["w"].note = {"a": 1}
save("attributes", lone, lone)
for key in ("state_dict", "model_state_dict", "model", "module"):
    save("under_" + key, {key: net.state_dict(), "epoch": 3, "optimizer": {"state": {0: {"m": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
                          "loss": torch.tensor(1.0), "rng": torch.zeros(2, dtype=torch.uint8), "best": float("inf"), "seed": 2**70, "raw": b"ab", "size": torch.Size([1, 2]), "on": torch.device("cpu"),
                          "set": {1, 2}, "of": torch.float16}, net.state_dict())
save("beside", {"w": x, "step": 3, "why": None, "raw": bytearray(b"ab"), "note": [1, (2,)]}, {"w": x})

save("negated", {"w": torch._neg_view(x)})
save("conjugated", {"w": types["complex64"].conj()})
save("complex128", {"w": x.to(torch.complex128), "v": x})
save("sparse", {"w": x.to_sparse()})
save("csr", {"w": x.to_sparse_csr()})
save("quantized", {"w": torch.quantize_per_tensor(x, 0.1, 3, torch.qint8)})
save("meta", {"w": torch.empty(2, device="meta")})
save("tensor", x)
save("list", [x, x])
save("nested", {"a": {"w": x}, "b": x})
save("two", {"model": {"w": x}, "module": {"w": x}})
save("numbers", {0: x})
save("namespace", {"state_dict": net.state_dict(), "args": argparse.Namespace(lr=1)})
save("whole", net)


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/owned",)


save("evil", {"w": x, "e": Evil()})
save("evil4", {"w": x, "e": Evil()}, pickle_protocol=4)
save("evillegacy", {"w": x, "e": Evil()}, _use_new_zipfile_serialization=False)
torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), here / "program.bin")
