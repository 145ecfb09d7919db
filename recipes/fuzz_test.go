package recipes

import "testing"

// FuzzResult: what a run folder says of a stage is read or refused, whatever is in
// it, and can be written again.
func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"stage":"a","kind":"k","address":"00","outputs":[{"path":"x","bytes":1,"sha256":"00"}],"inputs":{"m":{"ref":"b","why":"given","sha256":"00"}},"k":{"n":1}}`))
	f.Add([]byte(`{"k":null,"seconds":1e300}`))
	k := &Kind{Name: "k", Left: func() any { return new(struct{ N float64 }) }}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := readResult(b, k)
		if err != nil {
			return
		}
		if _, err := r.MarshalJSON(); err != nil {
			t.Error(err)
		}
	})
}
