package arch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// layoutCase is a tensor in memory, the pieces of a file, and where element
// (row, col) of the memory lies: in which piece and at which of its elements.
type layoutCase struct {
	name   string
	rule   Rule
	pieces []Piece
	at     func(row, col int) (piece, element int)
	add    float32 // what the file holds more
}

// layoutCases are the layouts of published models, with the formula each model's
// own code has for them.
func layoutCases() []layoutCase {
	const e, f, c = 3, 4, 32 // experts, feed-forward size, columns
	experts := Rule{Name: "experts.gate_up_proj", Rows: e * 2 * f, Cols: c}
	var mixtral []Piece
	for i := range e {
		mixtral = append(mixtral, Piece{Name: fmt.Sprint(i, ".w1"), Rows: Rows{Start: i * 2 * f, Count: f, Step: f}},
			Piece{Name: fmt.Sprint(i, ".w3"), Rows: Rows{Start: i*2*f + f, Count: f, Step: f}})
	}
	const h, nope, v = 4, 6, 2 // heads and parts of MLA's kv_b
	return []layoutCase{
		{"one piece", Rule{Rows: 5, Cols: c}, []Piece{{Name: "w"}}, func(r, k int) (int, int) { return 0, r*c + k }, 0},
		{"experts apart", experts, mixtral, func(r, k int) (int, int) { return r / f, r%f*c + k }, 0},
		{"experts stacked", experts, []Piece{{Name: "gate", Rows: Rows{0, f, 2 * f, e}}, {Name: "up", Rows: Rows{f, f, 2 * f, e}}},
			func(r, k int) (int, int) { return r / f % 2, (r/(2*f)*f+r%f)*c + k }, 0},
		{"gate and up in turn, transposed", experts, []Piece{{Name: "gate_up", Rows: Rows{0, 2 * f, 2 * f, e}, Pairs: e, Transpose: true}},
			func(r, k int) (int, int) {
				expert, half, i := r/(2*f), r/f%2, r%f
				return 0, expert*2*f*c + k*2*f + 2*i + half
			}, 0},
		{"rotation pairs", Rule{Rows: h * 8, Cols: c}, []Piece{{Name: "q", Pairs: h}},
			func(r, k int) (int, int) { return 0, (r/8*8+r%4*2+r/4%2)*c + k }, 0},
		{"latent attention", Rule{Rows: h * (nope + v), Cols: c},
			[]Piece{{Name: "k_b", Rows: Rows{0, nope, nope + v, h}, Transpose: true}, {Name: "v_b", Rows: Rows{nope, v, nope + v, h}}},
			func(r, k int) (int, int) {
				head, i := r/(nope+v), r%(nope+v)
				if i < nope {
					return 0, head*nope*c + k*nope + i
				}
				return 1, (head*v+i-nope)*c + k
			}, 0},
		{"queries, keys and values by key heads", Rule{Rows: 2 * 5 * 4, Cols: c}, []Piece{{Name: "qkv", Parts: []int{12, 4, 4}}}, // 2 key heads of 4, 3 queries each
			func(r, k int) (int, int) {
				head, i := r/20, r%20
				if i < 12 {
					return 0, (head*12+i)*c + k
				}
				return 0, (24+(i-12)/4*8+head*4+i%4)*c + k
			}, 0},
		{"norm from zero", Rule{Rows: 1, Cols: c, Vector: true}, []Piece{{Name: "n", AddOne: true}}, func(_, k int) (int, int) { return 0, k }, 1},
		{"bias in pairs", Rule{Rows: 1, Cols: c, Vector: true}, []Piece{{Name: "b", Pairs: 2}},
			func(_, k int) (int, int) { return 0, k/16*16 + k%8*2 + k/8%2 }, 0},
		{"fused by key head", Rule{Rows: 2 * 12, Cols: c}, // 2 rows of q, 2 of k, 4 of v and 4 of z each
			[]Piece{{Name: "qkv", Rows: Rows{0, 2, 12, 2}, Then: []Rows{{2, 2, 12, 2}, {4, 4, 12, 2}}}, {Name: "z", Rows: Rows{8, 4, 12, 2}}},
			func(r, k int) (int, int) {
				head, i := r/12, r%12
				switch {
				case i < 2:
					return 0, (head*2+i)*c + k
				case i < 4:
					return 0, (4+head*2+i-2)*c + k
				case i < 8:
					return 0, (8+head*4+i-4)*c + k
				}
				return 1, (head*4+i-8)*c + k
			}, 0},
		{"value heads by turns", Rule{Rows: 4 + 4*2, Cols: c}, []Piece{{Name: "v", Rows: Rows{0, 4, 4, 1}, Then: []Rows{{4, 2, 4, 2}, {6, 2, 4, 2}}}},
			func(r, k int) (int, int) {
				if r < 4 {
					return 0, r*c + k
				}
				head := (r - 4) / 2
				return 0, (4+(head%2*2+head/2)*2+r%2)*c + k
			}, 0},
		{"columns by turns", Rule{Rows: 3, Cols: c}, []Piece{{Name: "out", Columns: []Rows{{0, 8, 16, 2}, {8, 8, 16, 2}}}},
			func(r, k int) (int, int) {
				head := k / 8
				return 0, r*c + (head%2*2+head/2)*8 + k%8
			}, 0},
		{"convolution", Rule{Rows: c, Cols: 4}, []Piece{{Name: "conv", Shape: []int64{c, 1, 4}}}, func(r, k int) (int, int) { return 0, r*4 + k }, 0},
	}
}

