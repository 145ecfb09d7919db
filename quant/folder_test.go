package quant

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/kernels/par"
)

// shape are the sizes of a made-up Llama.
type shape struct{ c, v, layers, h, k, d, f int }

// small has as many key as query heads, so that scales can move from v to o,
// and a feed-forward size that is no multiple of 128.
var small = shape{c: 64, v: 96, layers: 3, h: 2, k: 2, d: 32, f: 160}

// tiny writes a model with correlated channels, a few of them large, and
// returns it open.
func tiny(t testing.TB, s shape) *arch.Source {
	t.Helper()
	config, err := json.Marshal(map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_size": s.c, "vocab_size": s.v,
		"num_hidden_layers": s.layers, "num_attention_heads": s.h, "num_key_value_heads": s.k, "head_dim": s.d,
		"intermediate_size": s.f, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "silu",
		"rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
	})
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(7, 11))
	var tensors []formats.NamedTensor
	add := func(name string, base, scale float64, dims ...int) {
		n, sh := 1, []int64{}
		for _, d := range dims {
			n *= d
			sh = append(sh, int64(d))
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(base + scale*rng.NormFloat64())
			if base != 0 && rng.IntN(12) == 0 {
				v[i] *= 8
			}
		}
		b := make([]byte, 2*n)
		block.PutBF16(b, v)
		tensors = append(tensors, formats.NamedTensor{Name: name, DType: "BF16", Shape: sh, Data: b})
	}
	add("model.embed_tokens.weight", 0, 0.5, s.v, s.c)
	for i := range s.layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		add(p+"input_layernorm.weight", 1, 0.1, s.c)
		add(p+"post_attention_layernorm.weight", 1, 0.1, s.c)
		for _, l := range []linear{
			{name: "self_attn.q", rows: s.h * s.d, cols: s.c}, {name: "self_attn.k", rows: s.k * s.d, cols: s.c},
			{name: "self_attn.v", rows: s.k * s.d, cols: s.c}, {name: "self_attn.o", rows: s.c, cols: s.h * s.d},
			{name: "mlp.gate", rows: s.f, cols: s.c}, {name: "mlp.up", rows: s.f, cols: s.c}, {name: "mlp.down", rows: s.c, cols: s.f},
		} {
			add(p+l.name+"_proj.weight", 0, 0.5/math.Sqrt(float64(l.cols)), l.rows, l.cols)
		}
	}
	add("model.norm.weight", 1, 0.1, s.c)
	add("lm_head.weight", 0, 0.1, s.v, s.c)
	slices.SortFunc(tensors, func(a, b formats.NamedTensor) int { return strings.Compare(a.Name, b.Name) })
	dir := t.TempDir()
	if err := formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), tensors, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666); err != nil {
		t.Fatal(err)
	}
	return openSource(t, dir)
}

