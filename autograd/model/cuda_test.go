package model

import (
	"os"
	"testing"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cuda"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/cuda/ptxsim"
)

// TestGoldenCUDA runs a Llama on the kernels of the CUDA backend, interpreted: the
// logits, the loss and the gradients of LoRA are those of Transformers and PEFT,
// and with TUNEKIT_ALL=1 also the hidden states, the answers from a cache, and the
// same of models with convolutions and scans. (No GPU has run them yet.)
func TestGoldenCUDA(t *testing.T) {
	open := func(t *testing.T, name string) *golden {
		g := openGolden(t, name)
		g.dev = func() kernels.Backend {
			dev, err := cuda.OpenOn("cuda:0", func() (driver.Driver, error) { return ptxsim.New(1 << 30), nil }, cuda.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(dev.Close)
			return dev
		}
		t.Run("lora", g.checkLora)
		return g
	}
	g := open(t, "llama")
	if os.Getenv("TUNEKIT_ALL") == "" {
		return // minutes of interpretation
	}
	t.Run("logits", func(t *testing.T) { g.checkForward(t, g.load(t, "config.json", Options{})) })
	t.Run("greedy", func(t *testing.T) { g.checkGreedy(t, g.load(t, "config.json", Options{})) })
	for _, name := range []string{"lfm2", "qwen3-next", "kimi-linear", "mamba2", "jamba", "falcon-h1"} {
		t.Run(name, func(t *testing.T) {
			g := open(t, name)
			t.Run("logits", func(t *testing.T) { g.checkForward(t, g.load(t, "config.json", Options{})) })
		})
	}
}
