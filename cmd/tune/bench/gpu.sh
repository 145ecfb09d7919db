#!/bin/sh
# Tests or measures the CUDA backend on a machine with a GPU, from programs that were built elsewhere:
#
#   make gpu-build                        here: build/gpu.tgz, for any Linux on amd64
#   sh cmd/tune/bench/gpu.sh test         there: at most 8 minutes
#   sh cmd/tune/bench/gpu.sh bench        there: at most 8 minutes
#
# Needs a shell, tar, awk, and python3 for the larger models; no Go, no CUDA toolkit. Every step has a time limit and is
# one row of a Markdown table, on the screen and in $OUT (else build/gpu); its output is beside it in NAME.log. A step
# that fails does not stop the others. Exit 1 where one failed. DEVICE=cpu SHAPE=tiny goes through all steps but
# those of the kernels alone without a GPU.
set -u
what=${1:-}
case $what in test | bench) ;; *) echo "usage: $0 test|bench" >&2; exit 2 ;; esac
OUT=${OUT:-build/gpu}
DEVICE=${DEVICE:-cuda:0}
SHAPE=${SHAPE:-llama-8b}
LENGTH=${LENGTH:-2048}
if [ "${2:-}" = inner ]; then work=$TUNEKIT_GPU_STEP; else work=$(mktemp -d) || exit 1; fi
tune=$work/tune
case $DEVICE in cuda*) export TUNEKIT_GPU="$DEVICE" ;; *) unset TUNEKIT_GPU ;; esac
table=$OUT/gpu-$what.md
failed=0

say() { printf '%s\n' "$1" | tee -a "$table"; }

# step NAME SECONDS COMMAND…: a row; the last line of the output that begins with "= " is its result.
step() {
	name=$1 limit=$2
	shift 2
	begin=$(date +%s)
	TUNEKIT_GPU_STEP=$work timeout -k 10 "$limit" sh "$0" "$what" inner "$@" >"$OUT/$name.log" 2>&1
	rc=$?
	took=$(($(date +%s) - begin))
	result=$(sed -n 's/^= //p' "$OUT/$name.log" | tail -1)
	case $rc in
	0) state=passed ;;
	77) state="not run" ;;
	124 | 137) state="over $limit s" failed=1 ;;
	*) state="FAILED ($rc)" failed=1 ;;
	esac
	say "| $gpu | $name | $state | $took s | $result |"
	case $rc in 0 | 77) ;; *) tail -25 "$OUT/$name.log" ;; esac
}

# sanitizer TOOL: compute-sanitizer, where the machine has it, over part of the suite.
sanitizer() {
	s=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1)
	if [ -z "$s" ] || [ -z "${TUNEKIT_GPU:-}" ]; then
		echo "= compute-sanitizer is not there"
		exit 77
	fi
	"$s" --tool "$1" --error-exitcode 9 "$work/cuda.test" -test.run 'TestGPU$/^(Linear|Norm|LogProb|Attention)$' -test.failfast && echo "= no complaint"
}

doctor() {
	"$tune" doctor | tee "$work/doctor" && line=$(sed -n 's/.*cuda:0[: ]*//p' "$work/doctor" | head -1 | cut -c1-120) && echo "= $line"
	case ${TUNEKIT_GPU:+gpu}$line in gpu*"not usable"*) return 1 ;; esac
}

suite() {
	[ -n "${TUNEKIT_GPU:-}" ] || { echo "= no GPU was asked for"; exit 77; }
	"$work/cuda.test" -test.run "$1" -test.v || exit 1
	echo "= ${2:-every method against float64}"
}

# conformance: every method by our own kernels, those of every GPU.
conformance() {
	export TUNE_CUBLAS=0 TUNE_WGMMA=0
	suite 'TestGPU$'
}

# wgmma: the methods that multiply, all by warpgroups, where the GPU has these.
wgmma() {
	[ -n "${TUNEKIT_GPU:-}" ] || { echo "= no GPU was asked for"; exit 77; }
	export TUNE_CUBLAS=0 TUNE_WGMMA=1
	if "$tune" doctor | grep "TUNE_WGMMA=1, but .* has compute capability"; then
		echo "= the GPU has another compute capability than 9.0"
		exit 77
	fi
	suite 'TestGPU$/^(Linear|Experts|Half|Gemm|Gram|LogProb)$' 'products of warpgroups against float64'
}

# cublas: the methods that multiply, all by cuBLASLt, where it is there.
cublas() {
	[ -n "${TUNEKIT_GPU:-}" ] || { echo "= no GPU was asked for"; exit 77; }
	export TUNE_CUBLAS=1
	if "$tune" doctor | grep "cuBLASLt is not there"; then
		echo "= cuBLASLt is not there"
		exit 77
	fi
	suite 'TestGPU$/^(Linear|Half|Gemm|Gram|LogProb)$' 'products by cuBLASLt against float64'
}

