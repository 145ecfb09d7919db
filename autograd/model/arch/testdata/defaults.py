"""Writes defaults.json: what the configuration classes of Transformers 5.23.0 have for keys that a config.json leaves out.

    python3 defaults.py SITE-PACKAGES/transformers/models ../../../../../shared/data/golden/arch

By model_type; keys whose default is null are left out. rope_theta is default_theta of the class (of layers that see everything).
"""
import ast
import json
import pathlib
import re
import sys

# Keys of training and of what is no text.
SKIP = re.compile(r"dropout|_pdrop|initializer|use_cache|token_id|aux|z_loss|output_|vision|image|audio|video|return_dict|jitter_eps|summary_|sub_configs|rescale|time_step_(min|max|floor)|use_mamba_kernels|is_encoder")

classes = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("*/configuration_*.py")):
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields, kind = {}, None
        for part in node.body:
            name = part.target if isinstance(part, ast.AnnAssign) else part.targets[0] if isinstance(part, ast.Assign) else None
            if not isinstance(name, ast.Name) or part.value is None:
                continue
            try:
                value = ast.literal_eval(part.value)
            except ValueError:
                continue
            if name.id == "model_type":
                kind = value
            elif isinstance(part, ast.AnnAssign) or name.id == "default_theta":
                fields[name.id] = value
        classes[node.name] = kind, [ast.unparse(b) for b in node.bases], fields


def fields(name):
    _, bases, own = classes[name]
    out = {}
    for base in bases:
        if base in classes:
            out.update(fields(base))
    return {**out, **own}


by_type, out = {}, {}
for name, (kind, _, _) in classes.items():
    by_type.setdefault(kind, name)
for path in sorted(pathlib.Path(sys.argv[2]).glob("*/config.json")):
    config = json.loads(path.read_text())
    kind = config.get("text_config", config)["model_type"]
    known = fields(by_type[kind])
    theta = known.pop("default_theta", 10000.0)
    if "rope_parameters" in known:
        known.setdefault("rope_theta", theta["global"] if isinstance(theta, dict) else theta)
    out[kind] = {k: v for k, v in sorted(known.items()) if v is not None and not SKIP.search(k)}
pathlib.Path("defaults.json").write_text(json.dumps(out, indent=0, sort_keys=True) + "\n")
