package formats

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestLoosePacking: 3-bit codes of 13×37, of which both packings of compressed-tensors
// take as many words: the version that wrote a folder tells them apart. Words are those of
// the releases' own pack_to_int32(q, 3) and pack_to_int32(z, 3, packed_dim=0), where
// q[r][c] = (7r+5c)%8-4 and z[r] = 3r%8-4.
func TestLoosePacking(t *testing.T) {
	words := map[string][2]string{
		"0.12.2": {"qM54KDrjoTqMh+oMHqoTAGc8VCfxUJ0xQ3XGA9UZDwAeqjMeqM54KDrjoTqMhwoA1RkPFWc8VCfxUJ0xQ3UGAIyH6gweqjMeqM54KDrjAQBDdcYD1RkPFWc8VCfxUB0AOuOhOoyH6gweqjMeqM4YAPFQnTFDdcYD1RkPFWc8FACozngoOuOhOoyH6gweqhMAZzxUJ/FQnTFDdcYD1RkPAB6qMx6ozngoOuOhOoyHCgDVGQ8VZzxUJ/FQnTFDdQYAjIfqDB6qMx6ozngoOuMBAA==", "mMOrGA4BAAA="},
		"0.20.1": {"qM54qM54qM54qM54qE4AAGc8VGc8VGc8VGc8VGc8AAAeqjMeqjMeqjMeqjMeKgAA1RkP1RkP1RkP1RkP1RkAAIyH6oyH6oyH6oyH6owHAABDdcZDdcZDdcZDdcZDdQAAOuOhOuOhOuOhOuOhOmMAAPFQnfFQnfFQnfFQnfFQAACoznioznioznioznioTgAAZzxUZzxUZzxUZzxUZzwAAB6qMx6qMx6qMx6qMx4qAADVGQ/VGQ/VGQ/VGQ/VGQAAjIfqjIfqjIfqjIfqjAcAAA==", "mMOrmEMAAAA="},
	}
	for version, release := range map[string]string{
		"0.9.4": "0.12.2", "0.12.2": "0.12.2", "0.14.0.1": "0.12.2", "0.15.1.a20260601": "0.12.2", "0.17.1": "0.12.2",
		"0.18.0": "0.20.1", "0.20.1": "0.20.1", "0.19.1.dev3+gabc": "0.20.1", "1.0.0": "0.20.1",
		"": "", "0.17.2.a20260612": "", "0.18.0.dev3": "", "new": "",
	} {
		for _, asymmetric := range []bool{false, true} {
			stored := words[release]
			if release == "" {
				stored = words["0.20.1"]
			}
			own := []NamedTensor{
				{Name: "q.weight_packed", DType: "I32", Shape: []int64{13, 4}, Data: must(base64.StdEncoding.DecodeString(stored[0]))},
				{Name: "q.weight_scale", DType: "F32", Shape: []int64{13, 1}, Data: ones32(13)},
				{Name: "q.weight_shape", DType: "I64", Shape: []int64{2}, Data: binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, 13), 37)},
			}
			if asymmetric {
				own = append(own, NamedTensor{Name: "q.weight_zero_point", DType: "I32", Shape: []int64{2, 1}, Data: must(base64.StdEncoding.DecodeString(stored[1]))})
			}
			config := fmt.Sprintf(`{"quant_method":"compressed-tensors","version":%q,"config_groups":{"a":{"targets":["Linear"],"weights":{"num_bits":3,"strategy":"channel","symmetric":%v}}}}`, version, !asymmetric)
			r, err := Open(foreignFolder(t, config, own, nil))
			if release == "" {
				if err == nil || !strings.Contains(err.Error(), "before 0.18.0") {
					t.Errorf("%q: %v, want a refusal", version, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%q: %v", version, err)
				continue
			}
			want := make([]float32, 13*37)
			for i := range want {
				row, col := i/37, i%37
				want[i] = float32((7*row+5*col)%8 - 4)
				if asymmetric {
					want[i] -= float32(3*row%8 - 4)
				}
			}
			got := make([]float32, len(want))
			if block.GetF32(got, values(t, r, find(t, r, "q.weight"))); !slices.Equal(got, want) {
				t.Errorf("%q: begins with %v, want %v", version, got[:8], want[:8])
			}
			r.Close()
		}
	}
}