// TestPieces holds every layout to its formula, and reading to writing.
func TestPieces(t *testing.T) {
	for _, c := range layoutCases() {
		x := make([]float32, c.rule.Len())
		for i := range x {
			x[i] = float32(i)
		}
		mem, err := encodeAs(dtype.Of(dtype.F32), c.rule.Rows, c.rule.Cols, x)
		if err != nil {
			t.Fatal(err)
		}
		var files [][]float32
		back := block.New(mem.Type, mem.Rows, mem.Cols)
		for i := range c.pieces {
			p := &c.pieces[i]
			file, err := p.scatter(&c.rule, mem)
			if err != nil {
				t.Fatal(c.name, err)
			}
			n := int64(1)
			for _, d := range p.fileShape(&c.rule) {
				n *= d
			}
			if int(n)*4 != len(file.Data) {
				t.Errorf("%s: %s has shape %v and %d bytes", c.name, p.Name, p.fileShape(&c.rule), len(file.Data))
			}
			v := make([]float32, n)
			block.GetF32(v, file.Data)
			files = append(files, v)
			if err := p.gather(&c.rule, back, block.Raw{Type: file.Type, Data: file.Data}); err != nil {
				t.Fatal(c.name, err)
			}
		}
		for r := range c.rule.Rows {
			for k := range c.rule.Cols {
				piece, at := c.at(r, k)
				if got, want := files[piece][at], x[r*c.rule.Cols+k]+c.add; got != want {
					t.Fatalf("%s: element %d, %d: piece %d holds %g at %d, want %g", c.name, r, k, piece, got, at, want)
				}
			}
		}
		if !bytes.Equal(back.Data, mem.Data) {
			t.Errorf("%s: read back differently", c.name)
		}
	}
}

