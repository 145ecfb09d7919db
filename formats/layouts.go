package formats

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// layout is how one weight of a plan is stored: its arrays, and both ways
// between them and the layout in memory.
type layout struct {
	slots []slot
	out   func(block.Raw) (parts, error)
	in    func(block.Raw, parts) error
}

const only = "" // the role of a plain tensor's one array

// layoutOf chooses the layout of one tensor of a plan in a folder.
func layoutOf(p TensorPlan, kind, float string) (layout, error) {
	if !p.Type.Quantized() {
		return plainLayout(p)
	}
	prefix, ok := strings.CutSuffix(p.Name, ".weight")
	if !ok {
		return layout{}, fmt.Errorf("a quantized weight must be named ….weight")
	}
	switch kind {
	case GPTQ, GPTQV2:
		return gptqLayout(p, prefix, kind == GPTQV2)
	case AWQ:
		return awqLayout(p, prefix)
	case CompressedTensors:
		return ctLayout(p, prefix)
	case Bitsandbytes:
		return bnbLayout(p, float)
	case EXL2:
		return exl2Layout(p, prefix)
	case FP8:
		return fp8Layout(p, prefix)
	}
	return layout{}, fmt.Errorf("%v cannot be stored in a %s folder", p.Type, kind)
}

func plainLayout(p TensorPlan) (layout, error) {
	in := p.Type.Kind.Info()
	if in.ST == "" {
		return layout{}, fmt.Errorf("safetensors has no %v", p.Type)
	}
	return layout{
		slots: []slot{{role: only, name: p.Name, dtype: in.ST, shape: p.Shape}},
		out:   func(m block.Raw) (parts, error) { return parts{only: m.Data}, nil },
		in:    func(m block.Raw, p parts) error { copy(m.Data, p[only]); return nil },
	}, nil
}

// matrix reports a plan that is no matrix of integer codes of one of the widths.
func matrix(p TensorPlan, kinds ...dtype.Kind) (rows, cols, groups int64, err error) {
	ok := false
	for _, k := range kinds {
		ok = ok || p.Type.Kind == k
	}
	if !ok || len(p.Shape) != 2 {
		return 0, 0, 0, fmt.Errorf("%v %v cannot be stored in this layout", p.Type, p.Shape)
	}
	cols = p.Shape[1]
	if g := int64(p.Type.Group); g > 0 && cols%g != 0 {
		return 0, 0, 0, fmt.Errorf("group size %d does not divide %d columns; consumers refuse such a weight", g, cols)
	}
	return p.Shape[0], cols, int64(p.Type.Groups(int(cols))), nil
}

// gptqLayout stores zero points less one, or with v2 as they are.
func gptqLayout(p TensorPlan, prefix string, v2 bool) (layout, error) {
	rows, cols, groups, err := matrix(p, dtype.Int2, dtype.Int3, dtype.Int4, dtype.Int8)
	bits := int64(p.Type.Bits())
	if err == nil && (cols*bits%32 != 0 || rows*bits%32 != 0) {
		err = fmt.Errorf("%v: %d bits a weight do not fill words of 32 along both dimensions", p.Shape, bits)
	}
	if err != nil {
		return layout{}, err
	}
	return layout{
		slots: []slot{
			{role: "qweight", name: prefix + ".qweight", dtype: "I32", shape: []int64{cols * bits / 32, rows}},
			{role: "qzeros", name: prefix + ".qzeros", dtype: "I32", shape: []int64{groups, rows * bits / 32}},
			{role: "scales", name: prefix + ".scales", dtype: p.Type.Scale.Info().ST, shape: []int64{groups, rows}},
			{role: "g_idx", name: prefix + ".g_idx", dtype: "I32", shape: []int64{cols}},
		},
		out: func(m block.Raw) (parts, error) {
			q, err := block.ExportGPTQ(m, v2)
			return parts{"qweight": q.QWeight, "qzeros": q.QZeros, "scales": q.Scales, "g_idx": q.GIdx}, err
		},
		in: importGPTQ(block.GPTQ{V2: v2}),
	}, nil
}

