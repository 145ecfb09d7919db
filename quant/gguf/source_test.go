package gguf

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestGGUFFromFolder writes a Hugging Face model as BF16 and reads the same
// weights back in Hugging Face orientation, with the tokenizer's keys.
func TestGGUFFromFolder(t *testing.T) {
	src := testdir.Shared(t, "golden/quant/orig")
	out := filepath.Join(t.TempDir(), "m.gguf")
	rep, err := Write(context.Background(), dry.New(dry.Options{}), src, out, Options{Type: "BF16", Name: "orig"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Fallbacks != 0 || rep.BitsPerWeight() < 16 || rep.BitsPerWeight() > 16.1 {
		t.Errorf("%d fallbacks, %.3f bits a weight", rep.Fallbacks, rep.BitsPerWeight())
	}
	a, err := arch.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := arch.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	n := 0
	for _, t1 := range a.Tensors() {
		t2 := b.Named(t1.Name)
		x, _, err := a.Read(t1)
		if err != nil {
			t.Fatal(err)
		}
		y, _, err := b.Read(t2)
		if err != nil {
			t.Fatal(err)
		}
		if !t1.Vector {
			n++
			if !bytes.Equal(x.Data, y.Data) || t1.Type != t2.Type {
				t.Errorf("%s comes back as other weights (%v)", t1.Name, t2.Type)
			}
		} else if 2*len(x.Data) != len(y.Data) {
			t.Errorf("%s is %d bytes, want %d: vectors are F32", t1.Name, len(y.Data), 2*len(x.Data))
		}
	}
	if n < 10 {
		t.Errorf("only %d matrices", n)
	}
	keys := map[string]any{}
	for _, kv := range b.Reader.KV() {
		keys[kv.Key] = kv.Value
	}
	if keys["general.name"] != "orig" || keys["general.file_type"] != uint32(32) || keys["tokenizer.ggml.tokens"] == nil {
		t.Errorf("name %v, file type %v, tokens %T", keys["general.name"], keys["general.file_type"], keys["tokenizer.ggml.tokens"])
	}
}

// TestQuantizedRouters: a folder whose routers bitsandbytes quantized, as it does with every nn.Linear, gives a GGUF
// with routers of F32, as every other.
func TestQuantizedRouters(t *testing.T) {
	r, err := formats.Open(testdir.Shared(t, "golden/arch/qwen2-moe"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	nf4 := dtype.Type{Kind: dtype.NF4, Group: 64, Scale: dtype.F32}
	router := func(name string) bool { return strings.HasSuffix(name, ".mlp.gate.weight") }
	var plan []formats.TensorPlan
	data := map[string][]byte{}
	for i := range r.Tensors() {
		x := &r.Tensors()[i]
		b, err := r.Read(x)
		if err != nil {
			t.Fatal(err)
		}
		p := formats.TensorPlan{Name: x.Name, Shape: x.Shape, Type: x.Type}
		if router(x.Name) {
			v := make([]float32, x.Elements())
			block.DecodeAll(v, block.Raw{Type: x.Type, Rows: x.Rows(), Cols: x.Cols(), Data: b})
			m := block.New(nf4, x.Rows(), x.Cols())
			if err := block.EncodeRows(m, 0, m.Rows, v, nil); err != nil {
				t.Fatal(err)
			}
			p.Type, p.Linear, b = nf4, true, m.Data
		}
		plan, data[x.Name] = append(plan, p), b
	}
	dir := filepath.Join(t.TempDir(), "nf4")
	w, err := formats.CreateFolder(dir, formats.FolderOptions{Config: r.Config(), Plan: plan, Layout: formats.Bitsandbytes})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range plan {
		if err := w.Write(p.Name, data[p.Name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	src, err := arch.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	n := 0
	for _, o := range []Options{{Type: "F16"}, {Type: "COPY"}, {Type: "Q8_0", OutputType: "F16", EmbeddingType: "F16", Tensors: []TensorType{{".", dtype.F16}}}} {
		o.AllowRequantize = true
		choices, err := MixOf(src, &o, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range choices {
			if strings.HasSuffix(c.Name, "ffn_gate_inp.weight") {
				if n++; c.To != dtype.Of(dtype.F32) {
					t.Errorf("%s: %s is %v (%s)", o.Type, c.Name, c.To, c.Why)
				}
			}
		}
	}
	if n != 6 {
		t.Errorf("%d routers", n)
	}
}

// TestRouters: a file of any type has the routers and the biases of experts of a BF16
// folder in F32, and a float type is that of everything else.
func TestRouters(t *testing.T) {
	for _, name := range []string{"gpt-oss", "gemma3n", "qwen2-moe", "glm-moe-dsa"} {
		src, err := arch.Open(testdir.Shared(t, "golden/arch/"+name))
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		for _, want := range []string{"F32", "F16", "Q4_K_M"} {
			o := Options{Type: want}
			if want == "Q4_K_M" { // whose fallbacks for a head end where rows are shorter than blocks
				o.OutputType, o.EmbeddingType = "F16", "F16"
			}
			choices, err := MixOf(src, &o, false)
			if err != nil {
				t.Fatal(err)
			}
			exact := 0
			for _, c := range choices {
				switch k := c.To.Kind; {
				case k == dtype.F32:
					exact++
				case want != "Q4_K_M" && k.String() != want:
					t.Errorf("%s as %s: %s is %v", name, want, c.Name, k)
				}
				if strings.Contains(c.Name, "ffn_gate_inp") || // of qwen2-moe also that of one row, a vector to llama-quantize
					strings.Contains(c.Name, "indexer.proj") && want != "Q4_K_M" || strings.HasSuffix(c.Name, ".bias") || strings.Contains(c.Name, "_coef") {
					if c.To.Kind != dtype.F32 {
						t.Errorf("%s as %s: %s is %v", name, want, c.Name, c.To)
					}
				}
			}
			if exact < 10 || want != "F32" && exact == len(choices) {
				t.Errorf("%s as %s: %d of %d tensors in F32", name, want, exact, len(choices))
			}
		}
	}
}

// TestGGUFOfActOrder: rows of GPTQ whose columns have an order of their own, and blocks of NF4, which
// run over the ends of rows, cannot be put in a GGUF's order: values are decoded, where that is allowed.
func TestGGUFOfActOrder(t *testing.T) {
	src, out := sharedFolder(t, "gptq-4b-g128-descact"), filepath.Join(t.TempDir(), "m.gguf")
	if arch.Movable(dtype.NF4Double, 256) || !arch.Movable(dtype.Type{Kind: dtype.Int4, Group: 128}, 256) {
		t.Error("rows of NF4 share blocks, those of INT4 do not")
	}
	if _, err := Write(context.Background(), dry.New(dry.Options{}), src, out, Options{Type: "F32"}, nil); fail.Code(err) != 3 || !strings.Contains(err.Error(), "already quantized") {
		t.Errorf("without the option: %v", err)
	}
	if _, err := Write(context.Background(), dry.New(dry.Options{}), src, out, Options{Type: "F32", AllowRequantize: true}, nil); err != nil {
		t.Fatal(err)
	}
	a, err1 := arch.Open(src)
	b, err2 := arch.Open(out)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	defer a.Close()
	defer b.Close()
	n := 0
	for _, x := range a.Tensors() {
		if x.Type.Flags&dtype.Perm == 0 {
			continue
		}
		n++
		coded, _, err1 := a.Read(x)
		plain, _, err2 := b.Read(b.Named(x.Name))
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		want := make([]float32, coded.Rows*coded.Cols)
		if block.DecodeAll(want, coded); !bytes.Equal(kernels.Bytes(want), plain.Data) {
			t.Errorf("%s comes back as other weights", x.Name)
		}
	}
	if n != 14 {
		t.Errorf("%d matrices with an order of columns, want 14", n)
	}
}

// TestGGUFTwice: quantizing a folder and quantizing its BF16 file give the same
// tensors.
func TestGGUFTwice(t *testing.T) {
	src, dir := testdir.Shared(t, "golden/quant/orig"), t.TempDir()
	step, direct, twice := filepath.Join(dir, "bf16.gguf"), filepath.Join(dir, "direct.gguf"), filepath.Join(dir, "twice.gguf")
	for _, x := range []struct{ src, out, ty string }{{src, step, "BF16"}, {src, direct, "Q4_K_M"}, {step, twice, "q4_k_m"}} {
		if _, err := Write(context.Background(), dry.New(dry.Options{}), x.src, x.out, Options{Type: x.ty, Name: "m"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	a, b := open(t, direct), open(t, twice)
	if len(a.Tensors()) != len(b.Tensors()) {
		t.Fatalf("%d and %d tensors", len(a.Tensors()), len(b.Tensors()))
	}
	for i := range a.Tensors() {
		x, y := &a.Tensors()[i], &b.Tensors()[i]
		p, err := a.Read(x)
		if err != nil {
			t.Fatal(err)
		}
		q, err := b.Read(y)
		if err != nil {
			t.Fatal(err)
		}
		if x.Name != y.Name || x.Type != y.Type || !bytes.Equal(p, q) {
			t.Errorf("tensor %d: %s %v and %s %v differ", i, x.Name, x.Type, y.Name, y.Type)
		}
	}
}

func open(t *testing.T, path string) formats.Reader {
	t.Helper()
	r, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// TestGGUFInterrupted: a cancelled run leaves no output, says 75, and goes on
// to the same file.
func TestGGUFInterrupted(t *testing.T) {
	dir, g := golden(t)
	src, out := filepath.Join(dir, "source.gguf"), filepath.Join(t.TempDir(), "out.gguf")
	for stop := 1; stop < 12; stop += 5 {
		ctx, cancel := context.WithCancel(context.Background())
		n := 0
		_, err := Write(ctx, dry.New(dry.Options{}), src, out, Options{Type: "Q4_K_M"}, func(done, total int64) {
			if n++; n == stop {
				cancel()
			}
		})
		cancel()
		if fail.Code(err) != int(fail.Interrupted) {
			t.Fatalf("stopped after %d tensors: %v", stop, err)
		}
		if _, err := os.Stat(out); err == nil {
			t.Fatal("an unfinished run published its output")
		}
	}
	_, err := Write(context.Background(), dry.New(dry.Options{}), src, out, Options{Type: "Q4_K_M"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if hash(readFile(t, out)) != g.Runs[0].SHA {
		t.Error("the resumed file differs")
	}
	if _, err := Write(context.Background(), dry.New(dry.Options{}), src, out, Options{Type: "Q4_K_M"}, nil); fail.Code(err) != 2 || !strings.Contains(err.Error(), "exists") {
		t.Errorf("an existing output: %v", err)
	}
	if _, err := Write(context.Background(), dry.New(dry.Options{}), src, out, Options{Type: "Q4_K_M", Force: true}, nil); err != nil {
		t.Errorf("with force: %v", err)
	}
	if _, err := Write(context.Background(), dry.New(dry.Options{}), out, out, Options{Type: "Q8_0", Force: true}, nil); fail.Code(err) != 2 {
		t.Errorf("output over input: %v", err)
	}
}

// TestGGUFRequantize: what is quantized already is only decoded on request.
func TestGGUFRequantize(t *testing.T) {
	dir, _ := golden(t)
	tmp := t.TempDir()
	q8, q4 := filepath.Join(tmp, "q8.gguf"), filepath.Join(tmp, "q4.gguf")
	if _, err := Write(context.Background(), dry.New(dry.Options{}), filepath.Join(dir, "source.gguf"), q8, Options{Type: "Q8_0"}, nil); err != nil {
		t.Fatal(err)
	}
	_, err := Write(context.Background(), dry.New(dry.Options{}), q8, q4, Options{Type: "Q4_0"}, nil)
	if fail.Code(err) != 3 || !strings.Contains(err.Error(), "output.weight") || !strings.Contains(fail.Hint(err), "--allow-requantize") {
		t.Errorf("without the option: %v", err)
	}
	if _, err := Write(context.Background(), dry.New(dry.Options{}), q8, q4, Options{Type: "Q4_0", AllowRequantize: true}, nil); err != nil {
		t.Errorf("with it: %v", err)
	}
	same := filepath.Join(tmp, "copy.gguf")
	if _, err := Write(context.Background(), dry.New(dry.Options{}), q8, same, Options{Type: "COPY"}, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readFile(t, q8), readFile(t, same)) {
		t.Error("a copy of a quantized file differs from it")
	}
	gptq := filepath.Join(tmp, "gptq") // with the tokenizer that the golden folder leaves out
	if err := os.Mkdir(gptq, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"gptq-4b-g128-sym/config.json", "gptq-4b-g128-sym/model.safetensors", "orig/tokenizer.json", "orig/tokenizer_config.json"} {
		from, err := filepath.Abs(testdir.Shared(t, "golden/quant/"+f))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(from, filepath.Join(gptq, filepath.Base(f))); err != nil {
			t.Fatal(err)
		}
	}
	x := filepath.Join(tmp, "x.gguf")
	if _, err := Write(context.Background(), dry.New(dry.Options{}), gptq, x, Options{Type: "Q8_0"}, nil); fail.Code(err) != 3 || !strings.Contains(err.Error(), "already quantized") {
		t.Errorf("a GPTQ folder without the option: %v", err)
	}
	if _, err := Write(context.Background(), dry.New(dry.Options{}), gptq, x, Options{Type: "Q8_0", AllowRequantize: true}, nil); err != nil {
		t.Errorf("a GPTQ folder with it: %v", err)
	}
}

// TestScaledInput makes other types of an NVFP4 file whose weights have a number beside
// them: it multiplies what is written, and is not written itself.
func TestScaledInput(t *testing.T) {
	dir := t.TempDir()
	plain, scaled, want, got := filepath.Join(dir, "a.gguf"), filepath.Join(dir, "b.gguf"), filepath.Join(dir, "c.gguf"), filepath.Join(dir, "d.gguf")
	write := func(src, out string, o Options) {
		t.Helper()
		o.AllowRequantize = true
		if _, err := Write(context.Background(), dry.New(dry.Options{}), src, out, o, nil); err != nil {
			t.Fatal(err)
		}
	}
	write(testdir.Shared(t, "golden/quant/orig"), plain, Options{Type: "NVFP4"})
	r, err := formats.Open(plain)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var plan []formats.TensorPlan
	data := map[string][]byte{}
	for _, x := range r.Tensors() {
		if data[x.Name], err = r.Read(&x); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, formats.TensorPlan{Name: x.Name, Shape: x.Shape, Type: x.Type})
		if x.Type.Kind == dtype.NVFP4 {
			name := strings.TrimSuffix(x.Name, ".weight") + ".scale"
			plan = append(plan, formats.TensorPlan{Name: name, Shape: []int64{1}})
			data[name] = []byte{0, 0, 0, 0x3f} // a half, which float32 multiplies by exactly
		}
	}
	w, err := formats.CreateGGUF(scaled, r.KV(), plan)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for name, b := range data {
		if err := w.Write(name, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	write(plain, want, Options{Type: "F32"})
	write(scaled, got, Options{Type: "F32"})
	a, err := formats.Open(want)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := formats.Open(got)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if len(b.Tensors()) != len(a.Tensors()) {
		t.Fatalf("%d tensors, expected %d", len(b.Tensors()), len(a.Tensors()))
	}
	halves := 0
	for i := range a.Tensors() {
		p, q := &a.Tensors()[i], &b.Tensors()[i]
		x, err1 := a.Read(p)
		y, err2 := b.Read(q)
		if p.Name != q.Name || p.Type != q.Type || err1 != nil || err2 != nil {
			t.Fatal(p.Name, q.Name, p.Type, q.Type, err1, err2)
		}
		by := float32(1)
		if data[strings.TrimSuffix(p.Name, ".weight")+".scale"] != nil {
			by = 0.5
			halves++
		}
		for k := 0; k < len(x); k += 4 {
			u := math.Float32frombits(binary.LittleEndian.Uint32(x[k:]))
			v := math.Float32frombits(binary.LittleEndian.Uint32(y[k:]))
			if v != by*u {
				t.Fatalf("%s: value %d is %g, expected %g", p.Name, k/4, v, by*u)
			}
		}
	}
	if halves == 0 {
		t.Error("no weight was NVFP4")
	}
}
