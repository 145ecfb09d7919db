package formats

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"regexp"
	"slices"
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
		if strings.HasSuffix(arrays[i].name, ".pre_quant_scale") {
			return nil, unsupported(arrays[i].src.path, "export it from ModelOpt in a format without (NVFP4, FP8)",
				"tensor %s: inputs that are scaled before their product (AWQ or SmoothQuant of ModelOpt) are not read", quote(arrays[i].name))
		}
		if strings.HasSuffix(arrays[i].name, ".svdquant_lora_a") {
			return nil, unsupported(arrays[i].src.path, "export it from ModelOpt in a format without (NVFP4, FP8)",
				"tensor %s: weights that a product of two others adds to (SVDQuant) are not read", quote(arrays[i].name))
		}
	}
	if err := g.readConfig(); err != nil {
		return nil, err
	}
	if err := g.checkMethod(); err != nil {
		return nil, err
	}
	if g.method() == "torchao" {
		if err := g.torchao(arrays); err != nil {
			return nil, err
		}
	} else {
		for i := range arrays {
			if err := g.anchor(&arrays[i]); err != nil {
				return nil, err
			}
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
		} else if m := g.method(); m != "" && strings.HasPrefix(arrays[i].dtype, "F8_E") && arrays[i].dtype != "F8_E8M0" {
			return nil, corrupt(arrays[i].src.path, "tensor %s is %s without a scale, but quantization_config.quant_method is %s", quote(t.Name), t.Parts[0].DType, quote(m))
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
			if m, _ := q.get("quant_method").(string); strings.HasPrefix(m, "modelopt") {
				q = modeloptConfig(q)
			}
			g.config = q
			return nil
		case nil:
		default:
			return corrupt(g.where, "quantization_config is %s, expected an object", kindOf(q))
		}
	}
	for _, f := range [][2]string{{"quantize_config.json", "gptq"}, {"quant_config.json", "awq"}, {"hf_quant_config.json", "modelopt"}} {
		b, err := g.a.File(f[0])
		if err != nil {
			return err
		}
		if b == nil {
			continue
		}
		where := filepath.Join(g.a.dir, f[0])
		o, err := parseObject(where, b)
		if err != nil {
			return err
		}
		if f[1] == "modelopt" {
			o = modeloptConfig(o)
		}
		if o.get("quant_method") == nil {
			o = o.set("quant_method", f[1])
		}
		g.config, g.where = o, where
		return nil
	}
	return nil
}

// methodsRead are the methods whose folders are read, by quant_method.
var methodsRead = []string{
	"auto-round", "awq", "bitsandbytes", "compressed-tensors", "exl2", "fbgemm_fp8", "fp8", "gptq", "hqq", "intel/auto-round", "modelopt", "modelopt_fp4", "modelopt_mixed", "mxfp4", "mxfp8", "quark", "torchao",
}

