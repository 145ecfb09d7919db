package arch

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// TestReward: a reward model has one row for a head in place of the words', is written as
// Transformers' sequence classification with one label, and reads back; a tied head stays
// the embedding. What has more labels, and GGUF, are refused.
func TestReward(t *testing.T) {
	for _, base := range []string{"base-llama", "base-qwen2", "base-mixtral"} {
		t.Run(base, func(t *testing.T) {
			src, err := Open(filepath.Join(testdir.Shared(t, "golden/train/lora"), base))
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			words := len(src.Tensors())
			if !src.Spec.Tied {
				words--
			}
			draw := func(n int) []float32 {
				v := make([]float32, n)
				for i := range v {
					v[i] = float32(i) / 8
				}
				return v
			}
			if err := src.Reward(draw); err != nil {
				t.Fatal(err)
			}
			src.SetPad(258)
			dir := filepath.Join(t.TempDir(), "reward")
			if err := (&Dense{Path: dir}).Write(context.Background(), cpu.New(cpu.Options{}), src, nil); err != nil {
				t.Fatal(err)
			}
			back, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer back.Close()
			head := back.At(-1, Head)
			if !back.Spec.Reward || back.Spec.Tied || len(back.Tensors()) != words+1 || head.Name != "score.weight" || back.Named("lm_head.weight") != nil {
				t.Fatalf("%d tensors, head %+v", len(back.Tensors()), head)
			}
			raw, _, err := back.Read(head)
			if err != nil {
				t.Fatal(err)
			}
			v := make([]float32, head.Len())
			block.DecodeAll(v, raw)
			if !slices.Equal(v, draw(len(v))) || head.Rows != 1 || head.Cols != src.Spec.C {
				t.Errorf("head [%d, %d] %v", head.Rows, head.Cols, v)
			}
			if _, err := GGUFKeys(&back.Spec, "x", 0, nil); err == nil || !strings.Contains(err.Error(), "reward model") {
				t.Errorf("as a GGUF: %v", err)
			}
			path := filepath.Join(dir, "config.json")
			config, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(config), `"pad_token_id": 258`) || !strings.Contains(string(config), rewardClass) {
				t.Errorf("config %s", config)
			}
			more := strings.Replace(string(config), `"0": "LABEL_0"`, `"0": "A", "1": "B", "2": "C"`, 1)
			if err := os.WriteFile(path, []byte(more), 0o666); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "3 labels") {
				t.Errorf("a classifier: %v", err)
			}
		})
	}
}
