package formats

import (
	"encoding/binary"
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Quantized folders store one weight as several arrays. This file finds the
// arrays that belong together and makes one logical tensor "….weight" of them.

// grouper collects the logical tensors of a folder.
type grouper struct {
	a      *artifact
	where  string // config.json
	config object // quantization_config, nil when there is none
	by     map[string]*array
	owner  map[string]int // array name → index into tensors
	made   []Tensor
}

// logical turns stored arrays into logical tensors, in the order of the arrays.
func (a *artifact) logical(arrays []array) ([]Tensor, error) {
	g := &grouper{a: a, where: filepath.Join(a.dir, "config.json"), by: make(map[string]*array, len(arrays)), owner: map[string]int{}}
	for i := range arrays {
		g.by[arrays[i].name] = &arrays[i]
	}
	if err := g.readConfig(); err != nil {
		return nil, err
	}
	for i := range arrays {
		if err := g.anchor(&arrays[i]); err != nil {
			return nil, err
		}
	}
	out := make([]Tensor, 0, len(arrays))
	emitted := map[int]bool{}
	names := make(map[string]struct{}, len(arrays))
	for i := range arrays {
		t := arrays[i].tensor()
		if k, ok := g.owner[arrays[i].name]; ok {
			if emitted[k] {
				continue
			}
			emitted[k] = true
			t = g.made[k]
		}
		if _, dup := names[t.Name]; dup {
			return nil, corrupt(arrays[i].src.path, "tensor %s is stored plain and quantized", quote(t.Name))
		}
		names[t.Name] = struct{}{}
		out = append(out, t)
	}
	return out, nil
}

// readConfig finds the quantization_config, in config.json or in one of the
// files older tools wrote.
func (g *grouper) readConfig() error {
	if g.a.config != nil {
		o, err := parseObject(g.where, g.a.config)
		if err != nil {
			return err
		}
		switch q := o.get("quantization_config").(type) {
		case object:
			g.config = q
			return nil
		case nil:
		default:
			return corrupt(g.where, "quantization_config is %s, expected an object", kindOf(q))
		}
	}
	for _, f := range [][2]string{{"quantize_config.json", "gptq"}, {"quant_config.json", "awq"}} {
		b, ok := g.a.File(f[0])
		if !ok {
			continue
		}
		where := filepath.Join(g.a.dir, f[0])
		o, err := parseObject(where, b)
		if err != nil {
			return err
		}
		if o.get("quant_method") == nil {
			o = o.set("quant_method", f[1])
		}
		g.config, g.where = o, where
		return nil
	}
	return nil
}

// method is the packing of integer codes: "gptq", "awq" or what quant_method says.
func (g *grouper) method() string {
	m, _ := g.config.get("quant_method").(string)
	if m != "auto-round" && m != "intel/auto-round" {
		return m
	}
	p, _ := g.config.get("packing_format").(string)
	if strings.Contains(p, "awq") {
		return "awq"
	}
	return "gptq"
}

// number reads a whole number of the configuration under one of its names.
func (g *grouper) number(names ...string) (int64, bool, error) {
	for _, name := range names {
		v := g.config.get(name)
		if v == nil {
			continue
		}
		n, ok := v.(json.Number)
		i, err := strconv.ParseInt(string(n), 10, 32)
		if !ok || err != nil {
			return 0, false, corrupt(g.where, "quantization_config.%s is %v, expected a whole number", name, v)
		}
		return i, true, nil
	}
	return 0, false, nil
}

// flag reads a boolean of the configuration.
func (g *grouper) flag(name string, absent bool) bool {
	if v, ok := g.config.get(name).(bool); ok {
		return v
	}
	return absent
}

const (
	bnbState  = ".quant_state.bitsandbytes__"
	bnbInt8   = ".SCB"
	fp8Scale  = ".weight_scale_inv"
	ctScale   = ".weight_scale"
	ctPacked  = ".weight_packed"
	intPacked = ".qweight"
)

// anchor makes a logical tensor when a is the array its kind is known by.
func (g *grouper) anchor(a *array) error {
	name := a.name
	if i := strings.Index(name, bnbState); i >= 0 {
		return g.bnb4(name[:i], name[i+len(bnbState):], a)
	}
	for _, k := range []struct {
		suffix string
		make   func(prefix string, a *array) error
	}{
		{intPacked, g.packed}, {ctPacked, g.ctPacked}, {ctScale, g.ctScale}, {fp8Scale, g.fp8Block}, {bnbInt8, g.bnbInt8},
	} {
		if prefix, ok := strings.CutSuffix(name, k.suffix); ok {
			return k.make(prefix, a)
		}
	}
	return nil
}

// need finds an array a logical tensor cannot do without, and checks its dtype.
func (g *grouper) need(name string, dtypes ...string) (*array, error) {
	a := g.by[name]
	if a == nil {
		return nil, corrupt(g.a.path, "tensor %s is missing, but tensors that go with it are there", quote(name))
	}
	for _, d := range dtypes {
		if a.dtype == d {
			return a, nil
		}
	}
	return nil, corrupt(a.src.path, "tensor %s is %s, expected %s", quote(name), a.dtype, strings.Join(dtypes, " or "))
}

// shaped reports an array whose shape is not want.
func shaped(a *array, want ...int64) error {
	ok := len(a.shape) == len(want)
	for i := 0; ok && i < len(want); i++ {
		ok = a.shape[i] == want[i]
	}
	if !ok {
		return corrupt(a.src.path, "tensor %s has shape %v, expected %v", quote(a.name), a.shape, want)
	}
	return nil
}

// add makes a logical tensor of arrays; roles names them for load.
func (g *grouper) add(name string, typ dtype.Type, shape []int64, roles []string, arrays []*array, load func(block.Raw, parts) error) error {
	t := Tensor{Name: name, Shape: shape, Type: typ}
	if n, ok := product(shape); !ok || n > 1<<46 {
		return corrupt(g.a.path, "tensor %s: shape %v is too large", quote(name), shape)
	}
	if !dtype.Fits(typ, t.Cols()) {
		return corrupt(g.a.path, "tensor %s: rows of %d are no whole number of %v blocks", quote(name), t.Cols(), typ)
	}
	for _, a := range arrays {
		if _, taken := g.owner[a.name]; taken {
			return corrupt(a.src.path, "tensor %s belongs to two weights", quote(a.name))
		}
		g.owner[a.name] = len(g.made)
		t.Parts = append(t.Parts, a.part())
	}
	path := g.a.path
	t.load = func(t *Tensor) ([]byte, error) {
		p := parts{}
		for i, role := range roles {
			b, err := t.Parts[i].src.read(t.Parts[i].Off, t.Parts[i].Len)
			if err != nil {
				return nil, err
			}
			p[role] = b
		}
		m := block.New(t.Type, t.Rows(), t.Cols())
		if err := load(m, p); err != nil {
			return nil, corrupt(path, "tensor %s: %v", quote(t.Name), err)
		}
		return m.Data, nil
	}
	g.made = append(g.made, t)
	return nil
}

// extra attaches arrays that a weight carries but its values do not depend on,
// such as the scales of activations.
func (g *grouper) extra(names ...string) {
	k := len(g.made) - 1
	for _, name := range names {
		if a := g.by[name]; a != nil {
			g.owner[name] = k
			g.made[k].Parts = append(g.made[k].Parts, a.part())
		}
	}
}

var intKinds = map[int64]dtype.Kind{2: dtype.Int2, 3: dtype.Int3, 4: dtype.Int4, 8: dtype.Int8}

// scaleKind is the kind of a scale array that need has checked to be F16, BF16 or F32.
func scaleKind(a *array) dtype.Kind {
	k, _ := dtype.FromSafetensors(a.dtype)
	return k
}

// packed reads ".qweight" arrays of GPTQ and AWQ.
func (g *grouper) packed(prefix string, qweight *array) error {
	switch m := g.method(); m {
	case "gptq":
		return g.gptq(prefix, qweight)
	case "awq":
		return g.awq(prefix, qweight)
	case "":
		return corrupt(g.where, "tensor %s is packed, but quantization_config is missing", quote(qweight.name))
	default:
		return unsupported(g.where, "packed integer weights are read from gptq, awq, auto-round and compressed-tensors folders",
			"quantization_config.quant_method is %s", quote(m))
	}
}

// group turns the number of groups the scales have into a group size, and
// compares it with the configuration where that cannot vary by layer.
func (g *grouper) group(a *array, in, groups int64) (int32, error) {
	size, ok, err := g.number("group_size", "q_group_size")
	if err != nil {
		return 0, err
	}
	if ok && (size == 0 || size < -1) {
		return 0, corrupt(g.where, "quantization_config.group_size is %d, expected -1 or more than 0", size)
	}
	switch {
	case ok && size == -1 && groups == 1:
		return -1, nil
	case ok && size > 0 && (in+size-1)/size == groups:
		return int32(size), nil
	case ok && g.config.get("dynamic") == nil:
		return 0, corrupt(a.src.path, "tensor %s has %d groups for %d columns, which does not fit group_size %d", quote(a.name), groups, in, size)
	case groups == 1:
		return -1, nil
	case groups > 1 && in%groups == 0:
		return int32(in / groups), nil
	}
	return 0, corrupt(a.src.path, "tensor %s has %d groups, which do not divide %d columns", quote(a.name), groups, in)
}

func (g *grouper) gptq(prefix string, q *array) error {
	if q.dtype != "I32" || len(q.shape) != 2 {
		return corrupt(q.src.path, "tensor %s is %s %v, expected I32 with 2 dimensions", quote(q.name), q.dtype, q.shape)
	}
	bits, known, err := g.number("bits")
	if err != nil {
		return err
	}
	words, out := q.shape[0], q.shape[1]
	scales, err := g.need(prefix+".scales", "F16", "BF16", "F32")
	if err != nil {
		return err
	}
	zeros, err := g.need(prefix+".qzeros", "I32")
	if err != nil {
		return err
	}
	arrays, roles := []*array{q, zeros, scales}, []string{"qweight", "qzeros", "scales"}
	var in int64
	if idx := g.by[prefix+".g_idx"]; idx != nil {
		if idx.dtype != "I32" || len(idx.shape) != 1 || idx.shape[0] == 0 {
			return corrupt(idx.src.path, "tensor %s is %s %v, expected I32 with 1 dimension", quote(idx.name), idx.dtype, idx.shape)
		}
		in = idx.shape[0]
		stored := words * 32 / in
		if known && stored != bits && g.config.get("dynamic") == nil {
			return corrupt(q.src.path, "tensor %s holds %d bits a weight, quantization_config.bits is %d", quote(q.name), stored, bits)
		}
		bits = stored
		arrays, roles = append(arrays, idx), append(roles, "g_idx")
	} else if known && bits > 0 {
		in = words * 32 / bits
	}
	kind, ok := intKinds[bits]
	if !ok || in*bits != words*32 {
		return unsupported(q.src.path, "2, 3, 4 and 8 bits are read", "tensor %s: %d words of 32 bits for %d columns of %d bits", quote(q.name), words, in, bits)
	}
	if len(scales.shape) != 2 {
		return corrupt(scales.src.path, "tensor %s has shape %v, expected 2 dimensions", quote(scales.name), scales.shape)
	}
	groups := scales.shape[0]
	size, err := g.group(scales, in, groups)
	if err == nil {
		err = shaped(scales, groups, out)
	}
	if err == nil {
		err = shaped(zeros, groups, out*bits/32)
	}
	if err != nil {
		return err
	}
	typ := dtype.Type{Kind: kind, Group: size, Scale: scaleKind(scales)}
	if !g.flag("sym", true) {
		typ.Flags |= dtype.Zero
	}
	if g.flag("desc_act", false) {
		typ.Flags |= dtype.Perm
	}
	version, _ := g.config.get("checkpoint_format").(string)
	return g.add(prefix+".weight", typ, []int64{out, in}, roles, arrays, importGPTQ(version == "gptq_v2"))
}

func (g *grouper) awq(prefix string, q *array) error {
	if v, ok := g.config.get("version").(string); ok && !strings.EqualFold(v, "gemm") {
		return unsupported(g.where, "only version gemm is read", "quantization_config.version is %s", quote(v))
	}
	if bits, ok, err := g.number("bits", "w_bit"); err != nil || ok && bits != 4 {
		return corrupt(g.where, "quantization_config.bits is %d, AWQ has 4 (%v)", bits, err)
	}
	if q.dtype != "I32" || len(q.shape) != 2 {
		return corrupt(q.src.path, "tensor %s is %s %v, expected I32 with 2 dimensions", quote(q.name), q.dtype, q.shape)
	}
	in, out := q.shape[0], q.shape[1]*8
	scales, err := g.need(prefix+".scales", "F16", "BF16", "F32")
	if err != nil {
		return err
	}
	zeros, err := g.need(prefix+".qzeros", "I32")
	if err != nil {
		return err
	}
	if len(scales.shape) != 2 {
		return corrupt(scales.src.path, "tensor %s has shape %v, expected 2 dimensions", quote(scales.name), scales.shape)
	}
	groups := scales.shape[0]
	size, err := g.group(scales, in, groups)
	if err == nil {
		err = shaped(scales, groups, out)
	}
	if err == nil {
		err = shaped(zeros, groups, out/8)
	}
	if err != nil {
		return err
	}
	typ := dtype.Type{Kind: dtype.Int4, Group: size, Scale: scaleKind(scales)}
	if g.flag("zero_point", true) {
		typ.Flags |= dtype.Zero
	}
	return g.add(prefix+".weight", typ, []int64{out, in}, []string{"qweight", "qzeros", "scales"}, []*array{q, zeros, scales}, importAWQ)
}

// bnb4 reads a 4-bit weight of bitsandbytes. Its shape stands only in the
// quant_state, a few bytes of JSON stored as a tensor.
func (g *grouper) bnb4(name, code string, state *array) error {
	kind, ok := map[string]dtype.Kind{"nf4": dtype.NF4, "fp4": dtype.FP4}[code]
	if !ok || state.dtype != "U8" || state.size > 1<<16 {
		return corrupt(state.src.path, "tensor %s: expected nf4 or fp4 and up to 64 KiB of U8", quote(state.name))
	}
	text, err := state.read()
	if err != nil {
		return err
	}
	s, err := parseBnBState(state.src.path+": tensor "+quote(state.name), text)
	if err != nil {
		return err
	}
	typ := dtype.Type{Kind: kind, Group: int32(s.block)}
	absmaxType := "F32"
	if s.nested {
		typ.Flags, absmaxType = dtype.Nested, "U8"
	}
	weight, err := g.need(name, "U8")
	if err != nil {
		return err
	}
	absmax, err := g.need(name+".absmax", absmaxType)
	if err != nil {
		return err
	}
	codes, err := g.need(name+".quant_map", "F32")
	if err != nil {
		return err
	}
	n, ok := product(s.shape)
	if !ok || weight.size != n/2+n%2 {
		return corrupt(weight.src.path, "tensor %s has %d bytes, which do not hold the shape %v of its quant_state", quote(name), weight.size, s.shape)
	}
	blocks := (n + s.block - 1) / s.block
	if err := shaped(absmax, blocks); err != nil {
		return err
	}
	if err := shaped(codes, 16); err != nil {
		return err
	}
	arrays, roles := []*array{weight, absmax, codes, state}, []string{"weight", "absmax", "quant_map", "quant_state"}
	if s.nested {
		for _, n := range []struct {
			role string
			want int64
		}{{"nested_absmax", (blocks + 255) / 256}, {"nested_quant_map", 256}} {
			a, err := g.need(name+"."+n.role, "F32")
			if err == nil {
				err = shaped(a, n.want)
			}
			if err != nil {
				return err
			}
			arrays, roles = append(arrays, a), append(roles, n.role)
		}
	}
	return g.add(name, typ, s.shape, roles, arrays, importBnB)
}

// bnbState4 is what the quant_state of a 4-bit weight says.
type bnbState4 struct {
	shape  []int64
	block  int64
	nested bool
	offset float32
}

func parseBnBState(where string, text []byte) (s bnbState4, err error) {
	o, err := parseObject(where, text)
	if err != nil {
		return s, err
	}
	dims, _ := o.get("shape").([]any)
	for _, d := range dims {
		n, ok := sizeOf(d)
		if !ok {
			return s, corrupt(where, "shape is %v", dims)
		}
		s.shape = append(s.shape, n)
	}
	if len(s.shape) == 0 || len(s.shape) > 8 {
		return s, corrupt(where, "shape has %d dimensions", len(s.shape))
	}
	var ok bool
	if s.block, ok = sizeOf(o.get("blocksize")); !ok || s.block < 2 || s.block > 1<<20 || s.block%2 != 0 {
		return s, corrupt(where, "blocksize is %v, expected an even number up to 2^20", o.get("blocksize"))
	}
	offset, nested := o.get("nested_offset").(json.Number)
	if s.nested = nested; !nested {
		return s, nil
	}
	if b, ok := sizeOf(o.get("nested_blocksize")); !ok || b != 256 {
		return s, corrupt(where, "nested_blocksize is %v, expected 256", o.get("nested_blocksize"))
	}
	v, err := strconv.ParseFloat(string(offset), 32)
	if err != nil {
		return s, corrupt(where, "nested_offset is %s", offset)
	}
	s.offset = float32(v)
	return s, nil
}

// bnbInt8 reads a weight of LLM.int8(): int8 codes and an f32 maximum a row.
func (g *grouper) bnbInt8(prefix string, scb *array) error {
	w, err := g.need(prefix+".weight", "I8")
	if err != nil {
		return err
	}
	if len(w.shape) != 2 || scb.dtype != "F32" {
		return corrupt(w.src.path, "tensor %s is %v and %s is %s", quote(w.name), w.shape, quote(scb.name), scb.dtype)
	}
	if err := shaped(scb, w.shape[0]); err != nil {
		return err
	}
	err = g.add(prefix+".weight", dtype.Of(dtype.F32), w.shape, []string{"weight", "scb"}, []*array{w, scb}, importInt8Rows)
	if err == nil {
		g.extra(prefix + ".weight_format")
	}
	return err
}

func (g *grouper) errShape(a *array) error {
	return corrupt(a.src.path, "tensor %s has shape %v of %s, which fits no known layout", quote(a.name), a.shape, a.dtype)
}

// activationScales are arrays beside a weight that scale its input or output.
func (g *grouper) activationScales(prefix string) {
	g.extra(prefix+".input_scale", prefix+".input_zero_point", prefix+".input_global_scale", prefix+".output_scale", prefix+".output_zero_point")
}

// ctPacked reads compressed-tensors' packed weights: integers in I32 words,
// 4-bit floats in bytes.
func (g *grouper) ctPacked(prefix string, w *array) error {
	if len(w.shape) != 2 {
		return g.errShape(w)
	}
	var err error
	switch w.dtype {
	case "I32":
		err = g.ctInt(prefix, w)
	case "U8":
		err = g.fp4(prefix, w)
	default:
		err = g.errShape(w)
	}
	if err == nil {
		g.activationScales(prefix)
	}
	return err
}

func (g *grouper) ctInt(prefix string, w *array) error {
	shape, err := g.need(prefix+".weight_shape", "I64", "I32")
	if err != nil {
		return err
	}
	rows, cols, err := shapePair(shape)
	if err != nil {
		return err
	}
	scale, err := g.need(prefix+ctScale, "F16", "BF16", "F32")
	if err != nil {
		return err
	}
	if len(scale.shape) != 2 || rows != w.shape[0] || scale.shape[0] != rows || cols < 1 {
		return corrupt(w.src.path, "tensor %s: weight_packed %v, weight_scale %v and weight_shape [%d %d] do not fit", quote(prefix), w.shape, scale.shape, rows, cols)
	}
	bits := int64(8)
	if w.shape[1] == (cols*4+31)/32 {
		bits = 4
	} else if w.shape[1] != (cols*8+31)/32 {
		return unsupported(w.src.path, "4 and 8 bits are read", "tensor %s has %d words for %d columns", quote(w.name), w.shape[1], cols)
	}
	if g.by[prefix+".weight_g_idx"] != nil {
		return unsupported(w.src.path, "quantize again with actorder static or weight", "tensor %s: activation order by group is not read from compressed-tensors", quote(prefix))
	}
	groups := scale.shape[1]
	typ := dtype.Type{Kind: intKinds[bits], Group: -1, Scale: scaleKind(scale)}
	if groups != 1 {
		if groups < 1 || cols%groups != 0 {
			return corrupt(scale.src.path, "tensor %s: %d groups do not divide %d columns", quote(scale.name), groups, cols)
		}
		typ.Group = int32(cols / groups)
	}
	roles, arrays := []string{"packed", "scale", "shape"}, []*array{w, scale, shape}
	if zp := g.by[prefix+".weight_zero_point"]; zp != nil {
		if _, err := g.need(zp.name, "I32"); err != nil {
			return err
		}
		if err := shaped(zp, (rows*bits+31)/32, groups); err != nil {
			return err
		}
		typ.Flags |= dtype.Zero
		roles, arrays = append(roles, "zero"), append(arrays, zp)
	}
	return g.add(prefix+".weight", typ, []int64{rows, cols}, roles, arrays, importCTPacked)
}

// shapePair reads a stored [rows, cols], 8 or 16 bytes.
func shapePair(a *array) (rows, cols int64, err error) {
	if err := shaped(a, 2); err != nil {
		return 0, 0, err
	}
	b, err := a.read()
	if err != nil {
		return 0, 0, err
	}
	if a.dtype == "I32" {
		rows, cols = int64(int32(binary.LittleEndian.Uint32(b))), int64(int32(binary.LittleEndian.Uint32(b[4:])))
	} else {
		rows, cols = int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:]))
	}
	if rows < 0 || cols < 0 || rows > 1<<40 || cols > 1<<40 {
		return 0, 0, corrupt(a.src.path, "tensor %s holds [%d %d], which is no shape", quote(a.name), rows, cols)
	}
	return rows, cols, nil
}

