package torch

import (
	"fmt"
	"math/bits"
	"strings"
)

// dtypes are torch's types by name, with the bytes of one value.
var dtypes = map[string]int64{
	"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
	"uint16": 2, "uint32": 4, "uint64": 8, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
	"float4_e2m1fn_x2": 1, "complex32": 4, "complex64": 8, "complex128": 16,
}

// storages are the classes of storages, by the type of what they hold; "" is
// bytes whose type the tensor says.
var storages = map[string]string{
	"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "LongStorage": "int64",
	"IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
	"ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128", "UntypedStorage": "", "_UntypedStorage": "",
}

// storageType is the type of a class of storages.
func storageType(g global) (dtype string, ok bool) {
	s := string(g)
	for _, module := range []string{"torch.storage.", "torch.cuda.", "torch."} {
		if name, found := strings.CutPrefix(s, module); found {
			dtype, ok = storages[name]
			return dtype, ok
		}
	}
	return "", false
}

// dtypeOf is the name of a type as an argument.
func dtypeOf(v any) (string, bool) {
	g, _ := v.(global)
	name, ok := strings.CutPrefix(string(g), "torch.")
	return name, ok && dtypes[name] != 0
}

// function is what calling a global makes, nil for one that is not called.
func function(name string) func(m *machine, args tuple) (any, error) {
	switch name {
	case "collections.OrderedDict":
		return orderedDict
	case "torch._utils._rebuild_tensor":
		return func(_ *machine, a tuple) (any, error) { return rebuild(a, 4, -1, -1) }
	case "torch._utils._rebuild_tensor_v2":
		return func(_ *machine, a tuple) (any, error) { return rebuild(a, 6, -1, 6) }
	case "torch._utils._rebuild_tensor_v3":
		return func(_ *machine, a tuple) (any, error) { return rebuild(a, 7, 6, 7) }
	case "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch.nn.parameter.Parameter":
		return parameter
	case "torch._tensor._rebuild_from_type_v2":
		return fromType
	case "torch.Size":
		return size
	case "torch.device", "collections.Counter", "builtins.set", "builtins.bytearray", "builtins.complex", "_codecs.encode": // the last is bytes in protocol 2
		return func(*machine, tuple) (any, error) { return inert{}, nil }
	}
	return nil
}

// others are known to be tensors of kinds that are not read.
var others = map[string]string{
	"torch._utils._rebuild_sparse_tensor":                       "a sparse tensor",
	"torch._utils._rebuild_sparse_csr_tensor":                   "a sparse tensor",
	"torch._utils._rebuild_qtensor":                             "a quantized tensor of torch",
	"torch._utils._rebuild_nested_tensor":                       "a nested tensor",
	"torch._utils._rebuild_meta_tensor_no_storage":              "a tensor without values (device meta)",
	"torch._utils._rebuild_wrapper_subclass":                    "a tensor of a class of its own",
	"torch._utils._rebuild_device_tensor_from_numpy":            "a tensor of another device, stored as a NumPy array",
	"torch._utils._rebuild_device_tensor_from_cpu_tensor":       "a tensor of another device",
	"torch.distributed.tensor.DTensor":                          "a part of a distributed tensor",
	"torch.distributed._shard.sharded_tensor.api.ShardedTensor": "a part of a distributed tensor",
}

const stateHint = "save its weights alone, where you trust it: model.save_pretrained(DIR) in Transformers, or torch.save(model.state_dict(), FILE) in PyTorch"

// known refuses every global but those of the lists above.
func known(name string) error {
	if function(name) != nil || name == "torch.Tensor" {
		return nil
	}
	if _, ok := storageType(global(name)); ok {
		return nil
	}
	if _, ok := dtypeOf(global(name)); ok {
		return nil
	}
	if what := others[name]; what != "" {
		return &Unsupported{"store plain dense tensors: .to_dense(), .dequantize() or .full_tensor() before saving (weights of torchao also as safetensors, as Transformers 5 saves them)", fmt.Sprintf("%s (%s) is not read", what, name)}
	}
	return &Unsupported{stateHint, fmt.Sprintf("the pickle asks for %.200q, which no tensor needs: it was not run", name)}
}

// build is what calling a global gives.
func (m *machine) build(name global, args tuple) (any, error) {
	f := function(string(name))
	if f == nil {
		return nil, fmt.Errorf("the pickle @%d calls %s, which is no function", m.pos, name)
	}
	v, err := f(m, args)
	if err != nil {
		return nil, fmt.Errorf("the pickle @%d, %s: %w", m.pos, name, err)
	}
	return v, nil
}

