package lora

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/quant/gguf"
)

// deviation is what llama.cpp makes of a reference case otherwise, whatever is in its
// file, and a model that shows that there is nothing else: on which the two agree.
type deviation struct {
	why   string
	loads string // a part of what it says of a file that it does not load
	odd   bool   // no released model is so: export does not tell
	far   bool   // in texts as long as the case's it makes the same

	change map[string]any // of config.json, by path
	layers int            // the last period of the case's layers repeated up to so many; 0: as they are
	period int
}

// deviations are those of llama.cpp b11549 (October 2026), read in its sources.
var deviations = map[string]deviation{
	"mistral":        {why: "llama.cpp has no window in this architecture", change: map[string]any{"sliding_window": nil}},
	"starcoder2":     {why: "llama.cpp has no window in this architecture", change: map[string]any{"sliding_window": nil}},
	"phi3":           {why: "llama.cpp has no window in this architecture", change: map[string]any{"sliding_window": nil}},
	"gpt-oss":        {why: "llama.cpp rounds the range of yarn, and a GGUF cannot say not to (truncate: false)", change: map[string]any{"rope_parameters": map[string]any{"rope_type": "default", "rope_theta": 10000.0}}},
	"llama4":         {why: "llama.cpp attends in chunks of 8192 tokens and scales by 0.1 from there on", change: map[string]any{"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1}},
	"exaone4":        {why: "llama.cpp has windows in a model of 64 layers only", change: map[string]any{"num_hidden_layers": 64, "layer_types": slices.Repeat([]string{"sliding_attention", "sliding_attention", "sliding_attention", "full_attention"}, 16)}, layers: 64, period: 4},
	"cohere-qknorm":  {why: "llama.cpp loads norms of queries and keys in a model of 64 layers only", loads: "expected 22, got 18", change: map[string]any{"num_hidden_layers": 64}, layers: 64, period: 1},
	"deepseek2-lite": {why: "llama.cpp takes queries without a low-rank part in a model of 26 or 27 layers only", loads: "key not found in model: deepseek2.attention.q_lora_rank", change: map[string]any{"num_hidden_layers": 27}, layers: 27, period: 1},
	"phi3-longrope":  {why: "llama.cpp takes the factors for long texts by its context's length", far: true},
	"minicpm3":       {why: "llama.cpp takes the factors for long texts by its context's length", far: true},
	"t5":             {why: "llama.cpp does not divide what a tied head reads by the root of d_model"},
	"phimoe":         {why: "llama.cpp weighs experts by softmax, not by sparsemixer"},
	"gemma3n":        {why: "llama.cpp takes inputs of layers to be 256 wide", loads: "'per_layer_token_embd.weight' has wrong shape", odd: true},
}

// llamaCpp is cmd/tune/interop/llama.py at work.
type llamaCpp struct {
	python string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	err    bytes.Buffer
}

// question is what llama.py answers.
type question struct {
	Model   string    `json:"model"`
	Adapter string    `json:"adapter,omitempty"`
	IDs     [][]int32 `json:"ids"`
	Decoder [][]int32 `json:"decoder,omitempty"`
	Tokens  int       `json:"tokens"` // to be made after each row
	Logits  string    `json:"logits"`
}

// ask returns logits [rows, width, V] and the greedy tokens after each row, or what
// llama.cpp says is wrong.
func (l *llamaCpp) ask(t *testing.T, q question) (logits []float32, greedy [][]int32, err error) {
	t.Helper()
	if l.cmd == nil {
		l.err.Reset()
		l.cmd = exec.Command(l.python, "-B", filepath.FromSlash("../cmd/tune/interop/llama.py"))
		l.cmd.Stderr = &l.err
		l.in, err = l.cmd.StdinPipe()
		must(t, err)
		out, err := l.cmd.StdoutPipe()
		must(t, err)
		l.out = bufio.NewReader(out)
		must(t, l.cmd.Start())
	}
	q.Logits = filepath.Join(t.TempDir(), "logits")
	must(t, json.NewEncoder(l.in).Encode(q))
	line, err := l.out.ReadBytes('\n')
	if err != nil {
		err = l.cmd.Wait()
		l.cmd = nil
		return nil, nil, fmt.Errorf("llama.cpp ends: %w: %s", err, l.err.String())
	}
	var a struct {
		Error  string
		Greedy [][]int32
	}
	must(t, json.Unmarshal(line, &a))
	if a.Error != "" {
		return nil, nil, fmt.Errorf("%s", a.Error)
	}
	b, err := os.ReadFile(q.Logits)
	must(t, err)
	logits = make([]float32, len(b)/4)
	block.GetF32(logits, b)
	return logits, a.Greedy, nil
}

// goldenCase is a reference case as llama.cpp is asked about it.
type goldenCase struct {
	question
	in     model.Inputs
	logits []float32 // [rows, width, V]
	greedy [][]int32
	off    float64 // how far the logits of llama.cpp were from Transformers' when the case was made; 0: it was not asked
}

func readCase(t *testing.T, dir string) (c goldenCase) {
	t.Helper()
	list, _, err := formats.ReadSafetensors(filepath.Join(dir, "golden.safetensors"))
	must(t, err)
	for _, a := range list {
		switch a.Name {
		case "input_ids":
			c.IDs = idRows(a)
		case "decoder_input_ids":
			c.Decoder = idRows(a)
		case "greedy":
			c.greedy = idRows(a)
		case "logits":
			c.logits = make([]float32, len(a.Data)/4)
			block.GetF32(c.logits, a.Data)
		}
	}
	c.Tokens = len(c.greedy[0])
	if c.in = model.Pack(c.IDs...); c.Decoder != nil {
		source := c.in
		c.in = model.Pack(c.Decoder...)
		c.in.Source = &source
	}
	var g struct {
		Seen struct {
			Off float64 `json:"max_abs_diff"`
		} `json:"llama_cpp_logits"`
	}
	b, err := os.ReadFile(filepath.Join(dir, "gguf.json"))
	must(t, err)
	must(t, json.Unmarshal(formats.FiniteJSON(b), &g))
	c.off = g.Seen.Off
	return c
}

// withTokenizer is a folder of the case at dir with a tokenizer, which the cases lack,
// and as dev has it.
func withTokenizer(t *testing.T, dir string, size int, dev deviation) string {
	t.Helper()
	out := t.TempDir()
	files, err := filepath.Glob(filepath.Join(dir, "model*.safetensors*"))
	must(t, err)
	for _, f := range files {
		to := filepath.Join(out, filepath.Base(f))
		if dev.layers == 0 {
			must(t, os.Symlink(f, to))
			continue
		}
		list, _, err := formats.ReadSafetensors(f)
		must(t, err)
		must(t, formats.WriteSafetensors(to, repeated(t, list, dev.layers, dev.period), nil))
	}
	conf := map[string]any{}
	must(t, json.Unmarshal(formats.FiniteJSON(testdir.ReadFile(t, filepath.Join(dir, "config.json"))), &conf))
	for path, v := range dev.change {
		at, key := conf, path
		if head, tail, ok := strings.Cut(path, "."); ok {
			at, key = conf[head].(map[string]any), tail
		}
		at[key] = v
	}
	b, err := json.Marshal(conf)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(out, "config.json"), b, 0o666))
	vocab := map[string]int{"<unk>": 0, "<s>": 1, "</s>": 2}
	var special []any
	for word, id := range vocab {
		special = append(special, map[string]any{"id": id, "content": word, "special": true})
	}
	for c := rune('!'); len(vocab) < size; c++ {
		if c != 0x7f && c != 0xad && (c < 0x80 || c > 0xa0) {
			vocab[string(c)] = len(vocab)
		}
	}
	b, err = json.Marshal(map[string]any{"version": "1.0", "added_tokens": special, "pre_tokenizer": map[string]any{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
		"decoder": map[string]any{"type": "ByteLevel"}, "model": map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{}}})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(out, "tokenizer.json"), b, 0o666))
	must(t, os.WriteFile(filepath.Join(out, "tokenizer_config.json"), []byte(`{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}`), 0o666))
	return out
}

