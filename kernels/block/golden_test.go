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
			blocks := 0
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
					blocks += compare(t, kind, c, x, w, cols, want[key].Data, want[decoded], v, gv)
				}
			}
			t.Logf("%d blocks equal", blocks)
		})
	}
}

func compare(t *testing.T, kind dtype.Kind, c string, x, w []float32, cols int, q []byte, dq tensor, variant string, gv ggufVariant) int {
	t.Helper()
	rows := len(x) / cols
	m := block.New(dtype.Of(kind), rows, cols)
	err := block.Encode(m, x, w)
	if gv.Aborts != 0 {
		return 0
	}
	if err != nil && gv.NotFinite == 0 {
		t.Errorf("%s %s: %v", c, variant, err)
		return 0
	}
	undefined := map[int]bool{}
	for _, r := range gv.Undefined {
		undefined[r] = true
	}
	stride, n, bad := len(m.Data)/rows, kind.Info().Bytes, 0
	for r := range rows {
		if undefined[r] {
			continue
		}
		got := m.Data[r*stride : (r+1)*stride]
		if len(q) == 0 {
			if !bytes.HasPrefix([]byte(sum(got)), []byte(gv.RowSHA[r])) {
				t.Errorf("%s %s row %d: sha256 differs", c, variant, r)
			}
			continue
		}
		ref := q[r*stride : (r+1)*stride]
		for i := 0; i < stride; i += n {
			if !bytes.Equal(got[i:i+n], ref[i:i+n]) {
				if bad++; bad < 3 {
					t.Errorf("%s %s row %d block %d:\n got %x\nwant %x", c, variant, r, i/n, got[i:i+n], ref[i:i+n])
				}
			}
		}
	}
	if bad > 0 {
		t.Errorf("%s %s: %d blocks differ", c, variant, bad)
	}
	if len(q) == len(m.Data) {
		copy(m.Data, q)
		out := make([]float32, len(x))
		block.DecodeAll(out, m)
		if len(dq.Data) > 0 && !sameBits(out, dq.f32()) {
			t.Errorf("%s %s: decoded values differ", c, variant)
		}
		if gv.DQ != "" && gv.DQ != sum(bytesOf(out)) {
			t.Errorf("%s %s: sha256 of decoded values differs", c, variant)
		}
	}
	return len(m.Data) / n
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