func awqLayout(p TensorPlan, prefix string) (layout, error) {
	rows, cols, groups, err := matrix(p, dtype.Int4)
	switch {
	case err != nil:
	case rows%8 != 0:
		err = fmt.Errorf("%d rows are no multiple of 8", rows)
	case p.Type.Flags&dtype.Perm != 0:
		err = fmt.Errorf("AWQ has no activation order")
	}
	if err != nil {
		return layout{}, err
	}
	return layout{
		slots: []slot{
			{role: "qweight", name: prefix + ".qweight", dtype: "I32", shape: []int64{cols, rows / 8}},
			{role: "qzeros", name: prefix + ".qzeros", dtype: "I32", shape: []int64{groups, rows / 8}},
			{role: "scales", name: prefix + ".scales", dtype: p.Type.Scale.Info().ST, shape: []int64{groups, rows}},
		},
		out: func(m block.Raw) (parts, error) {
			q, err := block.ExportAWQ(m)
			return parts{"qweight": q.QWeight, "qzeros": q.QZeros, "scales": q.Scales}, err
		},
		in: importAWQ,
	}, nil
}

func ctLayout(p TensorPlan, prefix string) (layout, error) {
	rows, cols, groups, err := matrix(p, dtype.Int4, dtype.Int8, dtype.F8E4M3, dtype.F4E2M1)
	if err == nil && p.Type.Flags&dtype.Perm != 0 {
		err = fmt.Errorf("compressed-tensors has no activation order by group")
	}
	if err != nil {
		return layout{}, err
	}
	switch p.Type.Kind {
	case dtype.F8E4M3:
		return float8Layout(p, prefix+ctScale, groups), nil
	case dtype.F4E2M1:
		return float4Layout(p, prefix, groups)
	}
	if p.Act != (dtype.Type{}) {
		return ctUnpacked(p, prefix, groups)
	}
	bits := int64(p.Type.Bits())
	slots := []slot{
		{role: "packed", name: prefix + ".weight_packed", dtype: "I32", shape: []int64{rows, (cols*bits + 31) / 32}},
		{role: "scale", name: prefix + ".weight_scale", dtype: p.Type.Scale.Info().ST, shape: []int64{rows, groups}},
		{role: "shape", name: prefix + ".weight_shape", dtype: "I64", shape: []int64{2}},
	}
	if p.Type.Flags&dtype.Zero != 0 {
		slots = append(slots, slot{role: "zero", name: prefix + ".weight_zero_point", dtype: "I32", shape: []int64{(rows*bits + 31) / 32, groups}})
	}
	return layout{
		slots: slots,
		out: func(m block.Raw) (parts, error) {
			c, err := block.ExportCT(m, false)
			shape := binary.LittleEndian.AppendUint64(nil, uint64(rows))
			return parts{"packed": c.Packed, "scale": c.Scale, "zero": c.ZeroPoint, "shape": binary.LittleEndian.AppendUint64(shape, uint64(cols))}, err
		},
		in: ctCodes{grid: scaleGrid{run: 1}}.load,
	}, nil
}

// ctUnpacked stores 8-bit codes as they are: what products in 8 bits read.
func ctUnpacked(p TensorPlan, prefix string, groups int64) (layout, error) {
	if p.Type.Kind != dtype.Int8 {
		return layout{}, fmt.Errorf("%v weights have no product with activations of %v in compressed-tensors; W8A8 has", p.Type, p.Act)
	}
	slots := []slot{
		{role: "int8", name: p.Name, dtype: "I8", shape: p.Shape},
		{role: "scale", name: prefix + ".weight_scale", dtype: p.Type.Scale.Info().ST, shape: []int64{p.Shape[0], groups}},
	}
	if p.Type.Flags&dtype.Zero != 0 {
		slots = append(slots, slot{role: "zero8", name: prefix + ".weight_zero_point", dtype: "I8", shape: []int64{p.Shape[0], groups}})
	}
	return layout{
		slots: slots,
		out: func(m block.Raw) (parts, error) {
			c, err := block.ExportCT(m, true)
			return parts{"int8": c.Int8, "scale": c.Scale, "zero8": c.Zero8}, err
		},
		in: ctCodes{grid: scaleGrid{run: 1}}.load,
	}, nil
}