// repeated are tensors with copies of the last period layers, up to n layers in all.
func repeated(t *testing.T, list []formats.NamedTensor, n, period int) []formats.NamedTensor {
	t.Helper()
	of := func(name string) (before, after string, layer int) {
		if before, after, ok := strings.Cut(name, ".layers."); ok {
			digits, rest, _ := strings.Cut(after, ".")
			i, err := strconv.Atoi(digits)
			must(t, err)
			return before, rest, i
		}
		return "", "", -1
	}
	last := 0
	for _, x := range list {
		_, _, i := of(x.Name)
		last = max(last, i)
	}
	out := slices.Clone(list)
	for _, x := range list {
		if before, after, i := of(x.Name); i > last-period {
			for i += period; i < n; i += period {
				x.Name = fmt.Sprintf("%s.layers.%d.%s", before, i, after)
				out = append(out, x)
			}
		}
	}
	return out
}

// divergence is the mean over tokens of the divergence of the distribution that got
// gives from that of want, in nats, and whether the best tokens are the same.
func divergence(got, want []float32, v int) (kl float64, same float64) {
	for i := 0; i < len(want); i += v {
		p, q := want[i:i+v], got[i:i+v]
		lp, lq := logSum(p), logSum(q)
		for j := range p {
			if d := float64(p[j]) - lp; d > -80 {
				kl += math.Exp(d) * (d - float64(q[j]) + lq)
			}
		}
		if slices.Index(p, slices.Max(p)) == slices.Index(q, slices.Max(q)) {
			same++
		}
	}
	n := float64(len(want) / v)
	return kl / n, same / n
}

