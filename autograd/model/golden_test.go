package model

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/autograd/nn"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// golden is one case of shared/data/golden/arch.
type golden struct {
	dir    string
	arrays map[string]array
	noise  float64 // largest difference of logits between float32 and float64
	scale  float32 // of LoRA
	// shaky is how far logits move, as a share of the largest, when every weight moves
	// by a millionth
	shaky float64
	// experts of the adapters by name, below 0 where PEFT takes A and B for each other
	experts map[string]int
	dev     func() kernels.Backend // what it is loaded on; nil: the CPU
}

type array struct {
	shape []int64
	block.Raw
}

func openGolden(t *testing.T, name string) *golden {
	t.Helper()
	g := &golden{dir: testdir.Shared(t, "golden/arch/"+name), arrays: map[string]array{}}
	r, err := formats.Open(filepath.Join(g.dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, a := range r.Tensors() {
		data, err := r.Read(&a)
		if err != nil {
			t.Fatal(err)
		}
		g.arrays[a.Name] = array{a.Shape, block.Raw{Type: a.Type, Rows: a.Rows(), Cols: a.Cols(), Data: data}}
	}
	var meta struct {
		Move    float64 `json:"logits change when every weight moves by 1e-6 (relative)"`
		Largest float64 `json:"logits_absmax"`
		Lora    struct {
			R     int     `json:"r"`
			Alpha float32 `json:"lora_alpha"`
		} `json:"lora_config"`
	}
	data, err := os.ReadFile(filepath.Join(g.dir, "golden.json"))
	if err == nil {
		err = json.Unmarshal(data, &meta)
	}
	if err == nil {
		g.noise, err = archtest.Noise(data)
	}
	if err != nil || meta.Lora.R == 0 || meta.Move == 0 || meta.Largest == 0 {
		t.Fatalf("golden.json: %v %+v", err, meta)
	}
	g.shaky = meta.Move / meta.Largest
	g.scale = meta.Lora.Alpha / float32(meta.Lora.R)
	return g
}

func (g *golden) floats(t *testing.T, name string) []float32 {
	t.Helper()
	a, ok := g.arrays[name]
	if !ok {
		t.Fatalf("no array %s", name)
	}
	out := make([]float32, a.Rows*a.Cols)
	block.DecodeAll(out, a.Raw)
	return out
}

// rows are the rows of an int64 array [B, T].
func (g *golden) rows(t *testing.T, name string) [][]int32 {
	t.Helper()
	a := g.arrays[name]
	if a.Type.Kind != dtype.I64 || len(a.shape) != 2 {
		t.Fatalf("%s: %v %v", name, a.Type, a.shape)
	}
	out := make([][]int32, a.Rows)
	for i := range a.Rows * a.Cols {
		out[i/a.Cols] = append(out[i/a.Cols], int32(binary.LittleEndian.Uint64(a.Data[8*i:])))
	}
	return out
}

// withConfig is a reader with another config.json.
type withConfig struct {
	formats.Reader
	config []byte
}

func (r withConfig) Config() []byte { return r.config }

// withKV is a GGUF with more metadata.
type withKV struct {
	formats.Reader
	more []formats.KV
}

func (r withKV) KV() []formats.KV { return append(r.Reader.KV(), r.more...) }

// unsaid is what the converter leaves out of a case's GGUF, whose model it is not
// without.
var unsaid = map[string][]formats.KV{"gemma3": {{Key: "gemma3.attention.sliding_window_pattern", Value: uint32(3)}}}

// open opens the case's checkpoint: file is the name of its config, or a GGUF.
func (g *golden) open(t *testing.T, file string) *arch.Source {
	t.Helper()
	path := g.dir
	if strings.HasSuffix(file, ".gguf") {
		path = filepath.Join(g.dir, file)
	}
	r, err := formats.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if more := unsaid[filepath.Base(g.dir)]; path != g.dir && more != nil {
		r = withKV{r, more}
	}
	if path == g.dir {
		data, err := os.ReadFile(filepath.Join(g.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		r = withConfig{r, data}
	}
	src, err := arch.FromReader(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

func (g *golden) load(t *testing.T, file string, o Options) *Model {
	t.Helper()
	dev := kernels.Backend(cpu.New(cpu.Options{}))
	if g.dev != nil {
		dev = g.dev()
	}
	m, err := Load(dev, g.open(t, file), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// files are the forms a case's checkpoint comes in.
func (g *golden) files() []string {
	var out []string
	for _, f := range []string{"config.json", "config_hub.json", "model-f32.gguf"} {
		if _, err := os.Stat(filepath.Join(g.dir, f)); err == nil {
			out = append(out, f)
		}
	}
	return out
}

// near fails unless got is within tol of want everywhere.
func near(t *testing.T, what string, got, want []float32, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	worst, at := 0.0, 0
	for i := range want {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= worst) {
			worst, at = d, i
		}
	}
	if testing.Verbose() && tol > 0 {
		t.Logf("%s: largest difference %.2g, allowed %.2g", what, worst, tol)
	}
	if !(worst <= tol) {
		t.Errorf("%s: [%d] is %v, want %v: off by %.3g, allowed %.3g", what, at, got[at], want[at], worst, tol)
	}
}

// relative is near with a tolerance relative to the largest value.
func relative(t *testing.T, what string, got, want []float32, tol float64) {
	t.Helper()
	near(t, what, got, want, tol*magnitude(want))
}

func magnitude(x []float32) float64 {
	out := 0.0
	for _, v := range x {
		out = max(out, math.Abs(float64(v)))
	}
	return out
}

func TestGolden(t *testing.T) {
	for _, name := range archtest.Cases {
		g := openGolden(t, name)
		for _, f := range g.files() {
			t.Run(name+"/"+f, func(t *testing.T) {
				m := g.load(t, f, Options{})
				t.Run("logits", func(t *testing.T) { g.checkForward(t, m) })
				t.Run("greedy", func(t *testing.T) { g.checkGreedy(t, m) })
				if _, ok := g.arrays["greedy_no_cache"]; ok {
					t.Run("greedy whole", func(t *testing.T) { g.checkWhole(t, m) })
				}
			})
		}
		t.Run(name+"/lora", g.checkLora)
		t.Run(name+"/full", g.checkFull)
		t.Run(name+"/bf16", g.checkBF16)
	}
}

// checkForward compares hidden states, logits and loss.
func (g *golden) checkForward(t *testing.T, m *Model) {
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	in := g.inputs(t, m)
	states := m.States(tape, in)
	for i, s := range states {
		name := stateName(m, i)
		// The noise is that of logits; a residual stream may be much larger.
		want := g.floats(t, name)
		if shape := g.arrays[name].shape; len(shape) == 4 && shape[2] != int64(m.Spec.Streams) { // streams before tokens
			want = transposed(want, m.Spec.Streams, m.Spec.C)
		}
		near(t, name, values(t, tape, s), want, max(10*g.noise, 2e-6*magnitude(want)))
	}
	h := states[len(states)-1]
	near(t, "logits", values(t, tape, m.Logits(tape, h)), g.floats(t, "logits"), 10*g.noise)
	target, coef := g.targets(t, m)
	r := m.LogProb(tape, h, target, nil)
	checkLoss(t, "loss", values(t, tape, r.LogP), coef, int(in.Seq[1]), g.floats(t, "loss"))
	near(t, "Hidden", values(t, tape, m.Hidden(tape, in)), g.floats(t, stateName(m, len(states)-1)), 10*g.noise)
}

// inputs are the case's rows; of a model with an encoder those of both halves.
func (g *golden) inputs(t *testing.T, m *Model) Inputs {
	in := Pack(g.rows(t, "input_ids")...)
	if m.Spec.Encoder == 0 {
		return in
	}
	own := Pack(g.rows(t, "decoder_input_ids")...)
	own.Source = &in
	return own
}

// stateName is what a case calls tensor i of States.
func stateName(m *Model, i int) string {
	prefix, n := "", len(m.Blocks)
	if m.Spec.Encoder > 0 {
		if prefix, n = "encoder.", m.Spec.Encoder; i > n+1 {
			prefix, i, n = "decoder.", i-n-2, len(m.Blocks)-n
		}
	}
	if i > n {
		return prefix + "hidden_last"
	}
	return prefix + "hidden." + string(rune('0'+i))
}

// targets are those of the case's rows: the next tokens, or behind an encoder labels.
func (g *golden) targets(t *testing.T, m *Model) (target []int32, coef []float32) {
	if m.Spec.Encoder == 0 {
		return targets(g.rows(t, "input_ids"))
	}
	rows := g.rows(t, "labels")
	for _, r := range rows {
		target = append(target, r...)
		coef = append(coef, slices.Repeat([]float32{1 / float32(len(rows)*len(r))}, len(r))...)
	}
	return target, coef
}

// transposed are n streams of tokens with c values each as tokens with n streams.
func transposed(x []float32, n, c int) []float32 {
	out := make([]float32, 0, len(x))
	tokens := len(x) / n / c
	for i := range tokens {
		for j := range n {
			out = append(out, x[(j*tokens+i)*c:][:c]...)
		}
	}
	return out
}

// targets are the next tokens of each row, and coefficients with which the loss
// is the mean over rows of each row's mean cross-entropy.
func targets(rows [][]int32) (target []int32, coef []float32) {
	for _, r := range rows {
		target = append(append(target, r[1:]...), -1)
		for range r {
			coef = append(coef, 1/float32(len(rows)*(len(r)-1)))
		}
	}
	return target, coef
}

// checkLoss compares each row's mean of -logp.
func checkLoss(t *testing.T, what string, logp, coef []float32, width int, want []float32) {
	t.Helper()
	got := make([]float32, len(want))
	for i, v := range logp {
		got[i/width] -= v * coef[i] * float32(len(want))
	}
	near(t, what, got, want, 2e-5)
}

func values(t *testing.T, tape *autograd.Tape, x *autograd.Tensor) []float32 {
	t.Helper()
	v, err := tape.Values(x)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func argmax(v []float32) int32 {
	best := 0
	for i := range v {
		if v[i] > v[best] {
			best = i
		}
	}
	return int32(best)
}

// checkWhole generates both rows without a cache, all tokens again for each, which
// gives other text where positions depend on how many there are (dynamic scaling).
func (g *golden) checkWhole(t *testing.T, m *Model) {
	want := g.rows(t, "greedy_no_cache")
	for i, ids := range g.rows(t, "input_ids") {
		for j, next := range want[i] {
			tape := &autograd.Tape{Dev: m.Dev}
			h := m.Hidden(tape, Pack(ids))
			all := values(t, tape, m.Logits(tape, h))
			tape.Free()
			if got := argmax(all[len(all)-m.Spec.V:]); got != next {
				t.Fatalf("row %d: token %d is %d, want %d", i, j, got, next)
			}
			ids = append(ids, next)
		}
	}
}

// checkGreedy generates both rows with a cache, the second row one step behind
// the first so that prompts and single tokens meet in a step.
func (g *golden) checkGreedy(t *testing.T, m *Model) {
	prompts, want := g.rows(t, "input_ids"), g.rows(t, "greedy")
	c, err := m.NewCache(3, len(prompts[0])+len(want[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	slots := []int{2, 0}
	got := make([][]int32, 2)
	if m.Spec.Encoder > 0 {
		for i, slot := range slots {
			c.Source(slot, prompts[i])
			prompts[i] = []int32{m.Spec.Start}
		}
	}
	next := [][]int32{prompts[0], nil}
	for step := 0; len(got[1]) < len(want[1]); step++ {
		if step == 1 {
			next[1] = prompts[1]
		}
		var pieces []Piece
		var who []int
		for i := range next {
			if next[i] != nil && len(got[i]) < len(want[i]) {
				pieces, who = append(pieces, Piece{slots[i], next[i]}), append(who, i)
			}
		}
		logits, err := m.Step(c, pieces)
		if err != nil {
			t.Fatal(err)
		}
		for j, i := range who {
			id := argmax(logits[j])
			got[i] = append(got[i], id)
			next[i] = []int32{id}
		}
	}
	for i := range want {
		for j := range want[i] {
			if got[i][j] != want[i][j] {
				t.Fatalf("greedy row %d: token %d is %d, want %d\ngot  %v\nwant %v", i, j, got[i][j], want[i][j], got[i], want[i])
			}
		}
	}
}

// trainable makes a frozen parameter trainable with a gradient of its own.
func trainable(t *testing.T, dev kernels.Backend, p *autograd.Param) {
	t.Helper()
	b, err := dev.Alloc(kernels.Gradients, dtype.Of(dtype.F32), p.Len())
	if err != nil {
		t.Fatal(err)
	}
	dev.Fill(b, 0)
	p.Grad = b
}

// adapterName is PEFT's name of A or B of a linear map.
func adapterName(l *nn.Linear, ab string) string {
	path := l.Path
	if l.Experts > 0 {
		path = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(path, ".down_proj"), "up_proj"), "gate_")
		if strings.HasSuffix(path, ".") {
			path += "base_layer"
		}
	}
	return "base_model.model." + path + ".lora_" + ab + ".weight"
}

// adapter is PEFT's A or B of a linear map. Of experts it keeps B [out, r·E], the
// expert fastest.
func (g *golden) adapter(t *testing.T, dev kernels.Backend, l *nn.Linear, ab string, turned bool) *autograd.Param {
	t.Helper()
	name := adapterName(l, ab)
	a := g.arrays["lora."+name]
	if len(a.shape) != 2 {
		t.Fatalf("no adapter weight %s", name)
	}
	v, rows, cols := g.layout(name, l.Experts, turned, g.floats(t, "lora."+name))
	w, err := dev.Load(kernels.Weights, dtype.Of(dtype.F32), rows, cols, kernels.Bytes(v), kernels.Copy)
	if err != nil {
		t.Fatal(err)
	}
	p := &autograd.Param{Name: name, Mat: w}
	trainable(t, dev, p)
	return p
}

// layout puts values of an adapter from PEFT's order into [rows, cols] of ours. Turned
// are those whose A and B PEFT takes for each other.
func (g *golden) layout(name string, experts int, turned bool, v []float32) (out []float32, rows, cols int) {
	a := g.arrays["lora."+name]
	rows, cols = a.Rows, a.Cols
	if experts > 0 && strings.Contains(name, ".lora_B.") {
		v, rows, cols = swapped(v, rows, cols/experts, experts), rows*experts, cols/experts
	}
	if turned {
		one := rows / experts
		y := make([]float32, len(v))
		for i := range v {
			e, row, col := i/(one*cols), i/cols%one, i%cols
			y[(e*cols+col)*one+row] = v[i]
		}
		v, rows, cols = y, cols*experts, one
	}
	if g.experts == nil {
		g.experts = map[string]int{}
	}
	if g.experts[name] = experts; turned {
		g.experts[name] = -experts
	}
	return v, rows, cols
}

// swapped turns [out, r, E] into [E, out, r].
func swapped(v []float32, out, r, e int) []float32 {
	y := make([]float32, len(v))
	for o := range out {
		for j := range r {
			for x := range e {
				y[(x*out+o)*r+j] = v[(o*r+j)*e+x]
			}
		}
	}
	return y
}

// backward runs loss and gradients of the case's rows and returns the results.
func (g *golden) backward(t *testing.T, m *Model, bf16 bool) (logp []float32, coef []float32) {
	t.Helper()
	target, coef := g.targets(t, m)
	tape := &autograd.Tape{Dev: m.Dev, Record: true, BF16: bf16}
	defer tape.Free()
	h := m.Hidden(tape, g.inputs(t, m))
	r := m.LogProb(tape, h, target, coef)
	tape.Done(h)
	logp = values(t, tape, r.LogP)
	if err := tape.Backward(); err != nil {
		t.Fatal(err)
	}
	return logp, coef
}

// checkLora compares logits, loss and gradients with the case's adapter.
func (g *golden) checkLora(t *testing.T) {
	m := g.load(t, "config.json", Options{})
	params := g.adapt(t, m)
	for name := range g.arrays {
		if p, ok := strings.CutPrefix(name, "lora."); ok && rankOf(params, strings.Replace(p, ".lora_A.", ".lora_B.", 1)) == 0 {
			t.Errorf("no linear map takes %s", name)
		}
	}
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	in := g.inputs(t, m)
	relative(t, "lora_logits", values(t, tape, m.Logits(tape, m.Hidden(tape, in))), g.floats(t, "lora_logits"), 1e-4)
	tape.Base = true
	near(t, "logits with adapters off", values(t, tape, m.Logits(tape, m.Hidden(tape, in))), g.floats(t, "logits"), 10*g.noise)
	tape.Free()

	logp, coef := g.backward(t, m, false)
	checkLoss(t, "lora_loss", logp, coef, int(in.Seq[1]), g.floats(t, "lora_loss"))
	grads := g.checkGrads(t, m, params, "lora_grad.", g.gradTol(m))
	g.checkCheckpointed(t, m, params, grads)
}

// adapt attaches the case's adapter to m and returns its parameters.
func (g *golden) adapt(t *testing.T, m *Model) []*autograd.Param {
	t.Helper()
	var params []*autograd.Param
	for l := range m.Linears() {
		if g.arrays["lora."+adapterName(l, "A")].shape == nil {
			continue // PEFT adapts the routers and shared experts of some architectures only
		}
		turned, a, b := m.TensorOf(l.W).Turned, "A", "B"
		if turned {
			a, b = b, a
		}
		ad := &nn.LoRA{A: g.adapter(t, m.Dev, l, a, turned), B: g.adapter(t, m.Dev, l, b, turned), Scale: g.scale}
		l.Adapters = append(l.Adapters, ad)
		params = append(params, ad.A, ad.B)
	}
	var outside []*nn.Linear // of the blocks
	if m.Parts != nil {
		outside = append(outside, m.Parts.Project)
	}
	if m.Streams != nil {
		outside = append(append(outside, m.Streams.In...), m.Streams.Out...)
	}
	for _, l := range outside {
		ad := &nn.LoRA{A: g.adapter(t, m.Dev, l, "A", false), B: g.adapter(t, m.Dev, l, "B", false), Scale: g.scale}
		l.Adapters = append(l.Adapters, ad)
		params = append(params, ad.A, ad.B)
	}
	return params
}

// gradTol is how far a gradient may be off, as a share of the largest of its tensor.
func (g *golden) gradTol(m *Model) float64 {
	if m.Dev.Info().Level == "generic" { // plain Go sums one after the other: as if weights moved by a millionth, and more
		return max(1e-4, 2*g.shaky)
	}
	return 1e-4
}

// checkFull compares the gradients of full training.
func (g *golden) checkFull(t *testing.T) {
	m := g.load(t, "config.json", Options{Trainable: true})
	for _, p := range m.Params() {
		trainable(t, m.Dev, p)
	}
	g.backward(t, m, false)
	grads := g.checkGrads(t, m, m.Params(), "grad.", g.gradTol(m))
	g.checkCheckpointed(t, m, m.Params(), grads)
}

// checkBF16 trains in bf16: the loss is near the reference's, and the gradients
// are the same bits with gradient checkpointing.
func (g *golden) checkBF16(t *testing.T) {
	m := g.load(t, "config.json", Options{Trainable: true})
	for _, p := range m.Params() {
		trainable(t, m.Dev, p)
	}
	logp, coef := g.backward(t, m, true)
	got, want := 0.0, 0.0
	for i, v := range logp {
		got -= float64(v * coef[i])
	}
	for _, v := range g.floats(t, "loss") {
		want += float64(v) / float64(len(g.rows(t, "input_ids")))
	}
	if !(math.Abs(got-want) < 0.03*want) {
		t.Errorf("loss %g, want about %g", got, want)
	}
	plain := m.gradients(t, m.Params())
	for _, p := range m.Params() {
		m.Dev.Fill(p.Grad, 0)
	}
	m.GradientCheckpointing = true
	g.backward(t, m, true)
	for name, v := range m.gradients(t, m.Params()) {
		near(t, "checkpointed gradient of "+name, v, plain[name], 0)
	}
}

// gradients are those of params by name.
func (m *Model) gradients(t *testing.T, params []*autograd.Param) map[string][]float32 {
	t.Helper()
	out := map[string][]float32{}
	for _, p := range params {
		out[p.Name] = make([]float32, p.Len())
		if err := m.Dev.Download(kernels.Bytes(out[p.Name]), p.Grad); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// checkGrads compares every gradient the case has, and returns all of params.
func (g *golden) checkGrads(t *testing.T, m *Model, params []*autograd.Param, prefix string, tol float64) map[string][]float32 {
	t.Helper()
	got := m.pieces(t, m.gradients(t, params))
	shift := m.shifts(t, params)
	n := 0
	for name := range g.arrays {
		if p, ok := strings.CutPrefix(name, prefix); ok {
			n++
			if got[p] == nil {
				t.Errorf("no gradient of %s", p)
				continue
			}
			want := g.floats(t, name)
			if shift[p] > 0 { // what is left of nothing
				near(t, name, got[p], make([]float32, len(want)), shift[p])
				near(t, "reference's "+name, want, make([]float32, len(want)), shift[p])
				continue
			}
			if e := g.experts[p]; e != 0 {
				want, _, _ = g.layout(p, max(e, -e), e < 0, want)
			}
			relative(t, name, got[p], want, tol)
		}
	}
	if n == 0 {
		t.Errorf("the case has no %s…", prefix)
	}
	return m.gradients(t, params)
}

// shifts are the parameters that move all scores of a query alike, which the
// softmax does not see: biases of keys without positions. Their gradients are
// nothing but rounding, below a millionth of the largest of all.
func (m *Model) shifts(t *testing.T, params []*autograd.Param) map[string]float64 {
	t.Helper()
	largest := 0.0
	for _, v := range m.gradients(t, params) {
		for _, x := range v {
			largest = max(largest, math.Abs(float64(x)))
		}
	}
	out := map[string]float64{}
	if a := m.Spec.Attention(); a == nil || a.Rope != arch.NoRope || a.QKNorm != arch.NoQKNorm {
		return out
	}
	for p, x := range m.tensors {
		if x.Role == arch.K && x.Bias {
			out[p.Name] = 1e-6 * largest
		}
	}
	return out
}

// rankOf is the rank of an adapter's B.
func rankOf(params []*autograd.Param, name string) int {
	for _, p := range params {
		if p.Name == name {
			return p.Cols
		}
	}
	return 0
}

// pieces are gradients under the names that a Hugging Face folder has for the
// weights.
func (m *Model) pieces(t *testing.T, grads map[string][]float32) map[string][]float32 {
	t.Helper()
	for p, x := range m.tensors {
		v, ok := grads[p.Name]
		if !ok {
			continue
		}
		for _, f := range x.AsStored() {
			r, err := f.Take(block.Raw{Type: dtype.Of(dtype.F32), Rows: p.Rows, Cols: p.Cols, Data: kernels.Bytes(v)})
			if err != nil {
				t.Fatal(err)
			}
			grads[f.Name] = make([]float32, r.Rows*r.Cols)
			block.DecodeAll(grads[f.Name], r)
		}
	}
	return grads
}

// checkCheckpointed wants the same bits with gradient checkpointing.
func (g *golden) checkCheckpointed(t *testing.T, m *Model, params []*autograd.Param, want map[string][]float32) {
	t.Helper()
	for _, p := range params {
		m.Dev.Fill(p.Grad, 0)
	}
	m.GradientCheckpointing = true
	g.backward(t, m, false)
	for name, v := range m.gradients(t, params) {
		near(t, "checkpointed gradient of "+name, v, want[name], 0)
	}
	if left := m.Dev.Info().Mem.Now; left[kernels.Activations] != 0 || left[kernels.Scratch] != 0 {
		t.Errorf("%d bytes of activations, %d of scratch are left", left[kernels.Activations], left[kernels.Scratch])
	}
}