// checkMethod refuses by its name a folder of a method that is not read, and what
// changes weights or inputs in a way that is not followed here.
func (g *grouper) checkMethod() error {
	for _, name := range []string{"quant_method", "packing_format", "activation_scheme", "scale_fmt"} {
		if _, err := g.word(name); err != nil {
			return err
		}
	}
	for _, name := range []string{"config_groups", "dynamic", "extra_config", "sparsity_config", "quantized_layers", "global_quant_config", "layer_quant_config", "layer_type_quant_config"} {
		v := g.config.get(name)
		if _, ok := v.(object); !ok && v != nil {
			return corrupt(g.where, "quantization_config.%s is %s, expected an object", name, kindOf(v))
		}
	}
	if err := g.checkGroups(); err != nil {
		return err
	}
	m := g.method()
	if g.config != nil && m != "" && !slices.Contains(methodsRead, m) {
		return unsupported(g.where, "save it in floats where it was made (dequantize() in Transformers); tune inspect lists the arrays of one of its files",
			"quantization_config.quant_method is %s, whose weights are not read", quote(m))
	}
	for _, key := range []string{"transform_config", "rotation_config"} {
		v := g.config.get(key)
		if t, ok := v.(object); ok && key == "transform_config" {
			groups, _ := t.get("config_groups").(object)
			v = t.get("config_groups")
			if len(groups) == 0 {
				continue
			}
		}
		if o, ok := v.(object); v == nil || v == "" || ok && len(o) == 0 {
			continue
		}
		return unsupported(g.where, "quantize the model without transforms", "quantization_config.%s: weights that a transform has turned are not read", key)
	}
	if name := g.quarkTurned(); name != "" {
		return unsupported(g.where, "quantize the model without rotations that are made while it runs (r4, online_r1_rotation)",
			"quantization_config.algo_config: %s turns inputs of matrices while the model runs, which is not done here", quote(name))
	}
	sparsity, _ := g.config.get("sparsity_config").(object)
	f, _ := sparsity.get("format").(string)
	if own, _ := g.config.get("format").(string); strings.Contains(own, "24") || strings.Contains(own, "sparse") {
		f = own // "marlin-24", whatever sparsity_config says
	}
	if f != "" && f != "dense" {
		return unsupported(g.where, "save the model without compressing its zeros (save_compressed=False in llm-compressor)",
			"the format in quantization_config is %s; weights stored without their zeros are not read", quote(f))
	}
	return nil
}

// method is the packing of integer codes: "gptq", "awq" or what quant_method says.
func (g *grouper) method() string {
	if !g.autoRound() {
		m, _ := g.config.get("quant_method").(string)
		return m
	}
	switch p, _ := g.config.get("packing_format").(string); {
	case strings.Contains(p, "awq"):
		return "awq"
	case strings.Contains(p, "llm_compressor"):
		return "compressed-tensors"
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
		return g.whole(name, v)
	}
	return 0, false, nil
}

// whole reads a value of the configuration that must be a whole number.
func (g *grouper) whole(name string, v any) (int64, bool, error) {
	n, ok := v.(json.Number)
	i, err := strconv.ParseInt(string(n), 10, 32)
	if !ok || err != nil {
		return 0, false, corrupt(g.where, "quantization_config.%s is %v, expected a whole number", name, v)
	}
	return i, true, nil
}

// flag reads a boolean of the configuration.
func (g *grouper) flag(name string, absent bool) (bool, error) {
	return g.boolean(name, g.config.get(name), absent)
}

// boolean reads a value of the configuration that must be one, where it is there.
func (g *grouper) boolean(name string, v any, absent bool) (bool, error) {
	if b, ok := v.(bool); ok || v == nil {
		return ok && b || !ok && absent, nil
	}
	return false, corrupt(g.where, "quantization_config.%s is %s, expected true or false", name, kindOf(v))
}

// word reads a text of the configuration, "" where it is not there.
func (g *grouper) word(name string) (string, error) {
	return g.text(name, g.config.get(name))
}

// text reads a value of the configuration that must be one, "" where it is not there.
func (g *grouper) text(name string, v any) (string, error) {
	if s, ok := v.(string); ok || v == nil {
		return s, nil
	}
	return "", corrupt(g.where, "quantization_config.%s is %s, expected a text", name, kindOf(v))
}

// exception is what GPTQModel's "dynamic" or AutoRound's "extra_config" says of a module
// under a key, nil when nothing: the first entry whose expression matches counts.
func (g *grouper) exception(module, key string) (any, error) {
	if extra, ok := g.config.get("extra_config").(object); ok {
		return g.extraOf(extra, module, key)
	}
	dynamic, _ := g.config.get("dynamic").(object)
	if !slices.ContainsFunc(dynamic, func(m member) bool { own, _ := m.Value.(object); return own.get(key) != nil }) {
		return nil, nil
	}
	for _, m := range dynamic {
		if strings.HasPrefix(m.Key, "-:") { // of modules that stay as they are, which this one did not
			continue
		}
		re, err := regexp.Compile("^(?:" + strings.TrimPrefix(m.Key, "+:") + ")")
		if err != nil {
			return nil, unsupported(g.where, "", "quantization_config.dynamic: %s is no regular expression that can be read: %v", quote(m.Key), err)
		}
		if re.MatchString(module) {
			own, _ := m.Value.(object)
			return own.get(key), nil
		}
	}
	return nil, nil
}

