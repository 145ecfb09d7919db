package arch_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// Layers that predict further tokens lie behind those that the config counts. They
// are not run, and a folder that is written has them still. Without a word about them
// in the config they belong to nothing.
func TestPredictingLayers(t *testing.T) {
	from := testdir.Shared(t, "golden/arch/deepseek3")
	list, _, err := formats.ReadSafetensors(filepath.Join(from, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	const extra = "model.layers.2.shared_head.norm.weight"
	for _, x := range list {
		if x.Name == "model.norm.weight" {
			x.Name = extra
			list = append(list, x)
		}
	}
	config := string(testdir.ReadFile(t, filepath.Join(from, "config.json")))
	folder := func(config string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), list, nil); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	if _, err := arch.Open(folder(config)); err == nil || !strings.Contains(err.Error(), extra) {
		t.Errorf("a tensor that the config does not tell of: %v", err)
	}
	src := open(t, folder(strings.Replace(config, `"num_nextn_predict_layers": 0`, `"num_nextn_predict_layers": 1`, 1)))
	d := arch.Dense{Path: filepath.Join(t.TempDir(), "b")}
	if err := d.Write(context.Background(), cpu.New(cpu.Options{}), src, nil); err != nil {
		t.Fatal(err)
	}
	back := open(t, d.Path)
	if len(src.Tensors()) != len(back.Tensors()) || len(back.Carried()) != 1 || back.Carried()[0].Name != extra {
		t.Errorf("%d tensors and %d carried came of %d", len(back.Tensors()), len(back.Carried()), len(src.Tensors()))
	}
}