# curve KIND DTYPE ALLOWED: losses of 10 steps on the device beside those on the CPU, in DTYPE.
curve() {
	for d in cpu "$DEVICE"; do
		rm -rf "$work/$1-$d"
		"$tune" run quickstart --only data --only adapter --device "$d" --run-dir "$work/$1-$d" --set adapter.adapter="$1" --set adapter.dtype="$2" --set adapter.max_steps=10 --set adapter.eval_steps=100% --set adapter.micro_batch_size=2 || exit 1
	done
	a=$(find "$work/$1-cpu" -name metrics.jsonl) b=$(find "$work/$1-$DEVICE" -name metrics.jsonl)
	losses "$a" >"$work/a" && losses "$b" >"$work/b"
	paste "$work/a" "$work/b" | awk -v allowed="$3" '
		NF != 2 { print "= different numbers of steps"; bad = 1; exit 1 }
		{ d = ($1 - $2) / $1; if (d < 0) d = -d; if (d > most) most = d; n++ }
		END { if (bad) exit 1; if (n < 10) { print "= " n + 0 " steps"; exit 1 }; printf "= %d losses, largest relative difference %.2g (allowed %g)\n", n, most, allowed; if (most > allowed) exit 1 }'
}

losses() { sed -n 's/.*"loss": *\([0-9.e+-]*\).*/\1/p' "$1"; }

# model NAME STAGE [SETTING]: a model of published shape with random weights and few layers, through a stage on the device.
model() {
	command -v python3 >/dev/null || { echo "= python3 is not there"; exit 77; }
	[ -f "$work/model/config.json" ] || python3 -B cmd/tune/bench/random_model.py "$SHAPE" "$work/model" --layers "${LAYERS:-4}" || exit 1
	python3 - "$work" "$LENGTH" <<'PY'
import json, sys
work, n = sys.argv[1], int(sys.argv[2])
with open(work + "/rows.jsonl", "w") as f:
    for r in range(8):
        f.write(json.dumps({"input_ids": [(7 * i * i + 13 * r + i) % 500 + 5 for i in range(n)]}) + "\n")
PY
	cat >"$work/$1.yaml" <<YAML
version: 1
name: $1
base_model: $work/model
${3:-}
stages:
  - {id: data, ingest: {datasets: [{path: $work/rows.jsonl, type: tokens}], max_length: $LENGTH}}
  - $2
YAML
	begin=$(date +%s.%N)
	"$tune" run "$work/$1.yaml" --device "$DEVICE" --run-dir "$work/run-$1" || exit 1
	end=$(date +%s.%N)
	echo "$begin $end" | awk '{ printf "= %.1f s with loading, %s layers of %s\n", $2 - $1, "'"${LAYERS:-4}"'", "'"$SHAPE"'" }'
	find "$work/run-$1" -name metrics.jsonl -exec tail -1 {} \;
}

qlora() {
	model qlora "{id: out, train: {adapter: qlora, lora: {r: 16, alpha: 32}, max_steps: 6, micro_batch_size: 1, gradient_accumulation_steps: 1, dtype: bf16}}" || exit $?
	find "$work/run-qlora" -name metrics.jsonl -exec tail -1 {} \; | sed -n 's/.*"tokens_per_second": *\([0-9.]*\).*/= \1 tokens\/s/p'
}
# streamed: weights that come a block ahead, and go.
streamed() {
	model streamed "{id: out, train: {adapter: lora, lora: {r: 16, alpha: 32}, max_steps: 6, micro_batch_size: 1, gradient_accumulation_steps: 1, dtype: bf16}}" "device_memory_limit: ${LIMIT:-5GiB}" || exit $?
	find "$work/run-streamed" -name metrics.jsonl -exec tail -1 {} \; | sed -n 's/.*"tokens_per_second": *\([0-9.]*\).*/= \1 tokens\/s/p'
}
gptq() { model gptq "{id: out, quantize: {model: $work/model, method: gptq, scheme: W4A16, samples: 4, calibration: data, max_length: $LENGTH}}"; }
decode() { model decode "{id: out, eval: {models: [{name: base, model: $work/model}], tasks: [perplexity, speed], samples: 4, context: $LENGTH}}"; }

if [ "${2:-}" = inner ]; then # the command of a step, in a shell that timeout can end
	shift 2
	"$@"
	exit
fi

mkdir -p "$OUT"
trap 'rm -rf "$work"' EXIT
tar -xzf build/gpu.tgz -C "$work" || exit 1
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1 | tr -d ',')
gpu=${gpu:-$DEVICE}
: >"$table"
say "| GPU | what | | time | |"
say "|---|---|---|---|---|"
if [ "$what" = test ]; then
	step doctor 30 doctor
	step conformance 100 conformance
	step wgmma 40 wgmma
	step cublas 40 cublas
	step lora-curve 60 curve lora f32 1e-3
	step fp16-curve 60 curve lora fp16 1e-2
	step qlora-curve 60 curve qlora f32 1e-3
	step memcheck 70 sanitizer memcheck
	step racecheck 70 sanitizer racecheck
else
	step kernels 120 suite 'TestGPUBench$' 'rows in kernels.log'
	grep '^| ' "$OUT/kernels.log" 2>/dev/null | tee "$OUT/gpu-kernels.md"
	step qlora 110 qlora
	step streamed 80 streamed
	step gptq 90 gptq
	step decode 80 decode
fi
exit $failed
