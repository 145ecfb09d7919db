package formats

import (
	"encoding/json"
	"strconv"
)

// sizeOf reads a non-negative whole JSON number.
func sizeOf(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	u, err := strconv.ParseUint(string(n), 10, 63)
	return int64(u), err == nil
}

func (a *artifact) logical(arrays []array) ([]Tensor, error) {
	var out []Tensor
	for i := range arrays {
		out = append(out, arrays[i].tensor())
	}
	return out, nil
}