// ones32 are n ones in F32.
func ones32(n int) (b []byte) {
	for range n {
		b = append(b, 0, 0, 128, 63)
	}
	return b
}

// TestScaleGrids: scales that do not lie as the configuration says are refused, whatever
// else they would fit.
func TestScaleGrids(t *testing.T) {
	const ct = `{"quant_method":"compressed-tensors","config_groups":{"a":{"targets":["Linear"],"weights":%s}}}`
	for _, c := range []struct {
		config      string
		rows, cols  int64
		scale, want []int64 // want: rows and columns that share a scale, nil for a refusal
	}{
		{fmt.Sprintf(ct, `{"strategy":"group","group_size":32}`), 4, 64, []int64{4, 1}, nil},
		{fmt.Sprintf(ct, `{"strategy":"group","group_size":32}`), 1, 64, []int64{1, 1}, nil},
		{fmt.Sprintf(ct, `{"group_size":32}`), 4, 64, []int64{4, 1}, nil},
		{fmt.Sprintf(ct, `{"strategy":"group","group_size":64}`), 4, 64, []int64{4, 1}, []int64{1, -1}},
		{fmt.Sprintf(ct, `{"strategy":"group","group_size":32}`), 4, 64, []int64{4, 2}, []int64{1, 32}},
		{fmt.Sprintf(ct, `{"strategy":"channel"}`), 4, 64, []int64{1, 1}, nil},
		{fmt.Sprintf(ct, `{"strategy":"channel","group_size":-1}`), 4, 64, []int64{4, 1}, []int64{1, -1}},
		{fmt.Sprintf(ct, `{"strategy":"tensor"}`), 4, 64, []int64{1}, []int64{4, -1}},
		{fmt.Sprintf(ct, `{"strategy":"block","block_structure":"2x32"}`), 4, 64, []int64{2, 2}, []int64{2, 32}},
		{fmt.Sprintf(ct, `{"strategy":"block","block_structure":[2]}`), 4, 64, []int64{2, 2}, nil},
		{fmt.Sprintf(ct, `{"strategy":"block","block_structure":[2,-32]}`), 4, 64, []int64{2, 2}, nil},
		{`{"quant_method":"fp8","weight_block_size":[128,128]}`, 4, 256, []int64{1, 1}, nil},
		{`{"quant_method":"fp8","weight_block_size":[128,128]}`, 4, 256, nil, nil},
		{`{"quant_method":"fp8","weight_block_size":[128,128]}`, 1, 256, []int64{1, 1}, nil},
		{`{"quant_method":"fp8","weight_block_size":[128,128]}`, 4, 256, []int64{1, 2}, []int64{128, 128}},
		{`{"quant_method":"fp8","weight_block_size":[128,128]}`, 4, 64, []int64{1, 1}, []int64{128, -1}},
		{`{"quant_method":"fp8"}`, 4, 256, []int64{1, 1}, []int64{4, -1}},
		{`{"quant_method":"fp8"}`, 4, 256, []int64{0, 2}, nil},
		{`{"quant_method":"fp8","weight_block_size":[9223372036854775807,128]}`, 4, 256, []int64{0, 2}, nil},
		{`{"quant_method":"fp8","weight_block_size":["a",128]}`, 4, 256, []int64{1, 2}, nil},
		{`{"quant_method":"fp8","weight_block_size":128}`, 4, 256, []int64{1, 2}, nil},
		{`{"quant_method":"fp8","weight_block_size":[1,128,128]}`, 4, 256, []int64{4, 2}, nil},
	} {
		g := &grouper{config: must(parseObject("config", []byte(c.config)))}
		got, err := g.gridOf("q", []int64{c.rows, c.cols}, &array{name: "s", dtype: "F32", shape: c.scale, src: &source{}})
		if c.want == nil && err == nil || c.want != nil && (err != nil || !slices.Equal([]int64{int64(got.run), int64(got.group)}, c.want)) {
			t.Errorf("%s: scales %v of %d×%d are %v, %v, want %v", c.config, c.scale, c.rows, c.cols, got, err, c.want)
		}
	}
}

