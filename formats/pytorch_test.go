package formats

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

const torchFiles = "torch/testdata" // made by its make.py with torch

// TestPyTorch: the tensors of files of torch.save are those that safetensors
// holds of the same dictionaries: types, strides, parameters, wrappers, and the
// format before PyTorch 1.6.
func TestPyTorch(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(torchFiles, "*.safetensors"))
	if len(files) < 14 {
		t.Fatalf("%d files in %s", len(files), torchFiles)
	}
	for _, path := range files {
		want := byName(t, path)
		path = strings.TrimSuffix(path, ".safetensors") + ".bin"
		got, err := readPickle(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if len(got) != len(want) {
			t.Errorf("%s has %d tensors, want %d", path, len(got), len(want))
		}
		for _, a := range got {
			if w := want[a.Name]; a.DType != w.DType || !slices.Equal(a.Shape, w.Shape) || !bytes.Equal(a.Data, w.Data) {
				t.Errorf("%s: %s is %s %v % x, want %s %v % x", path, a.Name, a.DType, a.Shape, a.Data, w.DType, w.Shape, w.Data)
			}
		}
		r, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if r.Format() != "pytorch" {
			t.Errorf("%s: format %s", path, r.Format())
		}
		readThreeWays(t, r)
		r.Close()
		a, err1 := Inspect(path, true)
		b, err2 := Inspect(strings.TrimSuffix(path, ".bin")+".safetensors", true)
		if err1 != nil || err2 != nil || !reflect.DeepEqual(sums(a), sums(b)) {
			t.Errorf("%s: inspected as %v, want %v: %v %v", path, sums(a), sums(b), err1, err2)
		}
	}
}

func sums(r Report) map[string]string {
	out := map[string]string{}
	for _, x := range r.Tensors {
		out[x.Name] = fmt.Sprint(x.DType, x.Shape, x.SHA256)
	}
	return out
}

func byName(t *testing.T, path string) map[string]NamedTensor {
	t.Helper()
	list, _, err := ReadSafetensors(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]NamedTensor{}
	for _, x := range list {
		out[x.Name] = x
	}
	return out
}

