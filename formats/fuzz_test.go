package formats

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/kernels/dtype"
)

// inMemory makes a source of bytes.
func inMemory(b []byte) *source {
	return &source{name: "x", path: "x", r: bytes.NewReader(b), size: int64(len(b))}
}

// FuzzOpenSafetensors: no panic, and what is accepted can be read and written
// again with the same meaning.
func FuzzOpenSafetensors(f *testing.F) {
	f.Add(st(`{}`, 0))
	f.Add(st(`{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[],"data_offsets":[8,9]}}  `, 9))
	f.Add(st(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}}`, 4))
	f.Add(st(`{"\ud83d\ude00":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}`, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		arrays, meta, err := safetensors(inMemory(b))
		if err != nil {
			return
		}
		var slots []slot
		total := int64(0)
		for i := range arrays {
			a := &arrays[i]
			data, err := a.read()
			if err != nil || int64(len(data)) != a.size {
				t.Fatalf("%s: %d of %d bytes: %v", a.name, len(data), a.size, err)
			}
			total += a.size
			slots = append(slots, slot{name: a.name, dtype: a.dtype, shape: a.shape, size: a.size})
		}
		m := map[string]string{}
		for _, e := range meta {
			m[e.Key] = e.Value.(string)
		}
		header, size, err := stLayout(slots, m)
		if err != nil || size != int64(len(header))+total {
			t.Fatalf("layout of %d bytes: %v", size, err)
		}
		again, _, err := safetensors(inMemory(append(header, make([]byte, total)...)))
		if err != nil || len(again) != len(arrays) {
			t.Fatalf("written again: %v", err)
		}
	})
}

// FuzzOpenGGUF: no panic, and what is accepted can be read and written again
// with the same metadata and shapes.
func FuzzOpenGGUF(f *testing.F) {
	f.Add(newGGUF(0, 0).b)
	f.Add(newGGUF(1, 1).kv32("general.alignment", 64).tensor("t", 0, 0, 4).pad(64).zeros(16).b)
	f.Add(newGGUF(2, 2).kv("a").u32(9).u32(8).u64(2).str("x").str("y").kv("b").u32(12).u64(1).tensor("q", 12, 0, 256, 2).tensor("i", 16, 288, 256).pad(32).zeros(360).b)
	f.Add(new(gb).raw("GGUF").u32(2).u64(1).u64(1).kv("k").u32(9).u32(7).u64(3).raw("\x00\x01\x02").tensor("t", 30, 0).pad(32).zeros(2).b)
	f.Add(newGGUF(3, 0).tensor("a.weight", 40, 0, 64, 2).tensor("a.scale", 0, 96, 1).tensor("a.input_scale", 0, 128, 1).pad(32).zeros(132).b)
	f.Add(newGGUF(1, 0).tensor("empty", 0, 0, 0).pad(32).b)
	f.Add(newGGUF(2, 0).tensor("a.weight", 40, 0, 64, 1, 2).tensor("a.scale", 0, 96, 2).pad(32).zeros(104).b)
	f.Fuzz(func(t *testing.T, b []byte) {
		tensors, kv, _, err := ggufHead(inMemory(b))
		if err != nil {
			return
		}
		if tensors, err = withScales("x", tensors); err != nil {
			return
		}
		var plan []TensorPlan
		for i := range tensors {
			ten := &tensors[i]
			if ten.Unsupported != "" {
				continue
			}
			data, err := (&artifact{}).Read(ten)
			if err != nil || len(data) != dtype.Size(ten.Type, ten.Rows(), ten.Cols()) {
				t.Fatalf("%s: %d bytes: %v", ten.Name, len(data), err)
			}
			if !ten.Type.ScaledFloat() { // which no GGUF is written with
				plan = append(plan, TensorPlan{Name: ten.Name, Shape: ten.Shape, Type: ten.Type})
			}
		}
		head, err := appendKVs("x", nil, kv)
		if err != nil {
			t.Fatal(err)
		}
		again, kv2, _, err := ggufHead(inMemory(append(newGGUF(0, uint64(len(kv))).b, head...)))
		if err != nil || len(again) != 0 || !sameKV(kv, kv2) {
			t.Fatalf("metadata written again: %v", err)
		}
		w := &writer{path: "x", items: map[string]*item{}}
		for _, p := range plan {
			if _, err := w.ggufItem(p); err != nil {
				t.Fatalf("%v cannot be planned: %v", p, err)
			}
		}
	})
}

// sameKV compares metadata by its bytes, so that NaN equals itself.
func sameKV(a, b []KV) bool {
	x, err1 := appendKVs("", nil, a)
	y, err2 := appendKVs("", nil, b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// FuzzAdapterConfig: the strict JSON parser accepts nothing that encoding/json
// refuses, and understands what it accepts in the same way.
func FuzzAdapterConfig(f *testing.F) {
	f.Add([]byte(`{"peft_type":"LORA","r":8,"lora_alpha":16.5,"target_modules":["q_proj",".*\\.v"],"bias":"none","x":null,"use":true}`))
	f.Add([]byte(`{"a":{"b":[1,-2e-3,"\u00e4\ud83d\ude00"]},"a":1}`))
	f.Add([]byte("\ufeff{}"))
	f.Add([]byte(`{"rank_pattern":{"^model\\.layers\\.[0-3]":4}} `))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseObject("adapter_config.json", b)
		if check := checkJSON("adapter_config.json", b); (check == nil) != (err == nil) && !(check == nil && strings.Contains(err.Error(), "expected a JSON object")) {
			t.Fatalf("CheckJSON: %v, parse: %v", check, err)
		}
		if err != nil {
			return
		}
		var want, got any
		d := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(b, []byte("\ufeff"))))
		d.UseNumber()
		if err := d.Decode(&want); err != nil {
			t.Fatalf("encoding/json refuses it: %v", err)
		}
		again, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		d = json.NewDecoder(bytes.NewReader(again))
		d.UseNumber()
		if err := d.Decode(&got); err != nil || !reflect.DeepEqual(want, got) {
			t.Fatalf("%s became %s: %v", b, again, err)
		}
	})
}

// FuzzOpenFolder gives hostile configurations to a folder with packed weights.
func FuzzOpenFolder(f *testing.F) {
	header := `{"q.qweight":{"dtype":"I32","shape":[4,32],"data_offsets":[0,512]},"q.qzeros":{"dtype":"I32","shape":[1,4],"data_offsets":[512,528]},"q.scales":{"dtype":"F16","shape":[1,32],"data_offsets":[528,592]}}`
	f.Add([]byte(`{"quantization_config":{"quant_method":"gptq","bits":4,"group_size":32,"sym":true}}`), []byte(header))
	f.Add([]byte(`{"quantization_config":{"quant_method":"bitsandbytes"}}`), []byte(`{"w":{"dtype":"U8","shape":[32,1],"data_offsets":[0,32]},"w.absmax":{"dtype":"F32","shape":[1],"data_offsets":[32,36]},"w.quant_map":{"dtype":"F32","shape":[16],"data_offsets":[36,100]},"w.quant_state.bitsandbytes__nf4":{"dtype":"U8","shape":[492],"data_offsets":[100,592]}}`))
	f.Add([]byte(`{"quantization_config":{"quant_method":"awq","bits":4,"group_size":32,"zero_point":true,"version":"gemm"}}`), []byte(header))
	f.Add([]byte(`{"quantization_config":{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"group_0":{"targets":["Linear"],"weights":{"num_bits":4,"type":"int","symmetric":true,"strategy":"group","group_size":32}}},"ignore":["lm_head"]}}`),
		[]byte(`{"q.weight_packed":{"dtype":"I32","shape":[4,4],"data_offsets":[0,64]},"q.weight_scale":{"dtype":"F16","shape":[4,1],"data_offsets":[64,72]},"q.weight_shape":{"dtype":"I64","shape":[2],"data_offsets":[72,88]}}`))
	f.Add([]byte(`{"quantization_config":{"quant_method":"mxfp4"}}`),
		[]byte(`{"e.down_proj_blocks":{"dtype":"U8","shape":[2,8,2,16],"data_offsets":[0,512]},"e.down_proj_scales":{"dtype":"U8","shape":[2,8,2],"data_offsets":[512,544]},"x":{"dtype":"U8","shape":[48],"data_offsets":[544,592]}}`))
	f.Add([]byte(`{"vocab_size":31,"quantization_config":{"quant_method":"exl2"}}`),
		[]byte(`{"lm_head.q_weight":{"dtype":"I32","shape":[3,32],"data_offsets":[0,384]},"lm_head.q_scale":{"dtype":"I32","shape":[1,4],"data_offsets":[384,400]},"lm_head.q_scale_max":{"dtype":"F16","shape":[1],"data_offsets":[400,402]},"lm_head.q_groups":{"dtype":"I16","shape":[2],"data_offsets":[402,406]},"lm_head.q_invperm":{"dtype":"I32","shape":[32],"data_offsets":[406,534]},"x":{"dtype":"U8","shape":[58],"data_offsets":[534,592]}}`))
	f.Add([]byte(`{"quantization_config":{"quant_method":"modelopt"}}`),
		[]byte(`{"q.weight":{"dtype":"U8","shape":[32,16],"data_offsets":[0,512]},"q.weight_scale":{"dtype":"F8_E4M3","shape":[32,2],"data_offsets":[512,576]},"q.weight_scale_2":{"dtype":"F32","shape":[],"data_offsets":[576,580]},"x":{"dtype":"U8","shape":[12],"data_offsets":[580,592]}}`))
	for _, seed := range [][2]string{ // class and attributes of torchao; arrays
		{`Int8Tensor\",\"_data\":{\"block_size\":[1,16]},\"_tensor_data_names\":[\"qdata\",\"scale\"]`, `"q._weight_qdata":{"dtype":"I8","shape":[16,32],"data_offsets":[0,512]},"q._weight_scale":{"dtype":"BF16","shape":[16,2],"data_offsets":[512,576]}`},
		{`Int4Tensor\",\"_data\":{\"block_size\":[1,32],\"shape\":[16,32]},\"_tensor_data_names\":[\"qdata\",\"scale\",\"zero_point\"]`, `"q._weight_qdata":{"dtype":"I8","shape":[16,16],"data_offsets":[0,256]},"q._weight_scale":{"dtype":"F32","shape":[1,16],"data_offsets":[256,320]},"q._weight_zero_point":{"dtype":"F32","shape":[1,16],"data_offsets":[320,384]},"x":{"dtype":"U8","shape":[192],"data_offsets":[384,576]}`},
		{`Int4TilePackedTo4dTensor\",\"_data\":{\"block_size\":[1,32],\"shape\":[8,32]},\"_tensor_data_names\":[\"qdata\",\"scale_and_zero\"]`, `"q._weight_qdata":{"dtype":"I32","shape":[1,1,32,1],"data_offsets":[0,128]},"q._weight_scale_and_zero":{"dtype":"BF16","shape":[1,8,2],"data_offsets":[128,160]},"x":{"dtype":"U8","shape":[416],"data_offsets":[160,576]}`},
		{`NVFP4Tensor\",\"_data\":{\"block_size\":16,\"is_swizzled_scales\":true},\"_tensor_data_names\":[\"qdata\",\"scale\"]`, `"q._weight_qdata":{"dtype":"U8","shape":[4,8],"data_offsets":[0,32]},"q._weight_scale":{"dtype":"F8_E4M3","shape":[32,16],"data_offsets":[32,544]},"x":{"dtype":"U8","shape":[32],"data_offsets":[544,576]}`},
	} {
		f.Add([]byte(`{"quantization_config":{"quant_method":"torchao"}}`), []byte(`{"__metadata__":{"q.weight":"{\"_type\":\"`+seed[0]+`}"},`+seed[1]+`,"pad":{"dtype":"U8","shape":[16],"data_offsets":[576,592]}}`))
	}
	f.Add([]byte(`{"quantization_config":{"quant_method":"hqq"}}`),
		[]byte(`{"q.W_q":{"dtype":"U8","shape":[8,32],"data_offsets":[0,256]},"q.scale":{"dtype":"F16","shape":[16,1],"data_offsets":[256,288]},"q.zero":{"dtype":"F16","shape":[16,1],"data_offsets":[288,320]},"q.shape":{"dtype":"I64","shape":[2],"data_offsets":[320,336]},"q.axis":{"dtype":"I32","shape":[],"data_offsets":[336,340]},"q.packing":{"dtype":"U8","shape":[7],"data_offsets":[340,347]},"x":{"dtype":"U8","shape":[245],"data_offsets":[347,592]}}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, config, header []byte) {
		b := st(string(header), 592)
		for name, data := range map[string][]byte{"config.json": config, "model.safetensors": b} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		r, err := Open(dir)
		if err != nil {
			return
		}
		defer r.Close()
		for i := range r.Tensors() {
			ten := &r.Tensors()[i]
			data, err := r.Read(ten)
			if err == nil && len(data) != dtype.Size(ten.Type, ten.Rows(), ten.Cols()) {
				t.Fatalf("%s: %d bytes", ten.Name, len(data))
			}
		}
	})
}

// FuzzIndex: an index that is accepted names plain files only.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":8},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":"../x"}}`))
	f.Add([]byte(`{"metadata":null,"weight_map":{},"weight_map":{"a":"b"}} `))
	path := filepath.Join(f.TempDir(), "model.safetensors.index.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		of, _, err := readIndex(path)
		for tensor, file := range of {
			if err == nil && filepath.Base(file) != file {
				t.Fatalf("%q in %q", tensor, file)
			}
		}
	})
}