// fp8Layout stores 8-bit floats in blocks, whose last rows may be fewer.
func fp8Layout(p TensorPlan, prefix string) (layout, error) {
	_, _, groups, err := matrix(p, dtype.F8E4M3)
	if err == nil && !(block.InTiles(p.Type) && p.Act == ActFP8Block) {
		err = fmt.Errorf("%v with inputs of %v cannot be stored in a %s folder, which has blocks of %d rows and columns", p.Type, p.Act, FP8, block.FloatRows)
	}
	if err != nil {
		return layout{}, err
	}
	return float8Layout(p, prefix+fp8Scale, groups), nil
}

// float8Layout stores 8-bit floats and the scales of their rows, or of their blocks.
func float8Layout(p TensorPlan, scale string, groups int64) layout {
	grid := scaleGrid{run: 1, group: p.Type.Group}
	if block.InTiles(p.Type) {
		grid.run = block.FloatRows
	}
	run := int64(grid.run)
	return layout{
		slots: []slot{
			{role: "codes", name: p.Name, dtype: p.Type.Kind.Info().ST, shape: p.Shape},
			{role: "scale", name: scale, dtype: p.Type.Scale.Info().ST, shape: []int64{(p.Shape[0] + run - 1) / run, groups}},
		},
		out: func(m block.Raw) (parts, error) {
			scales, err := grid.gather(m)
			return parts{"codes": m.Plane(dtype.Codes), "scale": scales}, err
		},
		in: importFloats(grid),
	}
}

// The 4-bit floats that compressed-tensors stores.
var (
	mxfp4 = dtype.Type{Kind: dtype.F4E2M1, Group: 32, Scale: dtype.F8E8M0}
	nvfp4 = dtype.Type{Kind: dtype.F4E2M1, Group: 16, Scale: dtype.F8E4M3, Flags: dtype.Nested | dtype.Inverse}
)

// float4Layout stores floats of 4 bits, two a byte, the scales of their groups, and of NVFP4 the number that divides all scales.
func float4Layout(p TensorPlan, prefix string, groups int64) (layout, error) {
	if p.Type != mxfp4 && p.Type != nvfp4 || p.Act != (dtype.Type{}) {
		return layout{}, fmt.Errorf("%v with inputs of %v cannot be stored in this layout; %v and %v with inputs as they are can", p.Type, p.Act, mxfp4, nvfp4)
	}
	rows, scale := p.Shape[0], "U8"
	if p.Type == nvfp4 {
		scale = "F8_E4M3"
	}
	slots := []slot{
		{role: "codes", name: prefix + ".weight_packed", dtype: "U8", shape: []int64{rows, p.Shape[1] / 2}},
		{role: "scale", name: prefix + ctScale, dtype: scale, shape: []int64{rows, groups}},
	}
	if p.Type == nvfp4 {
		slots = append(slots, slot{role: "global", name: prefix + globalScale, dtype: "F32", shape: []int64{1}})
	}
	return layout{
		slots: slots,
		out: func(m block.Raw) (parts, error) {
			out := parts{"codes": m.Plane(dtype.Codes), "scale": m.Plane(dtype.Scales)}
			if all := m.Plane(dtype.NestedScales); len(all) > 0 {
				out["global"] = all[:4]
				for r := range m.Rows {
					if !bytes.Equal(all[4*r:4*r+4], all[:4]) {
						return nil, fmt.Errorf("row %d has the number %g for its scales, and row 0 %g: a matrix has one", r, f32(all, r), f32(all, 0))
					}
				}
			}
			return out, nil
		},
		in: importFloats(scaleGrid{run: 1}),
	}, nil
}