// TestPyTorchUnreadable: a type that has no dtype is listed, the others are read.
func TestPyTorchUnreadable(t *testing.T) {
	r, err := Open(filepath.Join(torchFiles, "complex128.bin"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ts := r.Tensors()
	if len(ts) != 2 || ts[0].Unsupported != "complex128" || ts[1].Unsupported != "" {
		t.Errorf("%+v", ts)
	}
	_, err = r.Read(&ts[0])
	rejects(t, err, "stored as complex128")
}

// TestPyTorchErrors: errors are of the file, damage is marked as such, and a
// hostile file takes no memory.
func TestPyTorchErrors(t *testing.T) {
	_, err := Open(filepath.Join(torchFiles, "evil.bin"))
	if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "evil.bin: ") || !strings.Contains(fail.Hint(err), "state_dict") {
		t.Errorf("%v, hint %q", err, fail.Hint(err))
	}
	if _, err := os.Stat("/tmp/owned"); err == nil {
		t.Error("the pickle was run")
	}
	b := must(os.ReadFile(filepath.Join(torchFiles, "protocol3.bin")))
	rejects(t, openBytes(t, "a.bin", b[:len(b)-1]), "zip archive is damaged")
	rejects(t, openBytes(t, "b.bin", bytes.Replace(b, []byte("K\x03K\x05\x86"), []byte("J\xff\xff\xff\x7f"), 1)), "")
	rejects(t, openBytes(t, "c.bin", bytes.Repeat([]byte("\x80\x02("), 1<<16)), "")
	views := must(os.ReadFile(filepath.Join(torchFiles, "views.bin"))) // a view that repeats one value 2^31 times
	at := bytes.Index(views, []byte("K\x03K\x04\x86"))
	if at < 0 {
		t.Fatal("no shape [3 4]")
	}
	big := slices.Concat(views[:at], []byte("K\x03K\xff\x86"), views[at+5:])
	if err := openBytes(t, "d.bin", big); err != nil {
		t.Error(err)
	}
}

// TestPyTorchFolder: which of a folder's files count, and what an index says.
func TestPyTorchFolder(t *testing.T) {
	from := func(name string) []byte { return must(os.ReadFile(filepath.Join(torchFiles, name))) }
	protocol, module := from("protocol3.bin"), from("module.bin")
	st := from("protocol3.safetensors")
	index := func(of map[string]string, total int) []byte {
		var b strings.Builder
		for _, name := range []string{"a", "b", "n", "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"} {
			if of[name] != "" {
				fmt.Fprintf(&b, `,%q:%q`, name, of[name])
			}
		}
		return fmt.Appendf(nil, `{"metadata":{"total_size":%d},"weight_map":{%s}}`, total, b.String()[1:])
	}
	of := map[string]string{}
	for _, n := range []string{"a", "b", "n"} {
		of[n] = "pytorch_model-00001-of-00002.bin"
	}
	for _, n := range []string{"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"} {
		of[n] = "pytorch_model-00002-of-00002.bin"
	}
	total := 3*5*4 + 3*5*2 + 4*8 + 12*4 + 4*5*4 + 8
	for name, c := range map[string]struct {
		files    map[string][]byte
		tensors  int
		warnings int
		want     string
	}{
		"single":     {map[string][]byte{"pytorch_model.bin": protocol}, 3, 0, ""},
		"both":       {map[string][]byte{"pytorch_model.bin": module, "model.safetensors": st}, 3, 0, ""},
		"adapter":    {map[string][]byte{"adapter_model.bin": protocol, "training_args.bin": {1}}, 3, 0, ""},
		"other name": {map[string][]byte{"weights.pt": protocol, "optimizer.pt": {1}, "scheduler.pt": {1}, "rng_state.pth": {1}}, 3, 0, ""},
		"sharded":    {map[string][]byte{"pytorch_model-00001-of-00002.bin": protocol, "pytorch_model-00002-of-00002.bin": module, pickleIndex: index(of, total)}, 10, 0, ""},
		"total":      {map[string][]byte{"pytorch_model-00001-of-00002.bin": protocol, "pytorch_model-00002-of-00002.bin": module, pickleIndex: index(of, 1)}, 10, 1, ""},
		"gone":       {map[string][]byte{"pytorch_model-00001-of-00002.bin": protocol, pickleIndex: index(of, total)}, 0, 0, "1 of 2 files are missing"},
		"two sets":   {map[string][]byte{"pytorch_model.bin": protocol, "pytorch_model-00001-of-00002.bin": protocol, pickleIndex: index(of, total)}, 0, 0, "two sets of weights"},
		"no index":   {map[string][]byte{"a.bin": protocol, "b.bin": module}, 0, 0, "without an index: a.bin, b.bin"},
		"meta":       {map[string][]byte{"consolidated.00.pth": protocol, "params.json": []byte("{}")}, 0, 0, "consolidated.00.pth: this is the layout of Meta's own program"},
		"nothing":    {map[string][]byte{"training_args.bin": protocol}, 0, 0, "no safetensors file"},
		"beside":     {map[string][]byte{"pytorch_model.bin": from("beside.bin")}, 1, 4, ""},
		"evil":       {map[string][]byte{"pytorch_model.bin": from("evil.bin")}, 0, 0, "was not run"},
	} {
		dir := t.TempDir()
		for name, b := range c.files {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		r, err := Open(dir)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) || fail.Hint(err) == "" {
				t.Errorf("%s: %v, want %q and a hint", name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(r.Tensors()) != c.tensors || len(r.Warnings()) != c.warnings {
			t.Errorf("%s: %d tensors, want %d; warnings %q", name, len(r.Tensors()), c.tensors, r.Warnings())
		}
		readThreeWays(t, r)
		r.Close()
	}
}

// TestPyTorchAdapter: an adapter of PyTorch's is the one that safetensors holds.
func TestPyTorchAdapter(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(adapterConfig, []byte(`{"peft_type":"LORA"}`))
	write(adapterPickle, must(os.ReadFile(filepath.Join(torchFiles, "module.bin"))))
	a, err := ReadAdapter(dir)
	if err != nil || a.File != adapterPickle || len(a.Tensors) != 7 {
		t.Fatalf("%+v, %v", a, err)
	}
	write(adapterWeights, must(os.ReadFile(filepath.Join(torchFiles, "protocol3.safetensors"))))
	if a, err = ReadAdapter(dir); err != nil || a.File != adapterWeights || len(a.Tensors) != 3 {
		t.Fatalf("%+v, %v", a, err)
	}
}
