package block_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// tensor is one entry of a safetensors file.
type tensor struct {
	DType string
	Shape []int
	Data  []byte
}

func (t tensor) f32() []float32 {
	out := make([]float32, len(t.Data)/4)
	block.GetF32(out, t.Data)
	return out
}

// readST reads a whole safetensors file; tests only.
func readST(t testing.TB, path string) map[string]tensor {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := binary.LittleEndian.Uint64(b)
	var head map[string]struct {
		DType string `json:"dtype"`
		Shape []int  `json:"shape"`
		Off   [2]int `json:"data_offsets"`
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b[8:8+n], &raw); err != nil {
		t.Fatal(err)
	}
	delete(raw, "__metadata__")
	again, _ := json.Marshal(raw)
	if err := json.Unmarshal(again, &head); err != nil {
		t.Fatal(err)
	}
	out := map[string]tensor{}
	for name, h := range head {
		out[name] = tensor{h.DType, h.Shape, b[8+n:][h.Off[0]:h.Off[1]]}
	}
	return out
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func bytesOf(x []float32) []byte {
	b := make([]byte, 4*len(x))
	block.PutF32(b, x)
	return b
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

type ggufVariant struct {
	SHA       string   `json:"sha256"`
	DQ        string   `json:"dequantized_sha256"`
	Same      bool     `json:"same_as_without_imatrix"`
	Undefined []int    `json:"undefined_rows"`
	Aborts    int      `json:"reference_aborts"` // by which signal
	NotFinite int      `json:"dequantized_not_finite"`
	RowSHA    []string `json:"row_sha256"`
}

type ggufIndex struct {
	Cases map[string]struct {
		Rows int `json:"rows"`
		Cols int `json:"n_per_row"`
	}
	Types map[string]struct {
		Cases map[string]map[string]json.RawMessage
	}
}

// TestGGUF compares every byte that ggml_quantize_chunk wrote, with and without
// importance, and every value it decoded (golden/blocks/gguf).
func TestGGUF(t *testing.T) {
	dir := testdir.Shared(t, "golden/blocks/gguf")
	in := readST(t, filepath.Join(dir, "inputs.safetensors"))
	var index ggufIndex
	readJSON(t, filepath.Join(dir, "index.json"), &index)
	for name, ty := range index.Types {
		kind, ok := dtype.Parse(name)
		if !ok || !block.CanEncode(kind) {
			t.Errorf("%s is no type that is encoded", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			want := readST(t, filepath.Join(dir, name+".safetensors"))
			// each calls f with every case and the weights of its variant: plain or im.
			each := func(f func(b *ggufBlocks)) {
				for c := range ty.Cases {
					if strings.HasPrefix(c, "extreme") && runtime.GOARCH != "amd64" {
						continue // 0·Inf and the like: the sign of the NaN is the processor's
					}
					x, cols := in[c+"/x"].f32(), index.Cases[c].Cols
					for _, v := range []string{"plain", "im"} {
						if _, ok := ty.Cases[c][v]; !ok && v == "plain" && block.NeedsImportance(kind) {
							continue
						}
						var gv ggufVariant
						if err := json.Unmarshal(ty.Cases[c][v], &gv); err != nil {
							t.Fatal(err)
						}
						var w []float32
						key, decoded := c+"/q", c+"/dq"
						if v == "im" {
							w = in[c+"/imatrix"].f32()
							if _, ok := want[c+"/q_im"]; ok {
								key, decoded = c+"/q_im", c+"/dq_im"
							}
						}
						f(&ggufBlocks{kind, c + " " + v, x, w, cols, want[key].Data, want[decoded], gv})
					}
				}
			}
			t.Run("encode", func(t *testing.T) { each(func(b *ggufBlocks) { b.checkEncode(t) }) })
			t.Run("decode", func(t *testing.T) {
				values := 0
				each(func(b *ggufBlocks) { values += b.checkDecode(t) })
				if values == 0 {
					t.Error("nothing to decode")
				}
			})
		})
	}
}

// ggufBlocks are values [rows, cols], importance, and the blocks and decoded values that
// ggml made of them, of large cases hashes.
type ggufBlocks struct {
	kind dtype.Kind
	what string
	x, w []float32
	cols int
	q    []byte
	dq   tensor
	ggufVariant
}

func (b *ggufBlocks) checkEncode(t *testing.T) {
	t.Helper()
	rows := len(b.x) / b.cols
	m := block.New(dtype.Of(b.kind), rows, b.cols)
	err := block.Encode(m, b.x, b.w)
	if b.Aborts != 0 {
		return
	}
	if err != nil && b.NotFinite == 0 {
		t.Errorf("%s: %v", b.what, err)
		return
	}
	stride, n, bad := len(m.Data)/rows, b.kind.Info().Bytes, 0
	for r := range rows {
		if slices.Contains(b.Undefined, r) {
			continue
		}
		got := m.Data[r*stride : (r+1)*stride]
		if len(b.q) == 0 {
			if !bytes.HasPrefix([]byte(sum(got)), []byte(b.RowSHA[r])) {
				t.Errorf("%s row %d: sha256 differs", b.what, r)
			}
			continue
		}
		ref := b.q[r*stride : (r+1)*stride]
		for i := 0; i < stride; i += n {
			if !bytes.Equal(got[i:i+n], ref[i:i+n]) {
				if bad++; bad < 3 {
					t.Errorf("%s row %d block %d:\n got %x\nwant %x", b.what, r, i/n, got[i:i+n], ref[i:i+n])
				}
			}
		}
	}
	if bad > 0 {
		t.Errorf("%s: %d blocks differ", b.what, bad)
	}
}

// checkDecode compares what ggml's own blocks decode to, and returns how many values
// there were to compare.
func (b *ggufBlocks) checkDecode(t *testing.T) int {
	t.Helper()
	m := block.New(dtype.Of(b.kind), len(b.x)/b.cols, b.cols)
	if b.Aborts != 0 || len(b.q) != len(m.Data) || len(b.dq.Data) == 0 && b.DQ == "" {
		return 0
	}
	copy(m.Data, b.q)
	out := make([]float32, len(b.x))
	block.DecodeAll(out, m)
	if len(b.dq.Data) > 0 && !sameBits(out, b.dq.f32()) {
		t.Errorf("%s: decoded values differ", b.what)
	}
	if b.DQ != "" && b.DQ != sum(bytesOf(out)) {
		t.Errorf("%s: sha256 of decoded values differs", b.what)
	}
	return len(out)
}

// sameBits compares values bit for bit, any NaN equal to any NaN.
func sameBits(a, b []float32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) && (a[i] == a[i] || b[i] == b[i]) {
			return false
		}
	}
	return true
}
