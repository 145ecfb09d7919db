package formats

import (
	"cmp"
	"encoding/binary"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// Integer codes in groups: GPTQ, AWQ and compressed-tensors.

var intKinds = map[int64]dtype.Kind{2: dtype.Int2, 3: dtype.Int3, 4: dtype.Int4, 8: dtype.Int8}

// scaleKind is the kind of a scale array that need has checked to be F16, BF16 or F32.
func scaleKind(a *array) dtype.Kind {
	k, _ := dtype.FromSafetensors(a.dtype)
	return k
}

// packed reads ".qweight" arrays of GPTQ and AWQ.
func (g *grouper) packed(prefix string, qweight *array) error {
	var err error
	switch m := g.method(); m {
	case "gptq":
		err = g.gptq(prefix, qweight)
	case "awq":
		err = g.awq(prefix, qweight)
	case "":
		return corrupt(g.where, "tensor %s is packed, but quantization_config is missing", quote(qweight.name))
	default:
		return unsupported(g.where, "tensors ….qweight are read from gptq, awq and auto-round folders",
			"tensor %s is packed as GPTQ and AWQ have it, but quantization_config.quant_method is %s", quote(qweight.name), quote(m))
	}
	if err != nil {
		return err
	}
	return g.inputs(prefix)
}

// group turns the number of groups the scales have into a group size, and
// compares it with the configuration where that cannot vary by layer.
func (g *grouper) group(a *array, in, groups int64) (int32, error) {
	size, ok, err := g.numberOf(strings.TrimSuffix(a.name, ".scales"), "group_size", "q_group_size")
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
	case ok && !g.varies():
		return 0, corrupt(a.src.path, "tensor %s has %d groups for %d columns, which does not fit group_size %d", quote(a.name), groups, in, size)
	case groups == 1:
		return -1, nil
	case groups > 1 && in%groups == 0:
		return int32(in / groups), nil
	}
	return 0, corrupt(a.src.path, "tensor %s has %d groups, which do not divide %d columns", quote(a.name), groups, in)
}

// packDTypes are the words that codes of GPTQ are packed in, and their bits.
var packDTypes = map[string]int64{"I8": 8, "I16": 16, "I32": 32, "I64": 64}

func (g *grouper) gptq(prefix string, q *array) error {
	word := packDTypes[q.dtype]
	if word == 0 || len(q.shape) != 2 {
		return corrupt(q.src.path, "tensor %s is %s %v, expected I8, I16, I32 or I64 with 2 dimensions", quote(q.name), q.dtype, q.shape)
	}
	bits, known, err := g.numberOf(prefix, "bits")
	if err != nil {
		return err
	}
	sym, err := g.flagOf(prefix, "sym", true)
	desc, e := g.flagOf(prefix, "desc_act", false)
	if err = errors.Join(err, e); err != nil {
		return err
	}
	v2, err := g.plainZeros(sym)
	if err != nil {
		return err
	}
	words, out := q.shape[0], q.shape[1]
	scales, err := g.need(prefix+".scales", "F16", "BF16", "F32")
	if err != nil {
		return err
	}
	zeros, err := g.need(prefix+".qzeros", q.dtype)
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
		stored := words * word / in
		if known && stored != bits && !g.varies() {
			return corrupt(q.src.path, "tensor %s holds %d bits a weight, quantization_config.bits is %d", quote(q.name), stored, bits)
		}
		bits = stored
		arrays, roles = append(arrays, idx), append(roles, "g_idx")
	} else if known && bits > 0 {
		in = words * word / bits
	}
	stream := g.autoRound() && bits >= 5 && bits <= 7 // GPTQModel stores these widths otherwise
	if intKinds[bits] == 0 && !stream || in*bits != words*word || bits == 3 && word != 32 {
		return unsupported(q.src.path, "2, 4 and 8 bits are read, 3 in words of 32, and of AutoRound 5, 6 and 7", "tensor %s: %d words of %d bits for %d columns of %d bits", quote(q.name), words, word, in, bits)
	}
	size, err := g.groupSize(scales, zeros, in, out, out*bits/word)
	if err != nil {
		return err
	}
	typ := dtype.Type{Kind: widen(bits, in), Group: size, Scale: scaleKind(scales)}
	if !sym {
		typ.Flags |= dtype.Zero
	}
	if desc {
		typ.Flags |= dtype.Perm
	}
	return g.add(prefix+".weight", typ, []int64{out, in}, roles, arrays, importGPTQ(block.GPTQ{V2: v2, Word: int(word), Bits: int(bits)}))
}

// autoRound reports whether a folder is AutoRound's.
func (g *grouper) autoRound() bool {
	m, _ := g.config.get("quant_method").(string)
	return m == "auto-round" || m == "intel/auto-round"
}