// ctScale reads compressed-tensors' weights that are stored unpacked beside
// their scale: int8, and float8 by tensor, channel, block or group.
func (g *grouper) ctScale(prefix string, scale *array) error {
	w := g.by[prefix+".weight"]
	if w == nil {
		if g.by[prefix+ctPacked] == nil {
			return corrupt(scale.src.path, "tensor %s belongs to no weight", quote(scale.name))
		}
		return nil // ctPacked takes it
	}
	var err error
	switch {
	case len(w.shape) != 2:
		err = g.errShape(w)
	case w.dtype == "I8":
		err = g.ctInt8(prefix, w, scale)
	case w.dtype == "F8_E4M3" && scale.dtype == "U8":
		err = g.mxfp8(prefix, w, scale)
	case w.dtype == "F8_E4M3":
		err = g.fp8(prefix, w, scale)
	default:
		err = g.errShape(w)
	}
	if err == nil {
		g.activationScales(prefix)
	}
	return err
}

func (g *grouper) ctInt8(prefix string, w, scale *array) error {
	if _, err := g.need(scale.name, "F16", "BF16", "F32"); err != nil {
		return err
	}
	rows, cols := w.shape[0], w.shape[1]
	if len(scale.shape) != 2 || scale.shape[0] != rows || scale.shape[1] < 1 || cols%scale.shape[1] != 0 {
		return g.errShape(scale)
	}
	typ := dtype.Type{Kind: dtype.Int8, Group: -1, Scale: scaleKind(scale)}
	if n := scale.shape[1]; n > 1 {
		typ.Group = int32(cols / n)
	}
	roles, arrays := []string{"int8", "scale"}, []*array{w, scale}
	if zp := g.by[prefix+".weight_zero_point"]; zp != nil {
		if _, err := g.need(zp.name, "I8"); err != nil {
			return err
		}
		if err := shaped(zp, scale.shape...); err != nil {
			return err
		}
		typ.Flags |= dtype.Zero
		roles, arrays = append(roles, "zero"), append(arrays, zp)
	}
	return g.add(prefix+".weight", typ, w.shape, roles, arrays, importCTInt8)
}

