#!/usr/bin/env python3
"""The files of report_to, read back by TensorBoard, by MLflow and by W&B's own reader of offline runs.

Every number of metrics.jsonl must come back at its step. Nothing is sent: W&B's log is read by wandb.sdk.internal.datastore, as `wandb sync`
reads it, and parsed by W&B's protobuf.
"""
import json
import os
import shutil

os.environ.update(MLFLOW_ALLOW_FILE_STORE="true", WANDB_MODE="offline")

import mlflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal.datastore import DataStore

from lib import BUILD, POCKET, ours, run, say

WORDS = [("one and one is", " two"), ("two and two is", " four"), ("the sky is", " blue"), ("the grass is", " green"), ("three and three is", " six"), ("the sun is", " yellow")]


def trained():
    """A run with two data sets and answers at each validation; its metrics by (name, step)."""
    top = BUILD / "trackers"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir(parents=True)
    for i, name in enumerate(("one", "two")):
        rows = [{"prompt": f"{p} {k}", "completion": c} for k in range(4) for p, c in WORDS[i::2]]
        (top / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    recipe = {"version": 1, "name": "tracked", "base_model": str(POCKET), "stages": [
        {"ingest": {"datasets": [{"path": str(top / "one.jsonl")}, {"path": str(top / "two.jsonl")}], "max_length": 64, "val_set_size": 4}},
        {"train": {"lora": {"r": 2}, "max_steps": 150, "gradient_accumulation_steps": 1, "eval_steps": 50, "eval_tasks": ["exact_match"],
                   "eval_max_new_tokens": 2, "report_to": "all"}}]}
    (top / "tracked.yaml").write_text(json.dumps(recipe))
    ours("tune", "run", top / "tracked.yaml", "--run-dir", top, "--quiet")
    folder = top / "tracked"
    want = {}
    for m in map(json.loads, (folder / "train/metrics.jsonl").read_text().splitlines()):
        side = "eval" if "eval_loss" in m else "train"
        of = lambda key: m.get(f"eval_{key}" if side == "eval" else key)
        for key in ("loss", "grad_norm", "learning_rate", "perplexity"):
            if of(key) is not None and not (side == "eval" and key in ("grad_norm", "learning_rate")):
                want[f"{side}/{key}", m["step"]] = of(key)
        for key, v in {**(of("objective") or {}), **(m.get("eval_tasks") or {})}.items():
            want[f"{side}/{key}", m["step"]] = v
        for s in of("sources") or []:
            want[f"{side}/data/" + s["source"].replace("/", "_"), m["step"]] = s["loss"]
    return folder, want


def compare(name, got, want, exact=True):
    missing = [k for k in want if k not in got]
    wrong = [k for k in want if k in got and abs(got[k] - want[k]) > (0 if exact else 1e-6 * abs(want[k]))]
    say(bool(want) and not missing and not wrong, name, f"{len(want)} numbers, {len(missing)} missing {missing[:2]}, {len(wrong)} differ {wrong[:2]}")


def tensorboard(folder):
    acc = EventAccumulator(str(folder / "tensorboard/train"), size_guidance={"scalars": 0}).Reload()
    got = {(tag, e.step): e.value for tag in acc.Tags()["scalars"] for e in acc.Scalars(tag)}
    compare("TensorBoard reads its event file", got, WANT, exact=False)  # of 32 bits


def mlflow_store(folder):
    client = mlflow.MlflowClient(tracking_uri=(folder / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("tracked")
    runs = client.search_runs([experiment.experiment_id])
    run = runs[0]
    say(len(runs) == 1 and run.info.status == "FINISHED" and run.info.run_name == "train" and run.data.params["lora.r"] == "2",
        "MLflow finds the run", f"{len(run.data.params)} parameters, status {run.info.status}")
    got = {(k, m.step): m.value for k in run.data.metrics for m in client.get_metric_history(run.info.run_id, k)}
    compare("MLflow reads its file store", got, WANT)
    artifacts = [a.path for a in client.list_artifacts(run.info.run_id)]
    say(artifacts == ["metrics.jsonl"], "MLflow lists the artifact", str(artifacts))


def wandb_run(folder):
    logs = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    say(len(logs) == 1, "W&B's offline run", logs[0].name)
    store = DataStore()
    store.open_for_scan(str(logs[0]))
    records = []
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        records.append(record)
    kinds = [r.WhichOneof("record_type") for r in records]
    ends = kinds[:2] == ["header", "run"] and kinds[-3:] == ["summary", "exit", "footer"] and set(kinds[2:-3]) == {"history"}
    r = records[1].run
    config = {c.key: json.loads(c.value_json) for c in r.config.update}
    say(ends and r.project == "tracked" and r.display_name == "train" and config["lora.r"] == 2 and r.run_id in logs[0].name,
        "W&B reads header, run, history, summary and exit", f"{len(records)} records, {len(config)} settings")
    got = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = {i.key: json.loads(i.value_json) for i in record.history.item}
            assert items["_step"] == record.history.step.num
            got.update({(k, items["trainer/global_step"]): v for k, v in items.items()})
    compare("W&B reads its history", got, WANT)


FOLDER, WANT = trained()
run((tensorboard, FOLDER), (mlflow_store, FOLDER), (wandb_run, FOLDER))