// TestNegExp: a file holds rates of decay, memory the logs of them.
func TestNegExp(t *testing.T) {
	rule := Rule{Rows: 1, Cols: 3, Vector: true}
	p := Piece{Name: "a", Rows: Rows{0, 1, 2, 2}, Then: []Rows{{1, 1, 1, 1}}, NegExp: true}
	x := []float32{0.5, -2, 3}
	mem, err := encodeAs(dtype.Of(dtype.F32), 1, 3, x)
	if err != nil {
		t.Fatal(err)
	}
	file, err := p.scatter(&rule, mem)
	if err != nil {
		t.Fatal(err)
	}
	got, back := make([]float32, 3), block.New(mem.Type, 1, 3)
	block.GetF32(got, file.Data)
	if want := []float32{-1.6487212, -20.085537, -0.13533528}; !slices.Equal(got, want) { // -e^x
		t.Errorf("the file holds %v, want %v", got, want)
	}
	if err := p.gather(&rule, back, block.Raw{Type: mem.Type, Data: file.Data}); err != nil {
		t.Fatal(err)
	}
	block.GetF32(got, back.Data)
	for i, v := range got {
		if d := math.Abs(float64(v - x[i])); !(d <= 3e-7) {
			t.Errorf("%g comes back as %g", x[i], v)
		}
	}
	clear(file.Data)
	if err := p.gather(&rule, back, block.Raw{Type: mem.Type, Data: file.Data}); err == nil {
		t.Error("a rate of 0 is read")
	}
}

// TestPiecesOfTypes: rows of types that can be cut go through files unchanged;
// what cannot is refused on writing and decoded on reading.
func TestPiecesOfTypes(t *testing.T) {
	cut := []dtype.Type{dtype.Of(dtype.BF16), dtype.Of(dtype.Q8_0), dtype.Of(dtype.Q4_0), {Kind: dtype.Int4, Group: 16, Scale: dtype.BF16, Flags: dtype.Zero}, {Kind: dtype.NF4, Group: 32}}
	whole := []dtype.Type{{Kind: dtype.NF4, Group: 64}, dtype.NF4Double, {Kind: dtype.Int4, Group: 16, Flags: dtype.Perm}}
	for _, c := range layoutCases() {
		simple, moved := true, false
		for i := range c.pieces {
			simple = simple && !c.pieces[i].changesValues()
			moved = moved || !c.pieces[i].whole() && c.pieces[i].Shape == nil
		}
		if !simple || !moved || c.rule.Vector {
			continue
		}
		x := make([]float32, c.rule.Len())
		for i := range x {
			x[i] = float32(i%17) - 8
		}
		for _, typ := range cut {
			mem, err := encodeAs(typ, c.rule.Rows, c.rule.Cols, x)
			if err != nil {
				t.Fatal(err)
			}
			if err := canStore(&c.rule, c.pieces, typ); err != nil {
				t.Fatal(c.name, err)
			}
			back := block.New(typ, mem.Rows, mem.Cols)
			for i := range c.pieces {
				file, err := c.pieces[i].scatter(&c.rule, mem)
				if err == nil {
					err = c.pieces[i].gather(&c.rule, back, block.Raw{Type: typ, Data: file.Data})
				}
				if err != nil {
					t.Fatal(c.name, typ, err)
				}
			}
			if !bytes.Equal(back.Data, mem.Data) {
				t.Errorf("%s as %v: read back differently", c.name, typ)
			}
		}
		for _, typ := range whole {
			if err := canStore(&c.rule, c.pieces, typ); err == nil || !strings.Contains(err.Error(), "reordered") {
				t.Errorf("%s as %v: %v", c.name, typ, err)
			}
			types := make([]dtype.Type, len(c.pieces))
			for i := range types {
				types[i] = typ
			}
			if got := memoryType(&c.rule, c.pieces, types); got != dtype.Of(dtype.F32) {
				t.Errorf("%s: pieces of %v are held as %v", c.name, typ, got)
			}
		}
	}
}