func openSource(t testing.TB, dir string) *arch.Source {
	t.Helper()
	src, err := arch.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

// text is calibration text: n sequences of random tokens.
func text(seed uint64, n, length, v int) [][]int32 {
	rng := rand.New(rand.NewPCG(seed, 1))
	out := make([][]int32, n)
	for i := range out {
		for range length {
			out[i] = append(out[i], int32(rng.IntN(v)))
		}
	}
	return out
}

func folder(t *testing.T, src *arch.Source, cal [][]int32, jobs ...FolderJob) []*Report {
	t.Helper()
	reps, err := Folder(context.Background(), cpu.New(cpu.Options{}), src, jobs, cal, nil)
	if err != nil {
		t.Fatal(err)
	}
	return reps
}

// hashes are the SHA-256 of the files of a folder.
func hashes(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range files {
		sum := sha256.Sum256(readFile(t, filepath.Join(dir, f.Name())))
		out[f.Name()] = hex.EncodeToString(sum[:])
	}
	return out
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func same(t *testing.T, what string, a, b map[string]string) {
	t.Helper()
	if len(a) != len(b) {
		t.Errorf("%s: %d and %d files", what, len(a), len(b))
	}
	for name, h := range a {
		if b[name] != h {
			t.Errorf("%s: %s differs", what, name)
		}
	}
}

// distance is Σ(a-b)²; dot is Σ a·b.
func distance(a, b []float32) (sum float64) {
	for i, v := range a {
		d := float64(v) - float64(b[i])
		sum += d * d
	}
	return sum
}

func dot(a, b []float32) (sum float64) {
	for i, v := range a {
		sum += float64(v) * float64(b[i])
	}
	return sum
}

// logits are the model's for one sequence.
func logits(t *testing.T, src *arch.Source, ids []int32) []float32 {
	t.Helper()
	dev := cpu.New(cpu.Options{})
	m, err := model.Load(dev, src, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tape := &autograd.Tape{Dev: dev}
	defer tape.Free()
	v, err := tape.Values(m.Logits(tape, m.Hidden(tape, model.Pack(ids))))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// ordered are GPTQ's options with another order of the columns.
func ordered(order string) *GPTQOptions { return &GPTQOptions{ActOrder: order} }

// jobs are one of each method over the same groups.
func testJobs(dir string, group int) []FolderJob {
	return []FolderJob{
		{Path: filepath.Join(dir, "gptq"), Method: "gptq", Group: group},
		{Path: filepath.Join(dir, "awq"), Method: "awq", Group: group},
		{Path: filepath.Join(dir, "rtn"), Method: "rtn", Group: group},
		{Path: filepath.Join(dir, "rtn-asym"), Method: "rtn", Scheme: "W4A16_ASYM", Format: "compressed-tensors", Group: group},
		{Path: filepath.Join(dir, "nf4"), Method: "nf4"},
	}
}

// Calibration pays: on text that was not calibrated on, the logits of GPTQ and
// AWQ are nearer to the float model's than those of rounding to nearest on the
// same grid; so are the outputs of the layers. AWQ's search before GPTQ changes
// little on so small a model: more or less by the last bits of the kernels.
func TestFolderBeatsNearest(t *testing.T) {
	src := openSource(t, testdir.Shared(t, "golden/quant/orig"))
	dir := t.TempDir()
	jobs := append(testJobs(dir, 128),
		FolderJob{Path: filepath.Join(dir, "awq+gptq"), Method: "gptq", Search: "awq", Group: 128},
		FolderJob{Path: filepath.Join(dir, "awq+rtn"), Method: "rtn", Search: "awq", Group: 128})
	reps := folder(t, src, text(5, 32, 128, src.Spec.V), jobs...)
	ids := text(99, 1, 200, src.Spec.V)[0]
	want := logits(t, src, ids)
	off := map[string]float64{}
	for _, j := range jobs {
		got := openSource(t, j.Path)
		off[filepath.Base(j.Path)] = distance(logits(t, got, ids), want) / dot(want, want)
	}
	t.Log(off)
	if off["gptq"] >= off["rtn"] || off["awq"] >= off["rtn-asym"] || off["rtn-asym"] >= off["rtn"] || off["awq+gptq"] >= 1.05*off["gptq"] || off["awq+rtn"] >= off["rtn"] {
		t.Errorf("relative errors of the logits: %v", off)
	}
	for _, r := range reps {
		if len(r.Layers) != 14 || r.Fallbacks() != 0 {
			t.Errorf("%s: %d layers, %d fallbacks", r.Method, len(r.Layers), r.Fallbacks())
		}
		for _, l := range r.Layers {
			if !(l.Relative > 0 && l.Relative < 0.1) || !(l.Weight > 0.01 && l.Weight < 0.3) {
				t.Errorf("%s: %+v", r.Method, l)
			}
		}
	}
}

// An interrupted run goes on and writes the same bytes and the same report, in
// whatever block it was stopped, and with jobs together or alone.
func TestFolderResumes(t *testing.T) {
	src := tiny(t, small)
	cal := text(3, 6, 40, small.v)
	whole := t.TempDir()
	want := folder(t, src, cal, testJobs(whole, 32)...)
	for _, stop := range []int64{1, 200_000, 420_000} {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(context.Background())
		dev := cpu.New(cpu.Options{})
		_, err := Folder(ctx, dev, src, testJobs(dir, 32), cal, func(done, total int64) {
			if done >= stop {
				cancel()
			}
		})
		if e := (*fail.Error)(nil); !errors.As(err, &e) || e.Kind != fail.Interrupted {
			t.Fatalf("stopped at %d: %v", stop, err)
		}
		if now := dev.Info().Mem.Now; kernels.Total(now) != 0 {
			t.Errorf("stopped at %d: memory is left: %v", stop, now)
		}
		for _, j := range testJobs(dir, 32) {
			if _, err := os.Stat(j.Path); err == nil {
				t.Errorf("stopped at %d: %s is there", stop, j.Path)
			}
		}
		got := folder(t, src, cal, testJobs(dir, 32)...)
		for i, j := range testJobs(dir, 32) {
			same(t, fmt.Sprintf("stopped at %d: %s", stop, filepath.Base(j.Path)), hashes(t, testJobs(whole, 32)[i].Path), hashes(t, j.Path))
			if string(got[i].Lines()) != string(want[i].Lines()) {
				t.Errorf("stopped at %d: the report of %s differs:\n%s\n%s", stop, j.Method, got[i].Lines(), want[i].Lines())
			}
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 5 {
			t.Errorf("stopped at %d: %v is left beside the folders", stop, left)
		}
	}
	alone := t.TempDir()
	for i := range testJobs(alone, 32)[:2] {
		folder(t, src, cal, testJobs(alone, 32)[i])
		same(t, "alone", hashes(t, testJobs(whole, 32)[i].Path), hashes(t, testJobs(alone, 32)[i].Path))
	}
}

// Overrides give modules schemes of their own, in both layouts that can say so:
// the folder holds those types, its configuration names them, the report too.
func TestOverrides(t *testing.T) {
	src := tiny(t, small)
	overrides, err := ParseOverrides([]string{"model.layers.1.mlp.down_proj=W8A16_ASYM/-1", "re:.*[.]mlp[.]=W4A16/16"})
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{formats.GPTQ, formats.CompressedTensors} {
		path := filepath.Join(t.TempDir(), "out")
		rep := folder(t, src, nil, FolderJob{Path: path, Method: "rtn", Format: format, Group: 32, For: []string{}, Overrides: overrides})[0]
		got := openSource(t, path)
		for _, l := range rep.Layers {
			typ := got.Named(l.Layer + ".weight").Type
			want := dtype.Type{Kind: dtype.Int4, Group: 32}
			switch {
			case l.Layer == "model.layers.1.mlp.down_proj":
				want = dtype.Type{Kind: dtype.Int8, Group: -1, Flags: dtype.Zero}
			case strings.Contains(l.Layer, ".mlp."):
				want.Group = 16
			}
			want.Scale = typ.Scale
			if typ != want || (l.Type == "") == strings.Contains(l.Layer, ".mlp.") || l.Type != "" && l.Type != typ.String() {
				t.Errorf("%s: %s is %v, want %v; the report says %q", format, l.Layer, typ, want, l.Type)
			}
		}
	}
}

func TestFolderThreads(t *testing.T) {
	defer par.SetThreads(0)
	src := tiny(t, small)
	var first []map[string]string
	for n := 1; n <= 3; n++ {
		par.SetThreads(n)
		dir := t.TempDir()
		folder(t, src, text(3, 5, 40, small.v), testJobs(dir, 32)...)
		for i, j := range testJobs(dir, 32) {
			if n == 1 {
				first = append(first, hashes(t, j.Path))
				continue
			}
			same(t, fmt.Sprintf("%d threads: %s", n, j.Method), first[i], hashes(t, j.Path))
		}
	}
}

// What the walk computed with is what the folder holds: the hidden states that
// entered the last block (GPTQ: the last step of it) are, bit for bit, those of the model read from the
// folder.
func TestWalkUsesWhatItWrites(t *testing.T) {
	src := tiny(t, small)
	dev := cpu.New(cpu.Options{})
	dir := t.TempDir()
	f16 := dtype.F16
	jobs := append(testJobs(dir, 32)[:2],
		FolderJob{Path: filepath.Join(dir, "f16"), Method: "gptq", Group: 32, Options: ordered("group"), For: []string{"transformers"}, Keep: &f16, Ignore: []string{"re:.*k_proj", "model.layers.1.mlp.up_proj"}},
		FolderJob{Path: filepath.Join(dir, "awq-ct"), Method: "awq", Format: "compressed-tensors", Scheme: "W4A16", Group: 32, Ignore: []string{"up_proj"}},
		FolderJob{Path: filepath.Join(dir, "mixed"), Method: "awq", Format: "compressed-tensors", Group: 32, Overrides: []Override{{"v_proj", "W4A16", -1}}},
		FolderJob{Path: filepath.Join(dir, "mixed-gptq"), Method: "gptq", Group: 32, For: []string{}, Overrides: []Override{{"re:.*k_proj", "W8A16_ASYM", 0}}},
		FolderJob{Path: filepath.Join(dir, "scaled"), Method: "gptq", Search: "awq", Group: 32},
		FolderJob{Path: filepath.Join(dir, "scaled-rtn"), Method: "rtn", Search: "awq", Group: 32})
	r := &folderRun{walk: walk{ctx: context.Background(), dev: dev, src: src, disk: &spill{}}}
	if err := errors.Join(r.plan(jobs, text(3, 60, 40, small.v)), r.open(), r.quantize()); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.streams {
		if err := s.output.commit(); err != nil {
			t.Fatal(err)
		}
		m, err := model.Load(dev, openSource(t, s.plan.job.Path), model.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(s.passes) != 2 {
			t.Fatalf("%d passes", len(s.passes))
		}
		for i, seqs := range s.passes {
			tape := &autograd.Tape{Dev: dev, BF16: dev.Info().FastBF16}
			state := m.States(tape, model.Pack(seqs...))[small.layers-1 : small.layers]
			if s.plan.method.inOrder { // stopped before the last linear map of the block
				for _, step := range m.Blocks[small.layers-1].Steps()[:3] {
					state = step.Forward(tape, step.In(tape, state), m.Prepare(tape, model.Pack(seqs...)))
				}
			}
			held := s.states.load(i, tape)
			if len(state) != len(held) {
				t.Fatalf("%d tensors are kept, want %d", len(held), len(state))
			}
			for j, x := range state {
				got, err := tape.Values(x)
				if err != nil {
					t.Fatal(err)
				}
				kept, err := tape.Values(held[j])
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, kept) {
					t.Errorf("%s: tensor %d of pass %d differs", s.plan.job.Path, j, i)
				}
			}
			tape.Free()
		}
		m.Close()
	}
	r.free()
	if now := dev.Info().Mem.Now; kernels.Total(now) != 0 {
		t.Errorf("memory is left: %v", now)
	}
}

// The reported error of a GPTQ layer is that of the folder's weights on the
// inputs that the folder's own model makes of the calibration text.
func TestReportedError(t *testing.T) {
	src := tiny(t, small)
	cal := text(3, 6, 40, small.v)
	path := filepath.Join(t.TempDir(), "out")
	rep := folder(t, src, cal, FolderJob{Path: path, Method: "gptq", Group: 32})[0]
	dev := cpu.New(cpu.Options{})
	got, err := model.Load(dev, openSource(t, path), model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	want, err := model.Load(dev, src, model.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	own := map[string]*autograd.Param{}
	for l := range want.Linears() {
		own[l.W.Name] = l.W
	}
	seen := 0
	tape := &autograd.Tape{Dev: dev}
	defer tape.Free()
	tape.Tap = func(w *autograd.Param, x *autograd.Tensor, _ *autograd.Routed) {
		a, _ := got.Decode(w)
		b, _ := want.Decode(own[w.Name])
		v, err := tape.Values(x)
		if err != nil {
			t.Fatal(err)
		}
		e := errorOf(a, b, layerArray{[]int64{int64(x.Rows()), int64(x.Cols())}, v})
		for _, l := range rep.Layers {
			if l.Layer+".weight" == w.Name {
				seen++
				if math.Abs(l.Error-e) > 2e-3*e {
					t.Errorf("%s: reported %g, it is %g", l.Layer, l.Error, e)
				}
			}
		}
	}
	got.Hidden(tape, model.Pack(cal...))
	if tape.Err() != nil || seen != 21 {
		t.Fatal(tape.Err(), seen)
	}
}

// TestKeptRouters: the configuration of a quantized folder names the routers and the gate of
// the shared expert, which other programs make linear modules of and would look for codes of.
func TestKeptRouters(t *testing.T) {
	src := openSource(t, testdir.Shared(t, "golden/arch/qwen2-moe"))
	for format, want := range map[string]string{formats.CompressedTensors: "ignore", formats.GPTQ: "dynamic"} {
		path := filepath.Join(t.TempDir(), format)
		folder(t, src, nil, FolderJob{Path: path, Method: "rtn", Scheme: "W8A16", Format: format, Group: -1, For: []string{}})
		b, err := os.ReadFile(filepath.Join(path, "config.json"))
		var c struct {
			Quantization map[string]json.RawMessage `json:"quantization_config"`
		}
		if err = errors.Join(err, json.Unmarshal(b, &c)); err != nil {
			t.Fatal(err)
		}
		kept := strings.ReplaceAll(string(c.Quantization[want]), `\\`, "")
		for _, module := range []string{"model.layers.0.mlp.gate", "model.layers.1.mlp.shared_expert_gate"} {
			if !strings.Contains(kept, module+`"`) && !strings.Contains(kept, module+`$"`) {
				t.Errorf("%s: %s is %s, without %s", format, want, kept, module)
			}
		}
	}
}

// TestKeptHead: GPT-NeoX's head is named as the file and as Transformers has it, which finds
// no codes of it and would compute with chance (checked there: 3e-6 with both names).
func TestKeptHead(t *testing.T) {
	for model, want := range map[string][]string{"gpt-neox": {"embed_out", "lm_head"}, "llama": {"lm_head"}} {
		src, path := openSource(t, testdir.Shared(t, "golden/arch/"+model)), filepath.Join(t.TempDir(), "out")
		folder(t, src, nil, FolderJob{Path: path, Method: "rtn", Scheme: "W8A16", Format: formats.CompressedTensors, Group: -1, For: []string{}})
		b, err := os.ReadFile(filepath.Join(path, "config.json"))
		var c struct {
			Quantization struct{ Ignore []string } `json:"quantization_config"`
		}
		if err = errors.Join(err, json.Unmarshal(b, &c)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(c.Quantization.Ignore, want) {
			t.Errorf("%s: ignore is %q, want %q", model, c.Quantization.Ignore, want)
		}
		openSource(t, path) // reads back
	}
}
