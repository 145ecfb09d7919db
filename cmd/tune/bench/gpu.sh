#!/bin/sh
# Tests or measures the CUDA backend on a machine with a GPU, from programs that were built elsewhere:
#
#   make gpu-build                        here: build/gpu.tgz, for any Linux on amd64
#   sh cmd/tune/bench/gpu.sh test         there: at most 5 minutes
#   sh cmd/tune/bench/gpu.sh bench        there: at most 8 minutes
#
# Needs a shell, tar, awk, and python3 for the larger models, 64 GiB of disk; no Go, no CUDA toolkit. The programs that ours are
# measured beside are those of python3: torch, transformers, peft, accelerate and bitsandbytes, where it has them. Every step has a time limit and is
# one row of a Markdown table, on the screen and in $OUT (else build/gpu); its output is beside it in NAME.log. A step
# that fails does not stop the others. Exit 1 where one failed. BUDGET: seconds of a call; ONLY: a regular expression of names of steps.
# DEVICE=cpu SHAPE=tiny LARGE=tiny LENGTH=64 CONTEXT=64 SAMPLES=4 LIMIT_QLORA= LIMIT_GPTQ= LIMIT= goes through all steps but
# those of the kernels alone without a GPU.
set -u
what=${1:-}
case $what in test | bench) ;; *) echo "usage: $0 test|bench" >&2; exit 2 ;; esac
OUT=${OUT:-build/gpu}
DEVICE=${DEVICE:-cuda:0}
SHAPE=${SHAPE:-llama-8b}
LAYERS=${LAYERS:-} LENGTH=${LENGTH:-4096} CONTEXT=${CONTEXT:-2048} SAMPLES=${SAMPLES:-128} LIMIT=${LIMIT-5GiB}
LARGE=${LARGE:-llama-70b} LARGE_LAYERS=${LARGE_LAYERS-20} LIMIT_QLORA=${LIMIT_QLORA-10GiB} LIMIT_GPTQ=${LIMIT_GPTQ-24GiB}
BUDGET=${BUDGET:-$([ "$what" = test ] && echo 300 || echo 470)} ONLY=${ONLY:-}
export DEVICE LAYERS LENGTH CONTEXT SAMPLES LIMIT LARGE LARGE_LAYERS LIMIT_QLORA LIMIT_GPTQ
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
	printf '%s\n' "$name" | grep -Eq -- "$ONLY" || return 0
	begin=$(date +%s)
	left=$((BUDGET - begin + started))
	[ "$left" -lt "$limit" ] && limit=$left
	if [ "$limit" -lt 10 ]; then
		say "| $gpu | $name | not run | | no time is left of $BUDGET s |"
		return 0
	fi
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
	export TUNE_CUBLAS=0 TUNE_WGMMA=0 TUNE_INT8=0
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

