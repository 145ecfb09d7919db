package data

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzCache: any bytes in a folder of samples give samples within the vocabulary,
// or an error.
func FuzzCache(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "d")
	d := &Dataset{Key: "k", Vocab: 100, MaxLength: 8, Train: InMemory(Example{ID: 1, IDs: []int32{1, 2, 3}, Loss: [][2]int32{{1, 3}}}, Example{ID: 2, IDs: []int32{9}}), Val: InMemory(Example{ID: 3, IDs: []int32{5, 5}})}
	if err := d.SaveArrow(dir); err != nil {
		f.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(read("dataset.json"), read("train.arrow"), read("val.arrow"))
	f.Add(read("dataset.json"), read("val.arrow"), read("train.arrow"))
	f.Fuzz(func(t *testing.T, info, train, val []byte) {
		for name, b := range map[string][]byte{"dataset.json": info, "train.arrow": train, "val.arrow": val} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		d, err := LoadArrow(dir)
		if err != nil {
			return
		}
		defer d.Close()
		for _, ex := range []Examples{d.Train, d.Val} {
			for i := range ex.Len() {
				e, err := ex.At(i)
				if err != nil {
					continue
				}
				for _, id := range e.IDs {
					if id < 0 || int(id) >= d.Vocab {
						t.Fatalf("id %d of %d", id, d.Vocab)
					}
				}
			}
		}
	})
}