// bnbLayout stores a weight of bitsandbytes, of 4 bits or of LLM.int8(). float is the dtype the
// consumer decodes to.
func bnbLayout(p TensorPlan, float string) (layout, error) {
	if p.Type == bnbRows && len(p.Shape) == 2 {
		return bnbInt8Layout(p), nil
	}
	n, ok := product(p.Shape)
	if !ok || !p.Type.Flat() || p.Type.Group < 2 {
		return layout{}, fmt.Errorf("%v %v cannot be stored in a bitsandbytes folder", p.Type, p.Shape)
	}
	code := strings.ToLower(p.Type.Kind.String())
	blocks := (n + int64(p.Type.Group) - 1) / int64(p.Type.Group)
	nested := p.Type.Flags&dtype.Nested != 0
	absmax := "F32"
	if nested {
		absmax = "U8"
	}
	slots := []slot{
		{role: "weight", name: p.Name, dtype: "U8", shape: []int64{n/2 + n%2, 1}},
		{role: "absmax", name: p.Name + ".absmax", dtype: absmax, shape: []int64{blocks}},
		{role: "quant_map", name: p.Name + ".quant_map", dtype: "F32", shape: []int64{16}},
		{role: "quant_state", name: p.Name + bnbState + code, dtype: "U8", shape: []int64{int64(len(bnbText(p, float, math.MaxFloat32)))}},
	}
	if nested {
		slots = append(slots,
			slot{role: "nested_absmax", name: p.Name + ".nested_absmax", dtype: "F32", shape: []int64{(blocks + 255) / 256}},
			slot{role: "nested_quant_map", name: p.Name + ".nested_quant_map", dtype: "F32", shape: []int64{256}})
	}
	return layout{
		slots: slots,
		out: func(m block.Raw) (parts, error) {
			b, err := block.ExportBnB(m)
			book := block.CodeMap4(m.Type.Kind)
			codes := make([]byte, 4*len(book))
			block.PutF32(codes, book[:])
			return parts{
				"weight": b.Weight, "absmax": b.AbsMax, "quant_map": codes, "nested_absmax": b.NestedAbsMax, "nested_quant_map": b.NestedMap,
				"quant_state": bnbText(p, float, b.NestedOffset),
			}, err
		},
		in: importBnB,
	}, nil
}

// bnbRows is the type of a weight of LLM.int8(): a scale, a 127th of the largest magnitude, a row.
var bnbRows = dtype.Type{Kind: dtype.Int8, Group: -1, Scale: dtype.F32}

// bnbInt8Layout stores a weight of LLM.int8(): codes, and the largest magnitude of each
// row, a number of F16, which is found again from its 127th without loss.
func bnbInt8Layout(p TensorPlan) layout {
	prefix := strings.TrimSuffix(p.Name, ".weight")
	return layout{
		slots: []slot{
			{role: "int8", name: p.Name, dtype: "I8", shape: p.Shape},
			{role: "scb", name: prefix + bnbInt8, dtype: "F32", shape: p.Shape[:1]},
			{role: "format", name: prefix + ".weight_format", dtype: "U8", shape: []int64{}},
		},
		out: func(m block.Raw) (parts, error) {
			c, err := block.ExportCT(m, true)
			if err != nil {
				return nil, err
			}
			tops := make([]float32, m.Rows)
			for r := range tops {
				tops[r] = 127 * f32(c.Scale, r)
			}
			half, scb := make([]byte, 2*m.Rows), make([]byte, 4*m.Rows)
			block.PutF16(half, tops)
			block.GetF16(tops, half)
			block.PutF32(scb, tops)
			for r, top := range tops {
				if want := f32(c.Scale, r); top/127 != want {
					return nil, fmt.Errorf("row %d has the scale %g, which is no 127th of a number of F16", r, want)
				}
			}
			return parts{"int8": c.Int8, "scb": scb, "format": {0}}, nil // 0: plain rows
		},
		in: func(m block.Raw, p parts) error {
			scale := make([]byte, len(p["scb"]))
			for r := range m.Rows {
				put32(scale, r, f32(p["scb"], r)/127)
			}
			return ctCodes{grid: scaleGrid{run: 1}}.load(m, parts{"int8": p["int8"], "scale": scale})
		},
	}
}

// bnbText is the quant_state of a weight: JSON, in the key order of
// bitsandbytes, with blanks behind the offset so that its length depends on the
// plan alone.
func bnbText(p TensorPlan, float string, offset float32) []byte {
	var shape []string
	for _, d := range p.Shape {
		shape = append(shape, strconv.FormatInt(d, 10))
	}
	s := fmt.Sprintf(`{"quant_type": "%s", "blocksize": %d, "dtype": "%s", "shape": [%s]`,
		strings.ToLower(p.Type.Kind.String()), p.Type.Group, float, strings.Join(shape, ", "))
	if p.Type.Flags&dtype.Nested == 0 {
		return []byte(s + "}")
	}
	num := strconv.FormatFloat(float64(offset), 'g', -1, 64) // Python's float of the f32: exact
	return []byte(fmt.Sprintf(`%s, "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": %s}%*s`, s, num, 25-len(num), ""))
}