func logSum(x []float32) float64 {
	top, s := float64(slices.Max(x)), 0.0
	for _, v := range x {
		s += math.Exp(float64(v) - top)
	}
	return top + math.Log(s)
}

// TestLlamaCpp: the GGUF of every reference case means to llama.cpp what the case's
// folder does to Transformers: logits and greedy text in F32; in other types what the
// same file means to us; and with the case's adapter, in a GGUF of its own, what PEFT
// says. TUNEKIT_LLAMACPP_PYTHON names a Python with xllamacpp: make interop.
func TestLlamaCpp(t *testing.T) {
	python := os.Getenv("TUNEKIT_LLAMACPP_PYTHON")
	if python == "" {
		t.Skip("TUNEKIT_LLAMACPP_PYTHON names no Python with xllamacpp")
	}
	l := &llamaCpp{python: python}
	for _, name := range archtest.Cases {
		t.Run(name, func(t *testing.T) { l.check(t, testdir.Shared(t, "golden/arch/"+name), deviations[name]) })
	}
}

// Bounds of what llama.cpp and we make of one file: it rounds the activations to the
// type of the weights, or to 8 bits beside quantized ones, and a choice of experts or of
// keys may fall otherwise for it.
const (
	mostKL   = 0.06 // mean over tokens, in nats
	leastTop = 0.8  // part of the tokens whose best successor is the same
)

