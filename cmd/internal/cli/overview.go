package cli

import (
	"fmt"
	"strings"

	"github.com/tunekit/tunekit/quant"
)

// overview fits one screen: verbs by job, then three examples.
var overview = `tune - tune, quantize and test language models          tune COMMAND --help for examples

  start     init doctor pull schema         data, train  add-tokens ingest train merge merge-models
  run       run tail plan validate clean    quantize     quant ` + strings.Join(quant.FolderMethods(), "|") + `|gguf|imatrix, export
  look      inspect verify diff fit graph   try, judge   chat generate eval compare bench
  scripts   logits tokenize render          share        push                   shell   completion bash|zsh|fish

examples
  tune run quickstart                                    tune and test the embedded model, in a minute or three
  tune init --model models/M --data 'data/*.parquet' -o r.yaml && tune plan r.yaml && tune run r.yaml
  quant gguf --model models/M --output M-Q4_K_M.gguf --type Q4_K_M

  tune help recipe, tune help recipe.train: the keys of a recipe
`

var quantOverview = func() string {
	methods := strings.Join(quant.FolderMethods(), " ")
	line := func(names, what string) string {
		return fmt.Sprintf("  %-*s  %s\n", max(20, len(methods)), names, what)
	}
	return "quant - quantize language models                       quant METHOD --help for flags\n\n" +
		line(methods, "a folder for Transformers, vLLM, TGI, ExLlama") +
		line("gguf imatrix", "a file for llama.cpp, Ollama, LM Studio") + `
examples
  quant gptq --model models/M --calibration data.jsonl --output M-gptq
  quant gguf --model models/M --type Q4_K_M --imatrix M.imatrix.gguf --output M-Q4_K_M.gguf
`
}()
