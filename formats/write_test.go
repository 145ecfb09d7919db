package formats

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// copyPlan is a plan with all tensors of r.
func copyPlan(r Reader) []TensorPlan {
	var plan []TensorPlan
	for _, t := range r.Tensors() {
		plan = append(plan, TensorPlan{Name: t.Name, Shape: t.Shape, Type: t.Type})
	}
	return plan
}

// fill writes every tensor of r that w does not have, and commits.
func fill(t *testing.T, w Writer, r Reader) {
	t.Helper()
	defer w.Abort()
	for i := range r.Tensors() {
		ten := &r.Tensors()[i]
		if w.Has(ten.Name) {
			continue
		}
		data, err := r.Read(ten)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Write(ten.Name, data); err != nil {
			t.Fatal(err)
		}
		if back, err := w.Read(ten.Name); err != nil || !bytes.Equal(back, data) {
			t.Errorf("%s: read back differs: %v", ten.Name, err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestRewriteGGUF writes files of llama.cpp and Transformers' converters again
// from what was read; the bytes must be the same.
func TestRewriteGGUF(t *testing.T) {
	var files []string
	for _, dir := range []string{"golden/arch", "golden/blocks", "llama.cpp-vocab", "stories260K"} {
		files = append(files, sharedFiles(t, dir, ".gguf")...)
	}
	for _, path := range files {
		r := mustOpen(t, path)
		out := filepath.Join(t.TempDir(), "out.gguf")
		fill(t, must(CreateGGUF(out, r.KV(), copyPlan(r))), r)
		want, got := must(os.ReadFile(path)), must(os.ReadFile(out))
		if !bytes.Equal(want, got) {
			t.Errorf("%s: %d bytes became %d others, first at %d", path, len(want), len(got), firstDiff(want, got))
		}
	}
}

func firstDiff(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// TestRewriteSafetensors does the same with files the safetensors library wrote.
func TestRewriteSafetensors(t *testing.T) {
	for _, path := range append(sharedFiles(t, "golden/arch", "model.safetensors"), sharedFiles(t, "golden/train/lora", "adapter_model.safetensors")...) {
		tensors, meta, err := ReadSafetensors(path)
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "out.safetensors")
		if err := WriteSafetensors(out, tensors, meta); err != nil {
			t.Fatal(err)
		}
		if want, got := must(os.ReadFile(path)), must(os.ReadFile(out)); !bytes.Equal(want, got) {
			t.Errorf("%s: %d bytes became %d others, first at %d", path, len(want), len(got), firstDiff(want, got))
		}
	}
}

// TestRewriteFolders reads quantized folders and writes them in the same
// layout, in several shards; the weights must be the same.
func TestRewriteFolders(t *testing.T) {
	quant, bnb := testdir.Shared(t, "golden/quant"), testdir.Shared(t, "golden/blocks/bnb_model")
	for _, c := range []struct{ dir, layout string }{
		{quant + "/gptq-4b-g128-sym", GPTQ}, {quant + "/gptq-4b-g128-descact", GPTQ}, {quant + "/gptq-3b-g128-sym", GPTQ},
		{quant + "/autoround-auto_gptq-sym", GPTQ}, {quant + "/awq-4b-g128-gemm", AWQ}, {quant + "/ct-w4a16-g128-asym-rtn", CompressedTensors},
		{quant + "/ct-w4a16-g128-sym-gptq", CompressedTensors}, {quant + "/ct-w4a16-g128-asym-rtn", AWQ}, {quant + "/awq-4b-g128-gemm", GPTQ},
		{quant + "/awq-4b-g128-gemm", GPTQV2}, {quant + "/gptq-4b-g128-descact", GPTQV2},
		{quant + "/ct-w8a8-int8", CompressedTensors}, {quant + "/orig", Plain},
		{bnb + "/nf4", Bitsandbytes}, {bnb + "/nf4_double", Bitsandbytes}, {bnb + "/fp4_double", Bitsandbytes},
	} {
		for _, shard := range []int64{0, 150_000} {
			t.Run(fmt.Sprintf("%s/%s/%d", filepath.Base(c.dir), c.layout, shard), func(t *testing.T) { rewriteFolder(t, c.dir, c.layout, shard) })
		}
	}
}

func rewriteFolder(t *testing.T, dir, layout string, shard int64) {
	r := mustOpen(t, dir)
	out := filepath.Join(t.TempDir(), "out")
	gen, _ := r.File("generation_config.json")
	o := FolderOptions{Config: r.Config(), Files: map[string][]byte{"generation_config.json": gen}, Plan: copyPlan(r), MaxShard: shard, Layout: layout}
	fill(t, must(CreateFolder(out, o)), r)
	again := mustOpen(t, out)
	if len(again.Tensors()) != len(r.Tensors()) || len(again.Warnings()) != 0 {
		t.Errorf("%d tensors, expected %d; warnings %q", len(again.Tensors()), len(r.Tensors()), again.Warnings())
	}
	for i := range r.Tensors() {
		a := &r.Tensors()[i]
		b := find(t, again, a.Name)
		if a.Type != b.Type || !reflect.DeepEqual(a.Shape, b.Shape) {
			t.Errorf("%s was %v %v, is %v %v", a.Name, a.Type, a.Shape, b.Type, b.Shape)
		}
		if !bytes.Equal(must(r.Read(a)), must(again.Read(b))) {
			t.Errorf("%s: values changed", a.Name)
		}
	}
	if g, _ := again.File("generation_config.json"); !bytes.Equal(g, gen) {
		t.Error("generation_config.json changed")
	}
	index, _ := again.File("model.safetensors.index.json")
	if (index != nil) != (shard > 0) {
		t.Errorf("index present: %v", index != nil)
	}
	if left, _ := filepath.Glob(out + ".*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if _, err := CreateFolder(out, o); err == nil || !strings.Contains(err.Error(), "not an empty folder") {
		t.Errorf("writing over a folder: %v", err)
	}
}

// TestQuantizationConfig compares what the writer puts in config.json with what
// the tools write, key by key.
func TestQuantizationConfig(t *testing.T) {
	quant, bnb := testdir.Shared(t, "golden/quant"), testdir.Shared(t, "golden/blocks/bnb_model")
	for _, c := range []struct {
		dir, layout string
		free        []string // keys whose values are a tool's own affair
	}{
		{quant + "/gptq-4b-g128-sym", GPTQ, []string{"meta"}},
		{quant + "/gptq-4b-g128-descact", GPTQ, []string{"meta"}},
		{quant + "/awq-4b-g128-gemm", AWQ, []string{"meta", "modules_to_not_convert", "checkpoint_format", "format", "method", "pack_dtype", "desc_act", "lm_head"}},
		{quant + "/ct-w4a16-g128-asym-rtn", CompressedTensors, []string{"config_groups", "version", "sparsity_config", "transform_config"}},
		{bnb + "/nf4_double", Bitsandbytes, []string{"bnb_4bit_compute_dtype"}},
		{bnb + "/nf4", Bitsandbytes, []string{"bnb_4bit_compute_dtype"}},
	} {
		r := mustOpen(t, c.dir)
		var want struct {
			Q map[string]any `json:"quantization_config"`
		}
		if err := unmarshalNumbers(r.Config(), &want); err != nil || len(want.Q) == 0 {
			t.Fatal(c.dir, err)
		}
		q, err := quantizationConfig(FolderOptions{Config: r.Config(), Plan: copyPlan(r), Layout: c.layout, Head: "lm_head"})
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := unmarshalNumbers(must(q.MarshalJSON()), &got); err != nil {
			t.Fatal(err)
		}
		for _, k := range c.free {
			delete(want.Q, k)
			delete(got, k)
		}
		if !reflect.DeepEqual(want.Q, got) {
			t.Errorf("%s:\n got %v\nwant %v", c.dir, got, want.Q)
		}
	}
}

// unmarshalNumbers keeps 6 and 6.0 apart, as Python's programs do.
func unmarshalNumbers(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(v)
}

// TestKeptLinears checks that matrices left unquantized are named to every
// consumer, and that options are merged.
func TestKeptLinears(t *testing.T) {
	q4 := dtype.Type{Kind: dtype.Int4, Group: 32, Scale: dtype.F16}
	plan := []TensorPlan{
		{Name: "model.embed_tokens.weight", Shape: []int64{64, 32}},
		{Name: "model.layers.0.mlp.up_proj.weight", Shape: []int64{64, 32}, Linear: true},
		{Name: "model.layers.0.mlp.down_proj.weight", Shape: []int64{32, 64}, Type: q4, Linear: true},
		{Name: "model.layers.0.input_layernorm.weight", Shape: []int64{32}},
		{Name: "lm_head.weight", Shape: []int64{64, 32}},
	}
	for layout, want := range map[string]string{
		GPTQ:              `"dynamic":{"-:^model\\.layers\\.0\\.mlp\\.up_proj$":{}}`,
		AWQ:               `"modules_to_not_convert":["model.layers.0.mlp.up_proj","lm_head"]`,
		CompressedTensors: `"ignore":["model.layers.0.mlp.up_proj","lm_head"]`,
	} {
		q := must(quantizationConfig(FolderOptions{Plan: plan, Layout: layout, Head: "lm_head", Quantization: []byte(`{"damp_percent":0.01}`)}))
		text := string(must(q.MarshalJSON()))
		if !strings.Contains(text, want) || !strings.Contains(text, `"damp_percent":0.01`) {
			t.Errorf("%s: %s has no %s", layout, text, want)
		}
	}
	plan[4].Type = dtype.Type{Kind: dtype.Int4, Group: 16, Scale: dtype.F16}
	if _, err := quantizationConfig(FolderOptions{Plan: plan, Layout: AWQ}); err == nil || !strings.Contains(err.Error(), "different types") {
		t.Errorf("two group sizes in one folder: %v", err)
	}
}

// TestMixedTypes writes weights of several types into one folder and reads the
// types and the bytes back, by both layouts whose configuration can say it.
func TestMixedTypes(t *testing.T) {
	const rows, cols = 32, 64
	for layout, want := range map[string]string{
		GPTQ:              `"dynamic":{"+:^model\\.layers\\.1\\.mlp\\.up_proj$":{"bits":8,"desc_act":false,"group_size":-1,"sym":false},"+:^model\\.layers\\.2\\.mlp\\.up_proj$":{"bits":4,"desc_act":false,"group_size":64,"sym":true}}`,
		CompressedTensors: `"targets":["model.layers.1.mlp.up_proj"]`,
	} {
		scale := map[string]dtype.Kind{GPTQ: dtype.F16, CompressedTensors: dtype.BF16}[layout]
		types := []dtype.Type{
			{Kind: dtype.Int4, Group: 32, Scale: scale, Flags: dtype.Zero},
			{Kind: dtype.Int8, Group: -1, Scale: scale, Flags: dtype.Zero},
			{Kind: dtype.Int4, Group: 64, Scale: scale},
			{Kind: dtype.Int4, Group: 32, Scale: scale, Flags: dtype.Zero},
		}
		if layout == CompressedTensors { // a group that is the whole row is stored as such
			types[2].Group = -1
		}
		var plan []TensorPlan
		data := map[string][]byte{}
		for i, typ := range types {
			name := fmt.Sprintf("model.layers.%d.mlp.up_proj.weight", i)
			m := block.New(typ, rows, cols)
			w := make([]float32, rows*cols)
			for j := range w {
				w[j] = float32((j*(7+i))%41-17) / 16
			}
			if err := block.Encode(m, w, nil); err != nil {
				t.Fatal(err)
			}
			plan, data[name] = append(plan, TensorPlan{Name: name, Shape: []int64{rows, cols}, Type: typ}), m.Data
		}
		out := filepath.Join(t.TempDir(), "out")
		w, err := CreateFolder(out, FolderOptions{Config: []byte(`{}`), Plan: plan, Layout: layout})
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range data {
			if err := w.Write(name, b); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		r := mustOpen(t, out)
		var config bytes.Buffer
		if err := json.Compact(&config, r.Config()); err != nil || !strings.Contains(config.String(), want) {
			t.Errorf("%s: %s has no %s, %v", layout, config.String(), want, err)
		}
		for i, x := range r.Tensors() {
			if x.Type != types[i] {
				t.Errorf("%s: %s comes back as %v, want %v", layout, x.Name, x.Type, types[i])
			} else if b, err := r.Read(&r.Tensors()[i]); err != nil || !bytes.Equal(b, data[x.Name]) {
				t.Errorf("%s: %s comes back as other codes, %v", layout, x.Name, err)
			}
		}
	}
}

// TestPlanErrors are plans no writer may begin.
func TestPlanErrors(t *testing.T) {
	int4 := dtype.Type{Kind: dtype.Int4, Group: 32, Scale: dtype.F16}
	for _, c := range []struct {
		layout, want string
		plan         TensorPlan
	}{
		{GPTQ, "does not divide", TensorPlan{Name: "a.weight", Shape: []int64{32, 48}, Type: int4}},
		{GPTQ, "words of 32", TensorPlan{Name: "a.weight", Shape: []int64{12, 64}, Type: int4}},
		{AWQ, "multiple of 8", TensorPlan{Name: "a.weight", Shape: []int64{12, 64}, Type: int4}},
		{AWQ, "activation order", TensorPlan{Name: "a.weight", Shape: []int64{16, 64}, Type: dtype.Type{Kind: dtype.Int4, Group: 32, Flags: dtype.Perm}}},
		{GPTQ, "….weight", TensorPlan{Name: "a.bias", Shape: []int64{32, 64}, Type: int4}},
		{Plain, "cannot be stored", TensorPlan{Name: "a.weight", Shape: []int64{32, 64}, Type: int4}},
		{Bitsandbytes, "cannot be stored", TensorPlan{Name: "a.weight", Shape: []int64{32, 64}, Type: int4}},
		{GPTQ, "group size", TensorPlan{Name: "a.weight", Shape: []int64{32, 64}, Type: dtype.Of(dtype.Int4)}},
		{Plain, "too large", TensorPlan{Name: "a.weight", Shape: []int64{1 << 40, 1 << 40}}},
		{Plain, "no usable name", TensorPlan{Name: "", Shape: []int64{1}}},
		{"gguf", "unknown folder layout", TensorPlan{Name: "a.weight", Shape: []int64{32, 64}, Type: int4}},
	} {
		out := filepath.Join(t.TempDir(), "out")
		_, err := CreateFolder(out, FolderOptions{Config: []byte("{}"), Plan: []TensorPlan{c.plan}, Layout: c.layout})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %v: %v", c.layout, c.plan, err)
		}
		if left, _ := filepath.Glob(out + "*"); len(left) > 0 {
			t.Errorf("%v left %q", c.plan, left)
		}
	}
	for want, p := range map[string]TensorPlan{
		"1 to 63 bytes":   {Name: strings.Repeat("x", 64), Shape: []int64{1}},
		"4":               {Name: "x", Shape: []int64{1, 1, 1, 1, 1}},
		"whole number":    {Name: "x", Shape: []int64{255}, Type: dtype.Of(dtype.Q4_K)},
		"GGUF has no NF4": {Name: "x", Shape: []int64{256}, Type: dtype.NF4Double},
	} {
		if _, err := CreateGGUF(filepath.Join(t.TempDir(), "x.gguf"), nil, []TensorPlan{p}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, expected %q", p, err, want)
		}
	}
	for want, kv := range map[string]KV{
		"cannot hold a int": {"a", 1}, "unprintable": {"", uint32(1)}, "power of two": {"general.alignment", uint32(13)},
	} {
		if _, err := CreateGGUF(filepath.Join(t.TempDir(), "x.gguf"), []KV{kv}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", kv, err)
		}
	}
}

// TestWriteMisuse checks the calls of a Writer that must fail, and that they
// leave nothing at the path.
func TestWriteMisuse(t *testing.T) {
	out := filepath.Join(t.TempDir(), "m.gguf")
	w := must(CreateGGUF(out, nil, []TensorPlan{{Name: "a", Shape: []int64{4}}, {Name: "b", Shape: []int64{4}}}))
	if err := w.Write("c", nil); err == nil {
		t.Error("a tensor outside the plan was written")
	}
	if err := w.Write("a", make([]byte, 15)); err == nil {
		t.Error("15 of 16 bytes were written")
	}
	if _, err := w.Read("a"); err == nil {
		t.Error("a tensor was read before it was written")
	}
	if err := w.Write("a", make([]byte, 16)); err != nil {
		t.Error(err)
	}
	if err := w.Commit(); err == nil || !strings.Contains(err.Error(), "1 of 2 tensors were not written: b") {
		t.Error(err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("the file exists before it is whole")
	}
	if _, err := CreateGGUF(out, nil, nil); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second writer: %v", err)
	}
	w.Abort()
	if left, _ := filepath.Glob(out + "*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestResume stops a writer after every number of tensors, starts it again, and
// compares the result with an uninterrupted one.
func TestResume(t *testing.T) {
	plan := []TensorPlan{
		{Name: "a.weight", Shape: []int64{8, 64}, Type: dtype.NF4Double}, {Name: "b.weight", Shape: []int64{16, 64}, Type: dtype.NF4Double},
		{Name: "c.bias", Shape: []int64{5}}, {Name: "d.weight", Shape: []int64{3, 7}, Type: dtype.Of(dtype.BF16)},
	}
	o := FolderOptions{Config: []byte(`{"model_type":"llama"}`), Plan: plan, Layout: Bitsandbytes, MaxShard: 900}
	data := map[string][]byte{}
	for i, p := range plan {
		m := block.New(p.Type, p.Rows(), p.Cols())
		if p.Type.Quantized() {
			x := make([]float32, p.Rows()*p.Cols())
			for k := range x {
				x[k] = float32((k*37+i)%101) - 50
			}
			if err := block.Encode(m, x, nil); err != nil {
				t.Fatal(err)
			}
		}
		data[p.Name] = m.Data
	}
	write := func(dir string, stop int) int {
		w := must(CreateFolder(dir, o))
		n := 0
		for _, p := range plan {
			if w.Has(p.Name) {
				continue
			}
			if n == stop {
				if err := w.Suspend(); err != nil {
					t.Fatal(err)
				}
				return n
			}
			if err := w.Write(p.Name, data[p.Name]); err != nil {
				t.Fatal(err)
			}
			n++
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		return n
	}
	whole := filepath.Join(t.TempDir(), "whole")
	write(whole, -1)
	want := treeSum(t, whole)
	for stop := range plan {
		dir := filepath.Join(t.TempDir(), "m")
		first := write(dir, stop)
		if _, err := os.Stat(dir); err == nil {
			t.Error("the folder exists before it is whole")
		}
		if second := write(dir, -1); first+second != len(plan) {
			t.Errorf("stopped after %d, then wrote %d of %d", first, second, len(plan))
		}
		if got := treeSum(t, dir); got != want {
			t.Errorf("stopped after %d: other bytes", stop)
		}
	}
}

// treeSum is a hash of the names and bytes of a folder.
func treeSum(t *testing.T, dir string) string {
	t.Helper()
	var all []byte
	for _, e := range must(os.ReadDir(dir)) {
		all = fmt.Appendf(all, "%s\x00%s\x00", e.Name(), must(os.ReadFile(filepath.Join(dir, e.Name()))))
	}
	return sum(all)
}

// TestInt8Rows: every positive number of F16 is found again from its 127th, so that rows
// of LLM.int8() come back as they were; another scale is refused.
func TestInt8Rows(t *testing.T) {
	rows := 0x7bff + 1 // all finite numbers from 0 on
	half, tops := make([]byte, 2*rows), make([]float32, rows)
	for i := range rows {
		half[2*i], half[2*i+1] = byte(i), byte(i>>8)
	}
	block.GetF16(tops, half)
	m := block.New(bnbRows, rows, 3)
	for r, top := range tops {
		block.SetInt(m, r, []uint8{1, uint8(128 + r%128), 255}, []float32{top / 127}, []float32{0})
	}
	l := bnbInt8Layout(TensorPlan{Name: "a.weight", Type: bnbRows, Shape: []int64{int64(rows), 3}})
	p := must(l.out(m))
	for r, top := range tops {
		if got := f32(p["scb"], r); got != top {
			t.Fatalf("row %d: the maximum is %g, want %g", r, got, top)
		}
	}
	again := block.New(bnbRows, rows, 3)
	if err := l.in(again, p); err != nil || !bytes.Equal(again.Data, m.Data) {
		t.Errorf("not read back as it was: %v", err)
	}
	block.SetInt(m, 7, []uint8{1, 2, 3}, []float32{0.1}, []float32{0})
	if _, err := l.out(m); err == nil || !strings.Contains(err.Error(), "row 7") {
		t.Errorf("a scale that is no 127th of a number of F16: %v", err)
	}
}