// plainZeros reports whether zero points of GPTQ's layout are stored as they are, instead
// of less one: version 2, and all packings of AutoRound but auto_gptq. It need not be
// known of a symmetric matrix.
func (g *grouper) plainZeros(symmetric bool) (bool, error) {
	if !g.autoRound() {
		version, err := g.packing("gptq", "gptq_v2")
		return version == "gptq_v2", err
	}
	switch p, _ := g.config.get("packing_format").(string); {
	case p == "", p == "auto_gptq", strings.HasPrefix(p, "auto_round:auto_gptq"), p == "auto_round:gptq", symmetric:
		return false, nil
	case p == "auto_round", strings.HasPrefix(p, "auto_round:gptqmodel"):
		return true, nil
	default:
		return false, unsupported(g.where, "export the model in the format auto_round:auto_gptq",
			"quantization_config.packing_format is %s; zero points are read of auto_round, auto_round:auto_gptq, auto_round:auto_awq and auto_round:gptqmodel", quote(p))
	}
}

// packing is how the configuration says that codes are packed, the first of known
// where it does not say.
func (g *grouper) packing(known ...string) (string, error) {
	if marlin, err := g.flag("is_marlin_format", false); err != nil {
		return "", err
	} else if marlin {
		return "", unsupported(g.where, "save the model in the format "+known[0], "quantization_config.is_marlin_format is true")
	}
	found, by := "", ""
	for _, key := range []string{"checkpoint_format", "format", "version"} { // GPTQModel's words, AutoAWQ's
		if key == "version" && known[0] == "gptq" { // there it is a program's
			continue
		}
		v, err := g.word(key)
		if err != nil {
			return "", err
		}
		switch v = strings.ToLower(v); {
		case v == "":
		case !slices.Contains(known, v):
			return "", unsupported(g.where, "save the model in the format "+known[0], "quantization_config.%s is %s; known here: %s", key, quote(v), strings.Join(known, ", "))
		case found != "" && v != found:
			return "", corrupt(g.where, "quantization_config.%s is %s and %s is %s", by, quote(found), key, quote(v))
		default:
			found, by = v, key
		}
	}
	return cmp.Or(found, known[0]), nil
}

// groupSize checks the shapes [groups, out] of scales and [groups, words] of
// zeros, and returns how many of in rows share a scale.
func (g *grouper) groupSize(scales, zeros *array, in, out, words int64) (int32, error) {
	if len(scales.shape) != 2 {
		return 0, corrupt(scales.src.path, "tensor %s has shape %v, expected 2 dimensions", quote(scales.name), scales.shape)
	}
	groups := scales.shape[0]
	size, err := g.group(scales, in, groups)
	if err == nil {
		err = shaped(scales, groups, out)
	}
	if err == nil {
		err = shaped(zeros, groups, words)
	}
	return size, err
}