// The float formats below have no dtype of their own; such a weight is decoded
// to float32 when it is read.

// fp8 reads float8 codes with a scale for the tensor, each row, or each block.
func (g *grouper) fp8(prefix string, w, scale *array) error {
	if _, err := g.need(scale.name, "F32", "BF16", "F16"); err != nil {
		return err
	}
	rows, cols := w.shape[0], w.shape[1]
	br, bc := rows, cols // one block for the whole tensor
	switch s := scale.shape; {
	case len(s) == 1 && s[0] == 1 || len(s) == 0:
	case len(s) == 2 && s[0] == rows && s[1] == 1:
		br = 1
	case len(s) == 2:
		var err error
		if br, bc, err = g.blockShape(w, scale); err != nil {
			return err
		}
	default:
		return g.errShape(scale)
	}
	load := importFP8(scaleKind(scale), int(br), int(bc))
	return g.add(prefix+".weight", dtype.Of(dtype.F32), w.shape, []string{"weight", "scale"}, []*array{w, scale}, load)
}

// fp8Block reads DeepSeek's layout, whose scales multiply blocks.
func (g *grouper) fp8Block(prefix string, scale *array) error {
	w, err := g.need(prefix+".weight", "F8_E4M3")
	if err != nil {
		return err
	}
	if len(w.shape) != 2 || len(scale.shape) != 2 {
		return g.errShape(scale)
	}
	return g.fp8(prefix, w, scale)
}

