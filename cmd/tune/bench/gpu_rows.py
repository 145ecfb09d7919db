"""What gpu.sh needs besides a shell: rows of tokens, and the last lines of its rows. Standard library only.

    python3 gpu_rows.py tokens COUNT LENGTH FILE
    python3 gpu_rows.py train RUN MODEL [PEER]      RUN: the run's folder; PEER: the answers of peer_train.py
    python3 gpu_rows.py stage RUN STAGE
    python3 gpu_rows.py decode RUN STAGE FOLDER     FOLDER: of the weights that are read for each token

PEAK (989e12 operations a second) and BANDWIDTH (4.8e12 bytes) are those of the GPU: an H200's.
"""
import json
import os
import pathlib
import sys

PEAK, BANDWIDTH = float(os.environ.get("PEAK", 989e12)), float(os.environ.get("BANDWIDTH", 4.8e12))


def tokens(count, length, path):
    n = int(length)
    with open(path, "w") as f:
        for r in range(int(count)):
            f.write(json.dumps({"input_ids": [(7 * i * i + 13 * r + i) % 500 + 5 for i in range(n)]}) + "\n")


def operations(model, length):
    """Those of a token of training adapters: products forward and back to inputs, and attention; nothing for what checkpointing does again."""
    c = json.loads((pathlib.Path(model) / "config.json").read_text())
    hidden, heads, d = c["hidden_size"], c["num_attention_heads"], c["head_dim"]
    block = hidden * d * 2 * (heads + c["num_key_value_heads"]) + 3 * hidden * c["intermediate_size"]
    attention = 2 * length * heads * d * 3.5  # causal: two products of half of length², and five back
    return 4 * (c["num_hidden_layers"] * block + hidden * c["vocab_size"]) + c["num_hidden_layers"] * attention


def lines(path):
    return [json.loads(line) for line in open(path) if line.strip()]


def train(run, model, peer=None):
    log = next(pathlib.Path(run).rglob("metrics.jsonl"), None)
    steps = [m for m in lines(log) if m.get("step", 0) > 1] if log else []
    if not steps:
        sys.exit("no steps after the first")
    best = max(m["tokens_per_second"] for m in steps)
    length = steps[-1]["tokens"]
    memory = max(m["memory_bytes"] for m in steps) / 1e9
    says = f"{best:.0f} tokens/s, {100 * best * operations(model, length) / PEAK:.1f} % of the peak, {memory:.2f} GB"
    if peer:
        answers = [a for a in lines(peer) if "seconds" in a][1:]
        if not answers:
            sys.exit("no steps of the other after the first")
        theirs, room = length / min(a["seconds"] for a in answers), max(a["gpu_bytes"] or a["rss"] for a in answers) / 1e9
        says = f"{theirs:.0f} tokens/s, {room:.2f} GB; ours is {best / theirs:.2f} times as fast in {memory / room:.2f} of the memory"
    print("= " + says)


def stage(run, name):
    seconds, peak = json.loads((pathlib.Path(run) / ".state/timing.json").read_text())[name]
    print(f"= {seconds:.1f} s, {peak / 1e9:.2f} GB")


def decode(run, name, folder):
    """Speed of answers beside the time of reading all weights but the embeddings once."""
    rate = {m["metric"]: m["value"] for m in json.loads((pathlib.Path(run) / name / "speed.json").read_text())}
    size = 0
    for path in pathlib.Path(folder).rglob("*.safetensors"):
        with open(path, "rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        size += sum(t["data_offsets"][1] - t["data_offsets"][0] for n, t in header.items() if n != "__metadata__" and "embed_tokens" not in n)
    each = rate["decode_tokens_per_second"]
    print(f"= {each:.1f} tokens/s, {100 * each * size / BANDWIDTH:.1f} % of the bandwidth, prompts {rate['prompt_tokens_per_second']:.0f} tokens/s")


if __name__ == "__main__":
    {f.__name__: f for f in (tokens, train, stage, decode)}[sys.argv[1]](*sys.argv[2:])
