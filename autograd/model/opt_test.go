package model

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// Sizes of an OPT of the shape of the 350M one: norms behind the sums, none at the
// end, and an embedding of another width.
const (
	optC, optE, optV, optH, optF, optLayers, optMax = 8, 6, 11, 2, 12, 2, 9
)

// optFolder writes such an OPT with random weights and returns them by name.
func optFolder(t *testing.T) (dir string, w map[string][]float64) {
	t.Helper()
	shapes := map[string][]int64{
		"embed_tokens.weight": {optV, optE}, "embed_positions.weight": {optMax + 2, optC}, "project_in.weight": {optC, optE}, "project_out.weight": {optE, optC},
	}
	for i := range optLayers {
		p := fmt.Sprintf("layers.%d.", i)
		for _, name := range []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"} {
			shapes[p+name+".weight"], shapes[p+name+".bias"] = []int64{optC, optC}, []int64{optC}
		}
		for _, name := range []string{"self_attn_layer_norm", "final_layer_norm"} {
			shapes[p+name+".weight"], shapes[p+name+".bias"] = []int64{optC}, []int64{optC}
		}
		shapes[p+"fc1.weight"], shapes[p+"fc1.bias"] = []int64{optF, optC}, []int64{optF}
		shapes[p+"fc2.weight"], shapes[p+"fc2.bias"] = []int64{optC, optF}, []int64{optC}
	}
	dir, w = t.TempDir(), map[string][]float64{}
	var list []formats.NamedTensor
	for name, shape := range shapes {
		n := shape[0]
		if len(shape) > 1 {
			n *= shape[1]
		}
		seed := fnv.New64a()
		seed.Write([]byte(name))
		rng := rand.New(rand.NewPCG(7, seed.Sum64()))
		v, wide := make([]float32, n), make([]float64, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
			wide[i] = float64(v[i])
		}
		w[name] = wide
		list = append(list, formats.NamedTensor{Name: "model.decoder." + name, DType: "F32", Shape: shape, Data: kernels.Bytes(v)})
	}
	config, err := json.Marshal(map[string]any{
		"architectures": []string{"OPTForCausalLM"}, "model_type": "opt", "hidden_size": optC, "word_embed_proj_dim": optE, "vocab_size": optV,
		"num_attention_heads": optH, "ffn_dim": optF, "num_hidden_layers": optLayers, "max_position_embeddings": optMax, "do_layer_norm_before": false,
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666)
	}
	if err == nil {
		err = formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), list, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir, w
}

// optLogits are the logits of ids by the formulas of Zhang et al. 2022
// (arXiv:2205.01068) in float64.
func optLogits(w map[string][]float64, ids []int32) (logits []float32) {
	linear := func(name string, x []float64) []float64 {
		m, bias := w[name+".weight"], w[name+".bias"]
		y := make([]float64, len(m)/len(x))
		for i := range y {
			if bias != nil {
				y[i] = bias[i]
			}
			for j, v := range x {
				y[i] += m[i*len(x)+j] * v
			}
		}
		return y
	}
	normed := func(name string, x, add []float64) []float64 {
		y := make([]float64, len(x))
		mean, square := 0.0, 0.0
		for i := range y {
			y[i] = x[i] + add[i]
			mean += y[i] / float64(len(y))
		}
		for i := range y {
			square += (y[i] - mean) * (y[i] - mean) / float64(len(y))
		}
		for i := range y {
			y[i] = (y[i]-mean)/math.Sqrt(square+1e-5)*w[name+".weight"][i] + w[name+".bias"][i]
		}
		return y
	}
	x := make([][]float64, len(ids))
	for t, id := range ids {
		x[t] = linear("project_in", w["embed_tokens.weight"][id*optE:(id+1)*optE])
		for c := range x[t] {
			x[t][c] += w["embed_positions.weight"][(t+2)*optC+c]
		}
	}
	for l := range optLayers {
		p := fmt.Sprintf("layers.%d.", l)
		next := make([][]float64, len(x))
		for t := range x {
			mixed := make([]float64, optC)
			const d = optC / optH
			for h := range optH {
				q, sum := linear(p+"self_attn.q_proj", x[t])[h*d:], 0.0
				part := make([]float64, d)
				for j := range t + 1 {
					k, v, score := linear(p+"self_attn.k_proj", x[j])[h*d:], linear(p+"self_attn.v_proj", x[j])[h*d:], 0.0
					for c := range d {
						score += q[c] * k[c] / math.Sqrt(d)
					}
					sum += math.Exp(score)
					for c := range d {
						part[c] += math.Exp(score) * v[c]
					}
				}
				for c := range d {
					mixed[h*d+c] = part[c] / sum
				}
			}
			y := normed(p+"self_attn_layer_norm", x[t], linear(p+"self_attn.out_proj", mixed))
			inner := linear(p+"fc1", y)
			for i := range inner {
				inner[i] = max(inner[i], 0)
			}
			next[t] = normed(p+"final_layer_norm", y, linear(p+"fc2", inner))
		}
		x = next
	}
	for t := range x {
		for _, v := range linear("embed_tokens", linear("project_out", x[t])) {
			logits = append(logits, float32(v))
		}
	}
	return logits
}

// An OPT with norms behind the sums and maps around the blocks computes what the
// formulas say, whole and with a cache; a text longer than its table is refused.
func TestNormsBehindSums(t *testing.T) {
	dir, w := optFolder(t)
	src, err := arch.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	m, err := Load(cpu.New(cpu.Options{}), src, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ids := []int32{3, 1, 10, 4, 4, 0, 7}
	want := optLogits(w, ids)
	tape := &autograd.Tape{Dev: m.Dev}
	defer tape.Free()
	relative(t, "logits", values(t, tape, m.Logits(tape, m.Hidden(tape, Pack(ids)))), want, 1e-5)
	c, err := m.NewCache(1, 20)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, piece := range [][]int32{ids[:3], ids[3:4], ids[4:]} {
		got, err := m.Step(c, []Piece{{0, piece}})
		if err != nil {
			t.Fatal(err)
		}
		last := c.Len(0) - 1
		relative(t, "cached logits", got[0], want[last*optV:(last+1)*optV], 1e-5)
	}
	if _, err := m.Step(c, []Piece{{0, []int32{1, 2, 3}}}); fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "position") {
		t.Errorf("tokens at positions 7 to 9 of a table of %d: %v", optMax, err)
	}
	long := &autograd.Tape{Dev: m.Dev}
	defer long.Free()
	if m.Hidden(long, Pack(make([]int32, optMax+1))); long.Err() == nil {
		t.Errorf("%d tokens with a table of %d positions: no error", optMax+1, optMax)
	}
}
