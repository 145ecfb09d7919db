package arch_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// noClassGGUF are the classes that a GGUF does not hold, and what the refusal says.
var noClassGGUF = map[string]string{"cwm": noConversion, "glm46v": noConversion, "glm4v": noConversion, "glm4v_moe": noConversion, "helium": noConversion, "t5gemma": noConversion,
	"olmoe clip": "clip_qkv", "bloom normed": "apply_residual_connection_post_layernorm"}

const noConversion = "no conversion to it is known"

// Models of classes without a reference case compute what Transformers does
// (testdata/classes.py), with a cache what without one, have its gradients, and are the
// same in a folder and in a GGUF written of them; of larger models the rest goes along.
func TestClasses(t *testing.T) {
	classes, err := archtest.Classes("testdata/classes.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		t.Run(name, func(t *testing.T) {
			f := classes[name]
			dir := t.TempDir()
			err := os.WriteFile(filepath.Join(dir, "config.json"), f.Config, 0o666)
			if err == nil {
				err = formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), f.Stored(), nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			want, largest := f.Logits, float32(1)
			for _, v := range want {
				largest = max(largest, v, -v)
			}
			ids, end := slices.Concat(f.Source, archtest.ClassIDs), 16*len(want) // the row from the end
			if f.Source != nil {                                                 // behind the last of its texts nothing is predicted
				end *= 2
			}
			last := func(z []float32) (out []float32) {
				for i := range want {
					out = append(out, z[len(z)-end+16*i])
				}
				return out
			}
			whole, cached := logitsOf(t, dir, ids)
			near(t, "logits", last(whole), want, 1e-5*float64(largest))
			near(t, "with a cache", cached, whole, 1e-4)
			checkGreedy(t, dir, f)
			checkGradients(t, dir, f, false)
			if f.Source != nil {
				checkGradients(t, dir, f, true)
				checkPacked(t, dir, f, whole)
			}
			src := open(t, dir)
			t.Run("folder", func(t *testing.T) {
				out := filepath.Join(t.TempDir(), "folder")
				rewritten(t, out, src, ids, whole, largest)
				sameFolder(t, open(t, out), name, f)
			})
			t.Run("gguf", func(t *testing.T) {
				out := filepath.Join(t.TempDir(), "a.gguf")
				if no := noClassGGUF[name]; no != "" {
					err := (&arch.Dense{Path: out, Name: "m"}).Write(context.Background(), cpu.New(cpu.Options{}), src, nil)
					if err == nil || !strings.Contains(err.Error(), no) {
						t.Fatalf("%v, want the refusal %q", err, no)
					}
					t.Logf("refused: %s", strings.TrimPrefix(err.Error(), "m: "))
					return
				}
				rewritten(t, out, src, ids, whole, largest)
				rewritten(t, filepath.Join(t.TempDir(), "back"), open(t, out), ids, whole, largest)
			})
		})
	}
}

// rewritten writes a model to out, where it is the same, within rounding of the largest logit.
func rewritten(t *testing.T, out string, src *arch.Source, ids []int32, want []float32, largest float32) {
	t.Helper()
	if err := (&arch.Dense{Path: out, Name: "m"}).Write(context.Background(), cpu.New(cpu.Options{}), src, nil); err != nil {
		t.Fatal(err)
	}
	got, _ := logitsOf(t, out, ids)
	near(t, filepath.Base(out), got, want, 1e-5*float64(largest))
}

// sameFolder: a folder has the names, shapes and values of the one it was written of.
func sameFolder(t *testing.T, s *arch.Source, name string, f *archtest.Class) {
	t.Helper()
	tensors := s.Reader.Tensors()
	if len(tensors) != len(f.Tensors) {
		t.Errorf("%d tensors were written of %d", len(tensors), len(f.Tensors))
	}
	for i := range tensors {
		x := &tensors[i]
		n := int64(1)
		for _, d := range x.Shape {
			n *= d
		}
		data, err := s.Reader.Read(x)
		if name == "qwen3_vl_moe" && strings.Contains(x.Name, ".experts.") {
			continue // is written as it was published, which Transformers saves otherwise
		}
		if err != nil || !slices.Equal(x.Shape, f.Tensors[x.Name]) || !bytes.Equal(data, kernels.Bytes(f.Value(x.Name, n))) {
			t.Errorf("%s %v is not %v of the folder it was written of (%v)", x.Name, x.Shape, f.Tensors[x.Name], err)
		}
	}
}