// orderedDict has no arguments, or the pairs as Python 2 stored them.
func orderedDict(m *machine, args tuple) (any, error) {
	d := &dict{}
	if len(args) == 0 {
		return d, nil
	}
	pairs, ok := args[0].(*list)
	if !ok || len(args) != 1 {
		return nil, fmt.Errorf("its argument is no list of pairs")
	}
	for _, p := range pairs.items {
		var pair []any
		switch p := p.(type) {
		case *list:
			pair = p.items
		case tuple:
			pair = p
		}
		if len(pair) != 2 {
			return nil, fmt.Errorf("its argument is no list of pairs")
		}
		if err := m.set(d, pair); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func size(_ *machine, args tuple) (any, error) {
	if len(args) == 1 {
		if t, ok := args[0].(tuple); ok {
			return t, nil
		}
		if l, ok := args[0].(*list); ok {
			return tuple(l.items), nil
		}
	}
	return nil, fmt.Errorf("its argument is no shape")
}

// parameter is the tensor that is its first argument.
func parameter(_ *machine, args tuple) (any, error) {
	if len(args) > 0 {
		if t, ok := args[0].(*Tensor); ok {
			return t, nil
		}
	}
	return nil, fmt.Errorf("its first argument is no tensor")
}

// fromType is a tensor with attributes: (function, class, arguments, attributes).
func fromType(m *machine, args tuple) (any, error) {
	if len(args) != 4 {
		return nil, fmt.Errorf("it has %d arguments, not 4", len(args))
	}
	f, ok1 := args[0].(global)
	class, ok2 := args[1].(global)
	list, ok3 := args[2].(tuple)
	if !ok1 || !ok2 || !ok3 || class != "torch.Tensor" && class != "torch.nn.parameter.Parameter" || f == "torch._tensor._rebuild_from_type_v2" {
		return nil, fmt.Errorf("its arguments are not those of a tensor")
	}
	return m.build(f, list)
}

// storage is a run of bytes in the file.
type storage struct {
	dtype string // "": the tensor says
	key   string
	off   int64
	bytes int64
}

// rebuild makes a tensor of (storage, offset, shape, strides, …): at least need
// arguments, the type and the notes at the places given, -1 where there are none.
func rebuild(args tuple, need, dtypeAt, notesAt int) (any, error) {
	if len(args) < need {
		return nil, fmt.Errorf("it has %d arguments, at least %d are needed", len(args), need)
	}
	s, ok := args[0].(*storage)
	if !ok {
		return nil, fmt.Errorf("its first argument is no storage")
	}
	t := &Tensor{DType: s.dtype, storage: s}
	if dtypeAt >= 0 {
		if t.DType, ok = dtypeOf(args[dtypeAt]); !ok {
			return nil, fmt.Errorf("its argument %d is no type", dtypeAt)
		}
	}
	if t.Width = dtypes[t.DType]; t.Width == 0 {
		return nil, fmt.Errorf("storage %.100q has no type", s.key)
	}
	if notesAt >= 0 && len(args) > notesAt && args[notesAt] != nil {
		notes, ok := args[notesAt].(*dict)
		if !ok {
			return nil, fmt.Errorf("its argument %d is no dictionary", notesAt)
		}
		for i, k := range notes.keys {
			if on, isBool := notes.values[i].(bool); !isBool || on { // conj and neg: values are stored with the other sign
				return nil, &Unsupported{"save it after .resolve_conj().resolve_neg()", fmt.Sprintf("a tensor of storage %.100q is a view with %s set, which is not read", s.key, plain(k))}
			}
		}
	}
	offset, ok1 := args[1].(int64)
	shape, ok2 := sizes(args[2])
	stride, ok3 := sizes(args[3])
	if !ok1 || !ok2 || !ok3 || offset < 0 || len(shape) != len(stride) || len(shape) > 64 {
		return nil, fmt.Errorf("offset, shape and strides are not those of a tensor")
	}
	t.Shape, t.Stride = shape, stride
	last, err := lastOf(shape, stride)
	if err != nil {
		return nil, err
	}
	if n := s.bytes / t.Width; last >= 0 && (offset > n || last >= n-offset) {
		return nil, fmt.Errorf("offset %d, shape %v and strides %v lie outside the %d values of storage %.100q", offset, shape, stride, n, s.key)
	} else if last < 0 && offset > n {
		return nil, fmt.Errorf("offset %d lies outside the %d values of storage %.100q", offset, n, s.key)
	}
	t.start = offset * t.Width
	return t, nil
}

// sizes reads a tuple of sizes.
func sizes(v any) ([]int64, bool) {
	t, ok := v.(tuple)
	out := make([]int64, len(t))
	for i, d := range t {
		n, isInt := d.(int64)
		ok = ok && isInt && n >= 0
		out[i] = n
	}
	return out, ok
}

// lastOf is the place of the last value, in values from the first one; -1 where
// there is none. No sum or product may pass 2^62, zeros left out.
func lastOf(shape, stride []int64) (int64, error) {
	const limit = 1 << 62
	last, n, empty := uint64(0), uint64(1), false
	for i, d := range shape {
		if d == 0 {
			empty = true
			continue
		}
		hi, lo := bits.Mul64(uint64(d-1), uint64(stride[i]))
		hi2, all := bits.Mul64(n, uint64(d))
		if hi != 0 || hi2 != 0 || lo > limit || all > limit || last+lo > limit {
			return 0, fmt.Errorf("shape %v with strides %v overflows", shape, stride)
		}
		last, n = last+lo, all
	}
	if empty {
		return -1, nil
	}
	return int64(last), nil
}