// blockShape is the block size of a two-dimensional scale: what the
// configuration says, else 128×128.
func (g *grouper) blockShape(w, scale *array) (br, bc int64, err error) {
	br, bc = 128, 128
	if b := g.blockStructure(); len(b) == 2 {
		br, bc = b[0], b[1]
	}
	if br < 1 || bc < 1 || (w.shape[0]+br-1)/br != scale.shape[0] || (w.shape[1]+bc-1)/bc != scale.shape[1] {
		return 0, 0, g.errShape(scale)
	}
	return br, bc, nil
}

func (g *grouper) blockStructure() []int64 {
	v := g.config.get("weight_block_size")
	if groups, ok := g.config.get("config_groups").(object); ok && len(groups) > 0 {
		first, _ := groups[0].Value.(object)
		weights, _ := first.get("weights").(object)
		v = weights.get("block_structure")
	}
	dims, _ := v.([]any)
	var out []int64
	for _, d := range dims {
		n, _ := sizeOf(d)
		out = append(out, n)
	}
	return out
}

// mxfp8 reads float8 codes with a power-of-two scale for every 32 columns.
func (g *grouper) mxfp8(prefix string, w, scale *array) error {
	if w.shape[1]%32 != 0 {
		return g.errShape(w)
	}
	if err := shaped(scale, w.shape[0], w.shape[1]/32); err != nil {
		return err
	}
	return g.add(prefix+".weight", dtype.Of(dtype.F32), w.shape, []string{"weight", "scale"}, []*array{w, scale}, importMXFP8)
}