# int8: products of answers with quantized weights, x rounded to 8 bits.
int8() {
	export TUNE_CUBLAS=0 TUNE_WGMMA=0 TUNE_INT8=1
	suite 'TestGPU$/^(Linear|Experts)$' 'products of int8 against float64'
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

# python: that there is one, else the row is not run.
python() { command -v python3 >/dev/null || { echo "= python3 is not there"; exit 77; }; }

# weights FOLDER SHAPE LAYERS [OPTION]: a model of published shape in $work/FOLDER, once.
weights() {
	python
	[ -f "$work/$1/model.safetensors.index.json" ] || python3 -B cmd/tune/bench/random_model.py "$2" "$work/$1" ${3:+--layers "$3"} ${4:-} || exit 1
}

# recipe NAME ROWS LENGTH SETTING STAGE…: $work/NAME.yaml, with so many rows of tokens.
recipe() {
	name=$1 rows=$2 length=$3 setting=$4
	shift 4
	python3 -B cmd/tune/bench/gpu_rows.py tokens "$rows" "$length" "$work/$name.jsonl" || exit 1
	{
		printf 'version: 1\nname: %s\n%s\nstages:\n' "$name" "$setting"
		printf '  - {id: data, ingest: {datasets: [{path: %s, type: tokens}], max_length: %s, val_set_size: 0}}\n' "$work/$name.jsonl" "$length"
		printf '  - %s\n' "$@"
	} >"$work/$name.yaml"
}

# follow NAME [OPTION…]: runs the recipe.
follow() {
	name=$1
	shift
	"$tune" run "$work/$name.yaml" --device "$DEVICE" --run-dir "$work/runs" "$@" || exit 1
}

# adapter NAME MODEL KIND LENGTH CHECKPOINTING SETTING: steps of training.
adapter() {
	recipe "$1" 8 "$4" "base_model: $work/$2
$6" "{id: out, train: {adapter: $3, lora: {r: 16, alpha: 32}, max_steps: 5, micro_batch_size: 1, gradient_accumulation_steps: 1, dtype: bf16, gradient_checkpointing: $5}}"
	follow "$1"
	python3 -B cmd/tune/bench/gpu_rows.py train "$work/runs/$1" "$work/$2"
}

# lora, qlora: a model of SHAPE, LENGTH tokens a step.
lora() { weights model "$SHAPE" "$LAYERS" && adapter lora model lora "$LENGTH" false ""; }
qlora() { weights model "$SHAPE" "$LAYERS" && adapter qlora model qlora "$LENGTH" true ""; }

# peer NAME NF4: the same steps by transformers and PEFT, with bitsandbytes and gradient checkpointing where NF4 is true.
peer() {
	python
	needs="torch transformers peft accelerate"
	[ "$2" = true ] && needs="$needs bitsandbytes"
	python3 -B -c 'import importlib.util, sys
lacks = [m for m in sys.argv[1:] if not importlib.util.find_spec(m)]
if lacks: sys.exit("= python3 has not all that this is measured beside: " + " ".join(lacks))' $needs 2>&1 || exit 77
	[ -d "$work/runs/$1" ] || { echo "= $1 was not run"; exit 77; }
	export HF_HUB_OFFLINE=1
	yes '' | head -n 5 | python3 -B cmd/tune/bench/peer_train.py "{\"threads\": $(nproc), \"model\": \"$work/model\", \"rows\": \"$work/$1.jsonl\", \"dtype\": \"bfloat16\", \"nf4\": $2, \"lora\": true, \"checkpointing\": $2, \"device\": \"$DEVICE\", \"batch\": 1}" >"$work/$1.peer" || exit 1
	python3 -B cmd/tune/bench/gpu_rows.py train "$work/runs/$1" "$work/model" "$work/$1.peer"
}

# gptq: of SAMPLES rows of CONTEXT tokens; decode: answers of what it made.
gptq() {
	weights model "$SHAPE" "$LAYERS"
	recipe gptq "$SAMPLES" "$CONTEXT" "base_model: $work/model" "{id: out, quantize: {method: gptq, scheme: W4A16, samples: $SAMPLES, max_length: $CONTEXT}}" \
		"{id: check, eval: {models: [out], tasks: [speed], samples: 1, context: $CONTEXT}}"
	follow gptq --only data --only out
	python3 -B cmd/tune/bench/gpu_rows.py stage "$work/runs/gptq" out
}
decode() {
	[ -d "$work/runs/gptq/out" ] || { echo "= gptq made nothing"; exit 77; }
	follow gptq
	python3 -B cmd/tune/bench/gpu_rows.py decode "$work/runs/gptq" check "$work/runs/gptq/out"
}

# streamed: four layers of SHAPE under LIMIT, whose weights come a block ahead, and go.
streamed() { weights few "$SHAPE" 4 && adapter streamed few lora "$CONTEXT" true "device_memory_limit: $LIMIT"; }

# qlora_large, gptq_large: LARGE's shape under a limit, with weights of 0 in files with holes: LARGE_LAYERS=80
# LIMIT_QLORA=24GiB ONLY=large is all of Llama 70B.
qlora_large() { weights large "$LARGE" "$LARGE_LAYERS" --zeros && adapter qlora-large large qlora "$CONTEXT" true "device_memory_limit: $LIMIT_QLORA"; }
gptq_large() {
	weights large "$LARGE" "$LARGE_LAYERS" --zeros
	recipe gptq-large 8 "$CONTEXT" "base_model: $work/large
device_memory_limit: $LIMIT_GPTQ" "{id: out, quantize: {method: gptq, scheme: W4A16, samples: 4, max_length: $CONTEXT}}"
	follow gptq-large
	python3 -B cmd/tune/bench/gpu_rows.py stage "$work/runs/gptq-large" out
}

if [ "${2:-}" = inner ]; then # the command of a step, in a shell that timeout can end
	shift 2
	"$@"
	exit
fi

started=$(date +%s)
mkdir -p "$OUT"
trap 'rm -rf "$work"' EXIT
tar -xzf build/gpu.tgz -C "$work" || exit 1
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1 | tr -d ',')
gpu=${gpu:-$DEVICE}
: >"$table"
say "| GPU | what | | time | |"
say "|---|---|---|---|---|"
# By worth: what no time is left for is at the end.
if [ "$what" = test ]; then
	step doctor 30 doctor
	step conformance 100 conformance
	step wgmma 40 wgmma
	step int8 30 int8
	step lora-curve 60 curve lora f32 1e-3
	step qlora-curve 60 curve qlora f32 1e-3
	step memcheck 70 sanitizer memcheck
	step racecheck 70 sanitizer racecheck
	step cublas 40 cublas
	step fp16-curve 60 curve lora fp16 1e-2
else
	step kernels 90 suite 'TestGPUBench$' 'rows in kernels.log'
	grep '^| ' "$OUT/kernels.log" 2>/dev/null | tee "$OUT/gpu-kernels.md"
	step qlora 120 qlora
	step qlora-peer 75 peer qlora true
	step gptq 200 gptq
	step decode 45 decode
	step lora 70 lora
	step lora-peer 75 peer lora false
	step qlora-large 120 qlora_large
	step gptq-large 150 gptq_large
	step streamed 60 streamed
fi
exit $failed
