package quant

import (
	"bytes"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestFP4: codes, scales and numbers of the whole are those that llm-compressor made of the same model, byte for byte: NVFP4's
// with the number that query, key and value share, and gate and up.
func TestFP4(t *testing.T) {
	src := openSource(t, testdir.Shared(t, "golden/quant/orig"))
	ids := idsOf(readLayers(t, testdir.Shared(t, "golden/quant/ct-w8a8-int8/expected.safetensors")))
	whole := logits(t, src, ids)
	for scheme, dir := range map[string]string{"NVFP4A16": "ct-nvfp4", "MXFP4A16": "ct-mxfp4"} {
		t.Run(scheme, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			folder(t, src, nil, FolderJob{Path: path, Method: "rtn", Scheme: scheme})
			want, compared := stored(t, testdir.Shared(t, "golden/quant/"+dir)), 0
			for name, a := range stored(t, path) {
				if !strings.Contains(name, ".weight_") {
					continue
				}
				b, ok := want[name]
				if !ok { // one layer of the two is there
					continue
				}
				compared++
				if a.DType != b.DType || !bytes.Equal(a.Data, b.Data) {
					t.Errorf("%s: %s of %d bytes differs from %s of %d", name, a.DType, len(a.Data), b.DType, len(b.Data))
				}
			}
			if n := map[string]int{"NVFP4A16": 21, "MXFP4A16": 14}[scheme]; compared != n {
				t.Errorf("%d arrays compared, want %d", compared, n)
			}
			made := openSource(t, path)
			if got := logits(t, made, ids); !(distance(got, whole)/dot(whole, whole) < 0.1) {
				t.Errorf("relative error %g", distance(got, whole)/dot(whole, whole))
			}
		})
	}
}

// stored are the arrays of a folder by name.
func stored(t *testing.T, dir string) map[string]formats.NamedTensor {
	t.Helper()
	arrays, _, err := formats.ReadSafetensors(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]formats.NamedTensor{}
	for _, a := range arrays {
		out[a.Name] = a
	}
	return out
}

// TestFP4Numbers: matrices of one layer share a number where all of them are NVFP4, and each expert has its own.
func TestFP4Numbers(t *testing.T) {
	src := openSource(t, testdir.Shared(t, "golden/quant/orig"))
	path := filepath.Join(t.TempDir(), "out")
	folder(t, src, nil, FolderJob{Path: path, Method: "rtn", Scheme: "NVFP4A16", Overrides: []Override{{Pattern: "re:.*[.]0[.].*v_proj", Scheme: "MXFP4A16"}}, Ignore: []string{"re:.*[.]1[.].*up_proj"}})
	for _, c := range []struct {
		layer int
		roles []arch.Role
		same  bool
	}{
		{0, []arch.Role{arch.Q, arch.K}, false}, {1, []arch.Role{arch.Q, arch.K, arch.V}, true}, {0, []arch.Role{arch.Gate, arch.Up}, true},
	} {
		made, same := openSource(t, path), true
		first := number(t, made, made.At(c.layer, c.roles[0]), 0)
		for _, role := range c.roles {
			same = same && number(t, made, made.At(c.layer, role), 0) == first
		}
		if same != c.same {
			t.Errorf("layer %d, %v: one number %v, want %v", c.layer, c.roles, same, c.same)
		}
	}
	for _, bad := range []FolderJob{{Method: "rtn", Scheme: "NVFP4A16", Search: "awq"}} {
		bad.Path = "out"
		_, err := PlanFolder(src, bad)
		usage(t, bad.Search, err, "search", "number for the whole")
	}
	_, err := PlanFolder(src, FolderJob{Path: "out", Method: "rtn", Scheme: "MXFP4A16", Format: formats.GPTQ})
	usage(t, "format", err, "format", "no floats")
}

// TestFP4Experts: gate and up of an expert share a number, which is the expert's own.
func TestFP4Experts(t *testing.T) {
	src := openSource(t, testdir.Shared(t, "golden/arch/phimoe"))
	path, kept := filepath.Join(t.TempDir(), "out"), dtype.BF16
	_, err := PlanFolder(openSource(t, testdir.Shared(t, "golden/arch/jamba")), FolderJob{Path: path, Method: "rtn", Scheme: "NVFP4A16", For: []string{"transformers"}, Keep: &kept})
	usage(t, "transformers", err, "scheme", "experts of NVFP4")
	folder(t, src, nil, FolderJob{Path: path, Method: "rtn", Scheme: "NVFP4A16", For: []string{}})
	made, seen := openSource(t, path), map[float32]bool{}
	for _, x := range made.Tensors() {
		if x.Role != arch.ExpertGateUp {
			continue
		}
		plain, _, err := src.Read(src.At(x.Layer, x.Role))
		if err != nil {
			t.Fatal(err)
		}
		all, rows := make([]float32, x.Len()), x.Rows/x.Experts
		block.DecodeAll(all, plain)
		for e := range x.Experts {
			top := float32(0)
			for _, v := range all[e*rows*x.Cols : (e+1)*rows*x.Cols] {
				top = max(top, v, -v)
			}
			want := 1 / top * 2688
			for r := range rows {
				if got := number(t, made, x, e*rows+r); math.Abs(float64(got/want-1)) > 1e-2 || got != number(t, made, x, e*rows) {
					t.Fatalf("%s, expert %d, row %d: number %g, want %g", x.Name, e, r, got, want)
				}
			}
			seen[want] = true
		}
	}
	if len(seen) < 2 {
		t.Errorf("%d different numbers", len(seen))
	}
}

// number is what divides the scales of a row.
func number(t *testing.T, s *arch.Source, x *arch.Tensor, row int) float32 {
	t.Helper()
	m, _, err := s.Read(x)
	if err != nil {
		t.Fatal(err)
	}
	var v [1]float32
	block.GetF32(v[:], m.Plane(dtype.NestedScales)[4*row:])
	return v[0]
}
