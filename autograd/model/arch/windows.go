package arch

import (
	"slices"

	"github.com/tunekit/tunekit/formats"
)

// What files say of layers that attend to a window and of those that see
// everything.

// windowKV are the keys of a GGUF for models whose layers with a window are
// not all there are: the size, and which they are where it is not what llama.cpp
// takes for granted, that every period-th sees everything. As a list where list
// is set, else as a period.
func (s *Spec) windowKV(p string, period int, list bool) []formats.KV {
	local, size := s.windows()
	kv := []formats.KV{{Key: p + ".attention.sliding_window", Value: uint32(size)}}
	const key = ".attention.sliding_window_pattern"
	if list {
		return append(kv, formats.KV{Key: p + key, Value: local})
	}
	for n := range len(local) + 2 {
		if slices.Equal(local, lastFulls(n, len(local))) {
			if !slices.Equal(local, lastFulls(period, len(local))) {
				kv = append(kv, formats.KV{Key: p + key, Value: uint32(n)})
			}
			break
		}
	}
	return kv
}

// lastFulls is lastFull for each of the given number of layers.
func lastFulls(n, layers int) []bool {
	out, local := make([]bool, layers), lastFull(n)
	for i := range out {
		out[i] = local(i)
	}
	return out
}

// windowConfig are layer_types and sliding_window of config.json.
func (s *Spec) windowConfig() []formats.KV {
	local, size := s.windows()
	types := make([]string, len(local))
	for i, is := range local {
		types[i] = map[bool]string{true: "sliding_attention", false: "full_attention"}[is]
	}
	kv := []formats.KV{{Key: "layer_types", Value: types}, {Key: "sliding_window", Value: size}}
	if size == 0 {
		kv[1].Value = nil
	}
	return kv
}