func (l *llamaCpp) check(t *testing.T, dir string, dev deviation) {
	c := readCase(t, dir)
	src, err := arch.Open(dir)
	must(t, err)
	defer src.Close()
	size := src.Spec.V
	out := t.TempDir()
	folder := withTokenizer(t, dir, size, deviation{})
	agreed := folder
	if dev.change != nil {
		agreed = withTokenizer(t, dir, size, dev)
	}
	if note := src.LlamaCppNote(); (note != "") != (dev.why != "" && !dev.odd) {
		t.Errorf("export says %q, here it says %q", note, dev.why)
	}
	if dev.far {
		dev = deviation{}
	}
	q := c.question
	if q.Model, err = writeAs(folder, out, "F32"); err != nil {
		t.Logf("refused: %s", refused(t, err))
		return
	}
	got, greedy, err := l.ask(t, q)
	limit := 4*c.off + 1e-4
	if c.off == 0 || c.off > 0.1 { // nothing to go by: the float16 table of GELU gives half of that
		limit = 1e-2
	}
	t.Run("F32", func(t *testing.T) {
		switch {
		case dev.loads != "":
			if err == nil || !strings.Contains(err.Error(), dev.loads) {
				t.Errorf("it loads, or says something else: %v", err)
			}
		case err != nil:
			t.Error(err)
		case dev.why != "":
			if kl, _ := divergence(got, c.logits, size); kl < mostKL {
				t.Errorf("it agrees, with a divergence of %g", kl)
			}
		default:
			if off := farthest(got, c.logits); !(off <= limit) {
				t.Errorf("logits within %g, allowed %g", off, limit)
			}
			for i, want := range c.greedy {
				if limit > 1e-3 { // two tokens may be closer than that
					want = want[:8]
				}
				if !slices.Equal(greedy[i][:len(want)], want) {
					t.Errorf("row %d goes on with %v, want %v", i, greedy[i], want)
				}
			}
		}
		if dev.why == "" {
			return
		}
		t.Logf("differs: %s", dev.why)
		if dev.change == nil {
			return
		}
		q.Model, err = writeAs(agreed, t.TempDir(), "F32")
		must(t, err)
		got, _, err := l.ask(t, q)
		must(t, err)
		_, m := loadModel(t, agreed)
		if off := farthest(got, inputLogits(t, m, c.in)); !(off <= limit) {
			t.Errorf("without what differs logits are within %g, allowed %g", off, limit)
		}
	})
	if t.Failed() || dev.why != "" && dev.change == nil {
		return
	}
	for _, kind := range []string{"F16", "Q4_K_M"} {
		t.Run(kind, func(t *testing.T) {
			q := c.question
			q.Tokens = 0
			q.Model, err = writeAs(agreed, t.TempDir(), kind)
			must(t, err)
			got, _, err := l.ask(t, q)
			must(t, err)
			_, m := loadModel(t, q.Model)
			kl, top := divergence(got, inputLogits(t, m, c.in), size)
			if !(kl <= mostKL && top >= leastTop) {
				t.Errorf("divergence %.2g, the best token is the same for %.2f", kl, top)
			}
			t.Logf("divergence %.2g, the best token is the same for %.2f", kl, top)
		})
	}
	t.Run("tables", func(t *testing.T) { // adapters of the table of tokens and of the head
		src, m := loadModel(t, agreed)
		peft := randomTables(t, src)
		f, err := ReadFolder(peft)
		must(t, err)
		q := c.question
		q.Adapter, q.Tokens = filepath.Join(t.TempDir(), "adapter.gguf"), 0
		if err := f.WriteGGUF(q.Adapter, src, "a", dtype.Of(dtype.F32)); err != nil {
			t.Logf("refused: %s", refused(t, err))
			return
		}
		ad, err := Load(m, peft)
		must(t, err)
		defer ad.Close()
		want := inputLogits(t, m, c.in)
		q.Model, err = writeAs(agreed, t.TempDir(), "F32")
		must(t, err)
		got, _, err := l.ask(t, q)
		must(t, err)
		largest := 1.0
		for _, v := range want {
			largest = max(largest, math.Abs(float64(v)))
		}
		if off := farthest(got, want); !(off <= limit*largest) {
			t.Errorf("logits within %g, allowed %g", off, limit*largest)
		}
	})
	if dev.layers > 0 {
		return // for which there is no adapter
	}
	t.Run("adapter", func(t *testing.T) {
		peft, in, want := peftFolder(t, dir)
		f, err := ReadFolder(peft)
		must(t, err)
		src, m := loadModel(t, agreed)
		q.Adapter, q.Tokens = filepath.Join(out, "adapter.gguf"), 0
		f32 := dtype.Of(dtype.F32)
		if err := f.WriteGGUF(q.Adapter, src, "a", f32); err != nil {
			_, why, _ := strings.Cut(refused(t, err), ": ") // behind the module's name
			t.Logf("refused: %s", why)
			peft = heard(t, peft, src)
			f, err = ReadFolder(peft)
			must(t, err)
			must(t, f.WriteGGUF(q.Adapter, src, "a", f32))
			want = nil
		}
		if want == nil || dev.change != nil {
			ad, err := Load(m, peft)
			must(t, err)
			defer ad.Close()
			want = inputLogits(t, m, in)
		}
		q.Model, err = writeAs(agreed, t.TempDir(), "F32")
		must(t, err)
		got, _, err := l.ask(t, q)
		must(t, err)
		off := farthest(got, want)
		t.Logf("logits within %.2g, allowed %.2g", off, limit)
		if !(off <= limit) {
			t.Errorf("logits within %g, allowed %g", off, limit)
		}
	})
}