// checkGreedy generates with a cache.
func checkGreedy(t *testing.T, dir string, f *archtest.Class) {
	t.Helper()
	m, err := model.Load(cpu.New(cpu.Options{}), open(t, dir), model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	c, err := m.NewCache(1, len(archtest.ClassIDs)+len(f.Greedy))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	next := archtest.ClassIDs
	if f.Source != nil {
		c.Source(0, f.Source)
		next = []int32{m.Spec.Start}
	}
	var got []int32
	for range f.Greedy {
		z, err := m.Step(c, []model.Piece{{Slot: 0, Tokens: next}})
		if err != nil {
			t.Fatal(err)
		}
		best := int32(0)
		for i, v := range z[0] {
			if v > z[0][best] {
				best = int32(i)
			}
		}
		got = append(got, best)
		next = []int32{best}
	}
	if !slices.Equal(got, f.Greedy) {
		t.Errorf("greedy text is %v, want %v", got, f.Greedy)
	}
}

// checkPacked: texts that are packed together compute what each does alone.
func checkPacked(t *testing.T, dir string, f *archtest.Class, alone []float32) {
	t.Helper()
	m, err := model.Load(cpu.New(cpu.Options{}), open(t, dir), model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	other := slices.Repeat([]int32{7, 8, 9}, 12)
	in := model.Pack(other, slices.Concat(f.Source, archtest.ClassIDs), other)
	in.From = []int32{20, int32(len(f.Source)), 3}
	z, err := tape.Values(m.Logits(tape, m.Hidden(tape, in)))
	if err != nil {
		t.Fatal(err)
	}
	from := len(other) * m.Spec.V
	near(t, "packed", z[from:from+len(alone)], alone, 1e-4)
}

// checkGradients compares gradients of full training, of blocks that run twice where again
// is set.
func checkGradients(t *testing.T, dir string, f *archtest.Class, again bool) {
	t.Helper()
	m, err := model.Load(cpu.New(cpu.Options{}), open(t, dir), model.Options{Trainable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.GradientCheckpointing = again
	for _, p := range m.Params() {
		if p.Grad, err = m.Dev.Alloc(kernels.Gradients, dtype.Of(dtype.F32), p.Len()); err != nil {
			t.Fatal(err)
		}
		m.Dev.Fill(p.Grad, 0)
	}
	tape := &autograd.Tape{Dev: m.Dev, Record: true}
	defer tape.Free()
	in := model.Pack(archtest.ClassIDs)
	target := append(slices.Clone(archtest.ClassIDs[1:]), -1)
	n := len(target) - 1
	if f.Source != nil {
		source := model.Pack(f.Source)
		in = model.Pack(append([]int32{m.Spec.Start}, archtest.ClassIDs[:n]...))
		in.Source, target, n = &source, archtest.ClassIDs, n+1
	}
	h := m.Hidden(tape, in)
	m.LogProb(tape, h, target, slices.Repeat([]float32{1 / float32(n)}, len(target)))
	tape.Done(h)
	if err := tape.Backward(); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, p := range m.Params() {
		want := f.Grads[p.Name]
		if want == nil {
			continue
		}
		v := make([]float32, p.Len())
		if err := m.Dev.Download(kernels.Bytes(v), p.Grad); err != nil {
			t.Fatal(err)
		}
		sum, top := 0.0, 0.0
		for _, x := range v {
			sum, top = sum+float64(x)*float64(x), max(top, math.Abs(float64(x)))
		}
		got := []float32{float32(math.Sqrt(sum)), v[0], v[1]}
		if m.TensorOf(p).Turned { // Transformers has the columns as rows
			got, want = got[:2], want[:2]
		}
		near(t, "gradient of "+p.Name, got, want, 1e-4*max(top, float64(want[0]), 1e-4)) // of a key's bias without rotation it is nothing but rounding
		compared++
	}
	if compared < len(f.Grads)*3/4 || compared == 0 {
		t.Errorf("%d of %d gradients are of known names", compared, len(f.Grads))
	}
}

// Larger models as AutoModel saves them have no head, and names that begin otherwise; what
// was added to a vocabulary is stated where the half that reads text is.
func TestLargerBare(t *testing.T) {
	classes, err := archtest.Classes("testdata/classes.json")
	if err != nil {
		t.Fatal(err)
	}
	c := classes["llava_next"]
	write := func(config string, tensors []formats.NamedTensor) string {
		dir := t.TempDir()
		err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666)
		if err == nil {
			err = formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), tensors, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	whole := write(string(c.Config), c.Stored())
	want, _ := logitsOf(t, whole, archtest.ClassIDs)
	tensors := c.Stored()
	for i := range tensors {
		tensors[i].Name = strings.Replace(tensors[i].Name, "language_model.model.", "language_model.", 1)
	}
	bare := write(strings.Replace(string(c.Config), "LlavaNextForConditionalGeneration", "LlavaNextModel", 1), tensors)
	got, _ := logitsOf(t, bare, archtest.ClassIDs)
	near(t, "without a head", got, want, 0)

	src := open(t, whole)
	if err := src.Grow(260); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "grown")
	if err := (&arch.Dense{Path: out}).Write(context.Background(), cpu.New(cpu.Options{}), src, nil); err != nil {
		t.Fatal(err)
	}
	if v := open(t, out).Spec.V; v != 260 {
		t.Errorf("%d tokens, want 260", v)
	}
}

// Kimi K2.5 as it is published names its class and its text's otherwise than Transformers 5.
func TestKimiPublished(t *testing.T) {
	classes, err := archtest.Classes("testdata/classes.json")
	if err != nil {
		t.Fatal(err)
	}
	c := classes["kimi_k25"]
	var logits [2][]float32
	for i, names := range []*strings.Replacer{strings.NewReplacer(), strings.NewReplacer("Kimi_K25", "KimiK25", `"model_type":"deepseek_v3"`, `"model_type":"kimi_k2"`)} {
		dir := t.TempDir()
		err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(names.Replace(string(c.Config))), 0o666)
		if err == nil {
			err = formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), c.Stored(), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 && !strings.Contains(names.Replace(string(c.Config)), "kimi_k2\"") {
			t.Fatal("the text's model_type is not the published one")
		}
		logits[i], _ = logitsOf(t, dir, archtest.ClassIDs)
	}
	near(t, "as published", logits[1], logits[0], 0)
}

// Where a sublayer adds to what its norm made, scales of the norm would reach the stream:
// none moves there.
func TestNormedStreamStays(t *testing.T) {
	classes, err := archtest.Classes("testdata/classes.json")
	if err != nil {
		t.Fatal(err)
	}
	c, dir := classes["bloom normed"], t.TempDir()
	for _, normed := range []bool{true, false} {
		config := strings.Replace(string(c.Config), `"apply_residual_connection_post_layernorm":true`, fmt.Sprintf(`"apply_residual_connection_post_layernorm":%t`, normed), 1)
		err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666)
		if err == nil {
			err = formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), c.Stored(), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := model.Load(cpu.New(cpu.Options{}), open(t, dir), model.Options{})
		if err != nil {
			t.Fatal(err)
		}
		moves := slices.ContainsFunc(m.Blocks[0].Smooth(), func(p model.Pair) bool { return p.Norm != nil })
		if m.Close(); moves == normed {
			t.Errorf("apply_residual_connection_post_layernorm %t: scales move from norms: %t", normed, moves)
		}
	}
}