func (g *grouper) awq(prefix string, q *array) error {
	if _, err := g.packing("gemm"); err != nil {
		return err
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
	size, err := g.groupSize(scales, zeros, in, out, out/8)
	if err != nil {
		return err
	}
	if size > 0 && in%int64(size) != 0 { // rounded up, as many groups have several sizes; AutoAWQ divides
		return corrupt(q.src.path, "tensor %s has %d columns, which quantization_config.group_size %d does not divide", quote(q.name), in, size)
	}
	zero, err := g.flag("zero_point", true)
	if err != nil {
		return err
	}
	typ := dtype.Type{Kind: dtype.Int4, Group: size, Scale: scaleKind(scales)}
	if zero {
		typ.Flags |= dtype.Zero
	}
	return g.add(prefix+".weight", typ, []int64{out, in}, []string{"qweight", "qzeros", "scales"}, []*array{q, zeros, scales}, importAWQ)
}

// ctPacked reads compressed-tensors' packed weights: integers in I32 words,
// 4-bit floats in bytes.
func (g *grouper) ctPacked(prefix string, w *array) error {
	if len(w.shape) != 2 {
		return g.errShape(w)
	}
	if m, _ := g.config.get("quant_method").(string); m != "compressed-tensors" && m != "" && !g.autoRound() {
		return unsupported(g.where, "tensors ….weight_packed are read from compressed-tensors and auto-round folders",
			"tensor %s is packed as compressed-tensors has it, but quantization_config.quant_method is %s", quote(w.name), quote(m))
	}
	var err error
	switch w.dtype {
	case "I32":
		err = g.ctInt(prefix, w)
	case "U8":
		err = g.ctFloat(prefix, w)
	default:
		err = g.errShape(w)
	}
	if err == nil {
		err = g.inputs(prefix)
	}
	return err
}

// ctFloat reads 4-bit and 6-bit floats in bytes.
func (g *grouper) ctFloat(prefix string, w *array) error {
	scale, err := g.need(prefix+ctScale, "U8", "F8_E8M0", "F8_E4M3")
	if err != nil {
		return err
	}
	args, err := g.ctWeights(prefix)
	if err != nil {
		return err
	}
	bits, _ := sizeOf(args.get("num_bits"))
	switch {
	case g.autoRound():
		return g.autoRoundFloat(prefix, w, scale)
	case bits == 6:
		return g.scaled(prefix, w, scale, scaled{6, 32, e2m3, e8m0})
	}
	size := int64(32)
	if scale.dtype == "F8_E4M3" {
		size = 16
	}
	if own, known := sizeOf(args.get("group_size")); args.get("num_bits") != nil && bits != 4 || known && own != size {
		return corrupt(g.where, "quantization_config.config_groups: weights of %s have num_bits %v and group_size %v, but tensor %s holds 4 bits and tensor %s groups of %d",
			quote(prefix), args.get("num_bits"), args.get("group_size"), quote(w.name), quote(scale.name), size)
	}
	if kind, _ := args.get("type").(string); kind != "" && !strings.EqualFold(kind, "float") {
		return corrupt(g.where, "quantization_config.config_groups: weights of %s have type %s, but tensor %s holds floats of 4 bits", quote(prefix), quote(kind), quote(w.name))
	}
	if err := g.needZeros(prefix, w); err != nil {
		return err
	}
	return g.fp4(prefix, w, scale)
}

// ctInt reads integers of 1 to 8 bits. A width that no kind has is read as the next
// wider one, its codes around the same zero point.
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
	if rows != w.shape[0] || cols < 1 {
		return corrupt(w.src.path, "tensor %s: weight_packed %v and weight_shape [%d %d] do not fit", quote(prefix), w.shape, rows, cols)
	}
	zp := g.by[prefix+zeroPoint]
	bits, loose, err := g.ctWidth(prefix, w, zp, rows, cols)
	if err != nil {
		return err
	}
	grid, err := g.gridOf(prefix, []int64{rows, cols}, scale)
	if err != nil {
		return err
	}
	typ := dtype.Type{Kind: widen(bits, cols), Group: grid.group, Scale: scaleKind(scale)}
	c := ctCodes{bits: int(bits), loose: loose, grid: grid}
	roles, arrays := []string{"packed", "scale", "shape"}, []*array{w, scale, shape}
	switch {
	case zp == nil:
	case zp.dtype == "I8": // of one for the tensor
		if err := shaped(zp, scale.shape...); err != nil {
			return err
		}
		typ.Flags |= dtype.Zero
		roles, arrays = append(roles, "zero8"), append(arrays, zp)
	default:
		if _, err := g.need(zp.name, "I32"); err != nil {
			return err
		}
		if grid.run != 1 {
			return g.errShape(zp)
		}
		if err := shaped(zp, int64(block.CodeWords(int(rows), int(bits), loose)), int64(typ.Groups(int(cols)))); err != nil {
			return err
		}
		typ.Flags |= dtype.Zero
		roles, arrays = append(roles, "zero"), append(arrays, zp)
	}
	if idx := g.by[prefix+".weight_g_idx"]; idx != nil {
		if _, err := g.need(idx.name, "I32"); err != nil {
			return err
		}
		if err := shaped(idx, cols); err != nil {
			return err
		}
		typ.Flags |= dtype.Perm
		roles, arrays = append(roles, "g_idx"), append(arrays, idx)
	}
	if err := g.needZeros(prefix, w); err != nil {
		return err
	}
	return g.add(prefix+".weight", typ, []int64{rows, cols}, roles, arrays, c.load)
}

// needZeros reports a weight without zero points whose configuration says that it has them.
func (g *grouper) needZeros(prefix string, w *array) error {
	args, err := g.ctWeights(prefix)
	if err != nil {
		return err
	}
	symmetric, err := g.boolean("config_groups: weights.symmetric", args.get("symmetric"), true)
	if err == nil && !symmetric && g.by[prefix+zeroPoint] == nil {
		err = corrupt(w.src.path, "tensor %s has no weight_zero_point, quantization_config says symmetric: false", quote(prefix))
	}
	return err
}