// randomTables is an adapter of the table of tokens and the head of the model src.
func randomTables(t *testing.T, src *arch.Source) string {
	t.Helper()
	const r = 3
	rng := rand.New(rand.NewPCG(8, 4))
	var list []formats.NamedTensor
	add := func(name string, rows, cols int) {
		v := make([]float32, rows*cols)
		for i := range v {
			v[i] = float32(rng.NormFloat64()) / 4
		}
		list = append(list, formats.NamedTensor{Name: prefix + name, DType: "F32", Shape: []int64{int64(rows), int64(cols)}, Data: kernels.Bytes(v)})
	}
	var names []string
	for _, x := range src.Tensors() {
		switch path := x.Path(); {
		case x.Vector:
			continue
		case x.Role == arch.Embed:
			add(path+embeddingA, r, x.Rows)
			add(path+embeddingB, x.Cols, r)
			names = append(names, path)
		case x.Role == arch.Head && !src.Unheard(x.Rule):
			add(path+".lora_A.weight", r, x.Cols)
			add(path+".lora_B.weight", x.Rows, r)
			names = append(names, path)
		}
	}
	dir := t.TempDir()
	b, err := json.Marshal(map[string]any{"peft_type": "LORA", "r": r, "lora_alpha": 2 * r, "target_modules": names})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "adapter_config.json"), b, 0o666))
	must(t, formats.WriteSafetensors(filepath.Join(dir, "adapter_model.safetensors"), list, nil))
	return dir
}

// heard is the adapter at peft without the modules that llama.cpp does not apply it to.
func heard(t *testing.T, peft string, src *arch.Source) string {
	t.Helper()
	f, err := ReadFolder(peft)
	must(t, err)
	mods, tensors := sourceModules(src)
	chosen, err := f.choose(f.Config, mods)
	must(t, err)
	var left, leftStems []string
	deaf := func(m Module) bool { return src.Unheard(tensors[m.index].Rule) }
	for i, stem := range storedPaths(chosen) {
		// Of a module's parameters all: PEFT would keep one alone under another name.
		if m := chosen[i]; deaf(m) || slices.ContainsFunc(chosen, func(o Module) bool { return o.Path == m.Path && deaf(o) }) {
			left, leftStems = append(left, chosen[i].name()), append(leftStems, prefix+stem)
		}
	}
	var conf map[string]any
	must(t, json.Unmarshal(testdir.ReadFile(t, filepath.Join(peft, "adapter_config.json")), &conf))
	for _, key := range []string{"exclude_modules", "target_parameters"} {
		list, _ := conf[key].([]any)
		if key == "exclude_modules" {
			for _, m := range left {
				list = append(list, m)
			}
		} else {
			list = slices.DeleteFunc(list, func(p any) bool {
				return slices.ContainsFunc(left, func(m string) bool { return strings.HasSuffix(m, p.(string)) })
			})
		}
		conf[key] = list
	}
	list, _, err := formats.ReadSafetensors(filepath.Join(peft, "adapter_model.safetensors"))
	must(t, err)
	list = slices.DeleteFunc(list, func(x formats.NamedTensor) bool {
		return slices.ContainsFunc(leftStems, func(s string) bool { return strings.HasPrefix(x.Name, s+".lora_") })
	})
	out := t.TempDir()
	b, err := json.Marshal(conf)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(out, "adapter_config.json"), b, 0o666))
	must(t, formats.WriteSafetensors(filepath.Join(out, "adapter_model.safetensors"), list, nil))
	return out
}

// writeAs writes the folder as a GGUF of a type into a folder.
func writeAs(folder, out, kind string) (string, error) {
	path := filepath.Join(out, kind+".gguf")
	o := gguf.Options{Type: kind, Name: "tiny"}
	if kind == "Q4_K_M" { // rows of most cases are no blocks of what a head falls back to
		o.OutputType, o.EmbeddingType = "F16", "F16"
	}
	_, err := gguf.Write(context.Background(), cpu.New(cpu.Options{}), folder, path, o, nil)
	return path, err
}

// refused is what an error of ours says, without the file.
func refused(t *testing.T, err error) string {
	t.Helper()
	var e *fail.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	return e.Msg
}