// TestScalesOfMXFP6 are powers of two.
func TestScalesOfMXFP6(t *testing.T) {
	config := `{"quant_method":"compressed-tensors","config_groups":{"a":{"targets":["Linear"],"weights":{"num_bits":6,"type":"float","strategy":"group","group_size":32}}}}`
	for typ, ok := range map[string]bool{"U8": true, "F8_E8M0": true, "F8_E4M3": false} {
		_, err := Open(foreignFolder(t, config, []NamedTensor{
			{Name: "q.weight_packed", DType: "U8", Shape: []int64{2, 24}, Data: make([]byte, 48)},
			{Name: "q.weight_scale", DType: typ, Shape: []int64{2, 1}, Data: []byte{127, 127}},
		}, nil))
		if (err == nil) != ok {
			t.Errorf("scales of %s: %v", typ, err)
		}
	}
}

// TestConfigGroups: of several targets that match, the one counts that compressed-tensors
// 0.20.1 takes (match_targets and _scheme_from_targets for a Linear "model.q").
func TestConfigGroups(t *testing.T) {
	for _, c := range []struct{ groups, want string }{
		{`"a":{"targets":["re:model.*"]},"b":{"targets":["re:.*q"]}`, "b"},
		{`"a":{"targets":["re:.*q"]},"b":{"targets":["re:model.*"]}`, "a"},
		{`"a":{"targets":["re:.*q"]},"b":{"targets":["re:.*q"]}`, "b"},
		{`"a":{"targets":["Linear"]},"b":{"targets":["Linear"]}`, "b"},
		{`"a":{"targets":["model.q"]},"b":{"targets":["re:.*q","Linear"]}`, "a"},
		{`"a":{"targets":["Linear"]},"b":{"targets":["re:model"]}`, "b"},
		{`"a":{"targets":["Linear"]},"b":{"targets":["re:q"]}`, "a"},
	} {
		text := strings.NewReplacer(`"a":{`, `"a":{"name":"a",`, `"b":{`, `"b":{"name":"b",`).Replace(c.groups)
		g := &grouper{config: must(parseObject("config", []byte(`{"config_groups":{`+text+`}}`)))}
		if group, err := g.configGroup("model.q"); group.get("name") != c.want || err != nil {
			t.Errorf("%s: %v, %v, want %s", c.groups, group.get("name"), err, c.want)
		}
	}
}

// TestVaries: exceptions that are none do not loosen what the configuration says of all.
func TestVaries(t *testing.T) {
	for config, want := range map[string]bool{`{}`: false, `{"dynamic":{},"extra_config":{}}`: false, `{"dynamic":{"a":{"bits":8}}}`: true, `{"extra_config":{"a":{"bits":8}}}`: true} {
		if g := (&grouper{config: must(parseObject("config", []byte(config)))}); g.varies() != want {
			t.Errorf("%s: %v", config, !want)
		}
	}
}

// TestFewBitsNotWritten: compressed-tensors folders of 2 and 3 bits are read, and written
// by nobody whose programs run them.
func TestFewBitsNotWritten(t *testing.T) {
	for kind, ok := range map[dtype.Kind]bool{dtype.Int2: false, dtype.Int3: false, dtype.Int4: true, dtype.Int8: true} {
		_, err := layoutOf(TensorPlan{Name: "q.weight", Shape: []int64{4, 64}, Type: dtype.Type{Kind: kind, Group: 32, Scale: dtype.F16}}, CompressedTensors, "float16")
		if (err == nil) != ok {
			t.Errorf("%v: %v", kind, err)
		}
	}
}