// TestMixedPieces: pieces of several types are held as float32, each decoded
// from its own.
func TestMixedPieces(t *testing.T) {
	rule := Rule{Name: "qkv", Rows: 4, Cols: 32}
	pieces := []Piece{{Name: "a", Rows: Rows{Count: 2, Step: 2}}, {Name: "b", Rows: Rows{Start: 2, Count: 2, Step: 2}}}
	types := []dtype.Type{dtype.Of(dtype.BF16), dtype.Of(dtype.Q8_0)}
	if got := memoryType(&rule, pieces, types); got != dtype.Of(dtype.F32) {
		t.Fatalf("held as %v", got)
	}
	mem := block.New(dtype.Of(dtype.F32), 4, 32)
	for i, typ := range types {
		x := make([]float32, 64)
		for j := range x {
			x[j] = float32(i+1) * 127
		}
		file, err := encodeAs(typ, 2, 32, x)
		if err == nil {
			err = pieces[i].gather(&rule, mem, file)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got := make([]float32, 128)
	block.GetF32(got, mem.Data)
	for i, v := range got {
		if want := float32(i/64+1) * 127; v != want {
			t.Fatalf("element %d is %g, want %g", i, v, want)
		}
	}
	if err := canStore(&rule, []Piece{{Name: "a", Transpose: true}}, dtype.Of(dtype.Q8_0)); err == nil {
		t.Error("a quantized matrix would be written transposed")
	}
}

// TestRulesCover: the pieces of every architecture's tensors hold each row once
// where a file has it in tensors,
// and no two tensors share a role or a piece. Every architecture has a
// reference checkpoint, or is among classes.json.
func TestRulesCover(t *testing.T) {
	dirs, err := filepath.Glob(testdir.Shared(t, "golden/arch") + "/*/config.json")
	if err != nil {
		t.Fatal(err)
	}
	covered := map[*Arch]bool{}
	for _, path := range append(dirs, emptyClasses(t)...) {
		src, err := Open(filepath.Dir(path))
		if err != nil { // not supported
			continue
		}
		defer src.Close()
		a, list := src.arch, src.rules
		covered[a] = true
		roles, names := map[place]bool{}, map[string]bool{}
		for i := range list {
			r := &list[i]
			if r.Tied && r.Role == Embed { // a copy under another name
				continue
			}
			at := place{r.Layer, r.Role, r.Bias}
			if roles[at] {
				t.Errorf("%s: two tensors are %+v", a.Name, at)
			}
			roles[at] = true
			rows, _ := r.units()
			kinds := map[string][]Piece{"hf": r.HF, "gguf": r.GGUF}
			if a.GGUF == "" {
				delete(kinds, "gguf")
			}
			for kind, pieces := range kinds {
				seen := make([]int, rows)
				if pieces == nil && len(r.Values) == r.Len() { // stated among the keys
					continue
				}
				for j := range pieces {
					p := &pieces[j]
					name := fmt.Sprint(kind, p.Name, p.Slab.At) // of several matrices in one tensor, each once
					if names[name] || len(p.Slab.All) > 0 && p.Slab.All[p.Slab.At] != r.Name {
						t.Errorf("%s: %s occurs twice", a.Name, p.Name)
					}
					names[name] = true
					for k := range p.size(rows) {
						seen[p.row(k, rows)]++
					}
				}
				for row, n := range seen {
					if n != 1 {
						t.Fatalf("%s: %s row %d lies in %d pieces of %s", a.Name, r.Name, row, n, kind)
					}
				}
			}
		}
	}
	for _, a := range archs {
		if !covered[a] && a != &qwen35moeVL { // which TestSeeing opens
			t.Errorf("no checkpoint of %s opens", a.Name)
		}
	}
}

// emptyClasses are the config.json of folders of the models in classes.json, whose
// weights are zeros.
func emptyClasses(t *testing.T) (paths []string) {
	raw, err := os.ReadFile("testdata/classes.json")
	if err != nil {
		t.Fatal(err)
	}
	var classes map[string]struct {
		Config  json.RawMessage
		Tensors map[string][]int64
	}
	if err := json.Unmarshal(raw, &classes); err != nil {
		t.Fatal(err)
	}
	for _, c := range classes {
		dir := t.TempDir()
		var tensors []formats.NamedTensor
		for name, shape := range c.Tensors {
			n := int64(4)
			for _, d := range shape {
				n *= d
			}
			tensors = append(tensors, formats.NamedTensor{Name: name, DType: "F32", Shape: shape, Data: make([]byte, n)})
		}
		path := filepath.Join(dir, "config.json")
		if err := os.WriteFile(path, c.Config, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := formats.WriteSafetensors(filepath.Join(dir, "model.safetensors"), tensors, nil); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}