// extraOf is what AutoRound's extra_config says of a module: under its name, or the first
// expression that is found in it. A key that names a module is no expression.
func (g *grouper) extraOf(extra object, module, key string) (any, error) {
	if own, ok := extra.get(module).(object); ok {
		return own.get(key), nil
	}
	for _, m := range extra {
		own, _ := m.Value.(object)
		if len(own) == 0 || g.by[m.Key+intPacked] != nil || g.by[m.Key+ctPacked] != nil || g.by[m.Key+".weight"] != nil {
			continue
		}
		re, err := regexp.Compile(m.Key)
		if err != nil {
			return nil, unsupported(g.where, "", "quantization_config.extra_config: %s is no regular expression that can be read: %v", quote(m.Key), err)
		}
		if re.MatchString(module) {
			return own.get(key), nil
		}
	}
	return nil, nil
}

// varies reports whether the configuration has exceptions for some modules.
func (g *grouper) varies() bool {
	dynamic, _ := g.config.get("dynamic").(object)
	extra, _ := g.config.get("extra_config").(object)
	return len(dynamic) > 0 || len(extra) > 0
}

// numberOf is number for one module.
func (g *grouper) numberOf(module string, names ...string) (int64, bool, error) {
	v, err := g.exception(module, names[0])
	if err != nil || v == nil {
		n, ok, e := g.number(names...)
		return n, ok, errors.Join(err, e)
	}
	return g.whole(names[0]+" of "+module, v)
}

// flagOf is flag for one module.
func (g *grouper) flagOf(module, name string, absent bool) (bool, error) {
	v, err := g.exception(module, name)
	if err != nil {
		return false, err
	}
	if v != nil {
		return g.boolean(name+" of "+module, v, absent)
	}
	return g.flag(name, absent)
}

const (
	bnbState  = ".quant_state.bitsandbytes__"
	bnbInt8   = ".SCB"
	fp8Scale  = ".weight_scale_inv"
	fp8Short  = ".scale"
	ctScale   = ".weight_scale"
	ctPacked  = ".weight_packed"
	zeroPoint = ".weight_zero_point"
	intPacked = ".qweight"
	mxBlocks  = "_blocks"
	mxScales  = "_scales"
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
		{intPacked, g.packed}, {ctPacked, g.ctPacked}, {ctScale, g.ctScale}, {fp8Scale, g.fp8Block}, {fp8Short, g.fp8Short}, {bnbInt8, g.bnbInt8}, {mxBlocks, g.mxfp4}, {exl2Weight, g.exl2}, {hqqCodes, g.hqq},
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
			b, err := t.Parts[i].read()
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

func (g *grouper) errShape(a *array) error {
	of := ""
	if m := g.method(); m != "" {
		of = " of quant_method " + quote(m)
	}
	return corrupt(a.src.path, "tensor %s has shape %v of %s, which fits no known layout%s", quote(a.name), a.shape, a.dtype, of)
}

// inputs notes what a weight's inputs are rounded to, and attaches the arrays
// that scale its input or output.
func (g *grouper) inputs(prefix string) error {
	t := &g.made[len(g.made)-1]
	act, grid, left, err := g.activations(prefix, t.Shape[len(t.Shape)-1])
	t.Act, t.grid, t.Unrounded = act, grid, left
	g.extra(prefix+".input_scale", prefix+".activation_scale", prefix+".input_zero_point", prefix+".input_scale_ub", prefix+inputGlobal, prefix+".output_scale", prefix+".output_zero_point")
	return err
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