// ctWidth is the width of packed codes: what the configuration says, else 4 or 8 by
// their number of words; and whether the rest of a word is empty where the next code does
// not fit (loose). Zero points, nil for none, are packed along the rows as the codes are
// along the columns.
func (g *grouper) ctWidth(prefix string, w, zeros *array, rows, cols int64) (bits int64, loose bool, err error) {
	args, err := g.ctWeights(prefix)
	if err != nil {
		return 0, false, err
	}
	widths := []int64{4, 8}
	if v := args.get("num_bits"); v != nil {
		n, _, err := g.whole("config_groups: weights.num_bits", v)
		if err != nil {
			return 0, false, err
		}
		if n < 1 || n > 8 {
			return 0, false, unsupported(g.where, "1 to 8 bits are read", "quantization_config.config_groups: num_bits is %d for %s", n, quote(prefix))
		}
		widths = []int64{n}
	}
	for _, bits := range widths {
		longest, packed := cols, zeros != nil && zeros.dtype == "I32" && len(zeros.shape) == 2
		if packed {
			longest = max(cols, rows)
		}
		fits := func(loose bool) bool {
			words := func(n int64) int64 { return int64(block.CodeWords(int(n), int(bits), loose)) }
			return w.shape[1] == words(cols) && (!packed || zeros.shape[0] == words(rows))
		}
		switch dense, loose := fits(false), fits(true); {
		case dense && loose && 32%bits != 0 && longest > 32/bits:
			loose, err = g.ctLoose(prefix, bits, cols)
			return bits, loose, err
		case dense || loose:
			return bits, !dense, nil
		}
	}
	return 0, false, corrupt(w.src.path, "tensor %s has %d words of 32 bits for %d columns, which is not what codes of %v bits take", quote(w.name), w.shape[1], cols, widths)
}

// looseVersions are releases of compressed-tensors whose words hold whole codes only:
// from 0.18.0 on codes straddle words. What nightly builds between the two do is not known.
var (
	looseVersions = regexp.MustCompile(`^0\.([0-9]|1[0-5])\.|^0\.1[67](\.[0-9]+)*$`)
	denseVersions = regexp.MustCompile(`^0\.18(\.[0-9]+)*$|^0\.(19|[2-9][0-9])\.|^[1-9][0-9]*\.`)
)

// ctLoose is the packing where the number of words does not tell it: by the version that
// wrote the folder.
func (g *grouper) ctLoose(prefix string, bits, cols int64) (bool, error) {
	switch version, err := g.word("version"); {
	case err != nil:
		return false, err
	case looseVersions.MatchString(version):
		return true, nil
	case denseVersions.MatchString(version):
		return false, nil
	default:
		return false, unsupported(g.where, "say in quantization_config.version which release of compressed-tensors packed the weights, or quantize the model again",
			"tensor %s: %d codes of %d bits take as many words in the packing of compressed-tensors before 0.18.0 as in the later one, and quantization_config.version is %s", quote(prefix), cols, bits, quote(version))
	}
}

// widen is the narrowest kind of integers that holds codes of so many bits.
func widen(bits, cols int64) dtype.Kind {
	for _, b := range []int64{2, 3, 4} {
		if bits <= b && dtype.Fits(dtype.Type{Kind: intKinds[b]}, int(cols)) {
			return intKinds[b]
		}
	}
	return dtype.Int8
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
// their scale: int8, and float8 by tensor, channel, block or group; and ModelOpt's
// NVFP4.
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
	case w.dtype == "U8" && scale.dtype == "F8_E4M3" && g.by[prefix+scale2] != nil, w.dtype == "U8" && scale.dtype == "U8" && (g.method() == "quark" || g.modelopt()):
		err = g.fp4(prefix, w, scale)
	case w.dtype == "F8_E4M3" && scale.dtype == "U8":
		err = g.mxfp8(prefix, w, scale)
	case w.dtype == "F8_E4M3":
		err = g.fp8(prefix, w, scale)
	default:
		err = g.errShape(w)
	}
	if err == nil {
		err = g.inputs(prefix)
	}
	return err
}

func (g *grouper) ctInt8(prefix string, w, scale *array) error {
	if _, err := g.need(scale.name, "F16", "BF16", "F32"); err != nil {
		return err
	}
	grid, err := g.gridOf(prefix, w.shape, scale)
	if err != nil {
		return err
	}
	typ := dtype.Type{Kind: dtype.Int8, Group: grid.group, Scale: scaleKind(scale)}
	if err := g.needZeros(prefix, w); err != nil {
		return err
	}
	roles, arrays := []string{"int8", "scale"}, []*array{w, scale}
	if zp := g.by[prefix+zeroPoint]; zp != nil {
		if _, err := g.need(zp.name, "I8"); err != nil {
			return err
		}
		if err := shaped(zp, scale.shape...); err != nil {
			return err
		}
		typ.Flags |= dtype.Zero
		roles, arrays = append(roles, "zero8"), append(arrays, zp)
	}
	return g.add(prefix+".weight", typ, w.shape, roles, arrays, ctCodes{grid: grid}.load)
}