// fp4 reads two 4-bit floats a byte: MXFP4 (a power of two for 32 columns) or
// NVFP4 (a float8 for 16 columns, divided by a scale for the tensor).
func (g *grouper) fp4(prefix string, w *array) error {
	scale, err := g.need(prefix+ctScale, "U8", "F8_E4M3")
	if err != nil {
		return err
	}
	shape := []int64{w.shape[0], 2 * w.shape[1]}
	if shape[1]%32 != 0 {
		return g.errShape(w)
	}
	if scale.dtype == "U8" {
		if err := shaped(scale, shape[0], shape[1]/32); err != nil {
			return err
		}
		return g.add(prefix+".weight", dtype.Of(dtype.F32), shape, []string{"packed", "scale"}, []*array{w, scale}, importMXFP4)
	}
	global, err := g.need(prefix+".weight_global_scale", "F32")
	if err == nil {
		err = shaped(global, 1)
	}
	if err == nil {
		err = shaped(scale, shape[0], shape[1]/16)
	}
	if err != nil {
		return err
	}
	return g.add(prefix+".weight", dtype.Of(dtype.F32), shape, []string{"packed", "scale", "global"}, []*array{w, scale, global}, importNVFP4)
}

// sizeOf reads a non-negative whole JSON number.
func sizeOf(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	u, err := strconv.ParseUint(string(n), 10, 63)
	return int64(u), err == nil
}

// parts are the stored bytes of one weight by role.
type parts map[string][]byte
