package data

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

func TestCache(t *testing.T) {
	path := jsonlFile(t, tokenRows(5000, 20)...)
	d, _ := ingestOne(t, Options{Datasets: []Source{{Path: path}}, Vocab: 999}, nil, nil)
	root := t.TempDir()
	a, b := filepath.Join(root, "a"), filepath.Join(root, "b")
	if err := d.SaveArrow(a); err != nil {
		t.Fatal(err)
	}
	if err := d.SaveArrow(b); err != nil {
		t.Fatal(err)
	}
	got, err := LoadArrow(a)
	if err != nil {
		t.Fatal(err)
	}
	if got.Key != d.Key || got.Vocab != d.Vocab || got.MaxLength != d.MaxLength ||
		!reflect.DeepEqual(readAll(t, got.Train), readAll(t, d.Train)) || !reflect.DeepEqual(readAll(t, got.Val), readAll(t, d.Val)) {
		t.Error("reads back otherwise")
	}
	for _, name := range []string{"train.arrow", "val.arrow", "dataset.json"} {
		if readString(t, filepath.Join(a, name)) != readString(t, filepath.Join(b, name)) {
			t.Errorf("%s: two saves give other bytes", name)
		}
	}
	if err := d.SaveArrow(a); err == nil {
		t.Error("a folder that is there was written over")
	}
	small, _ := ingestOne(t, Options{Datasets: []Source{{Path: path, MaxSamples: 100}}, Vocab: 999}, nil, nil)
	c := filepath.Join(root, "c")
	if err := small.SaveArrow(c); err != nil {
		t.Fatal(err)
	}
	damageCache(t, c)
}

// TestCacheTokens: tokens of any vocabulary come back, in 2 bytes where that
// is enough; another version of the folder is an error.
func TestCacheTokens(t *testing.T) {
	for _, vocab := range []int{1 << 16, 1<<16 + 1, 0} {
		ids := []int32{0, 1, int32(cmp.Or(vocab, 200_000)) - 1}
		loss := [][2]int32{{0, 3}}
		want := &Dataset{Key: "k", Vocab: vocab, MaxLength: 8, Train: InMemory(Example{ID: contentID(ids, loss), IDs: ids, Loss: loss, From: RowRef{"f", 1}})}
		dir := filepath.Join(t.TempDir(), "d")
		if err := want.SaveArrow(dir); err != nil {
			t.Fatal(err)
		}
		got, err := LoadArrow(dir)
		if err != nil || !reflect.DeepEqual(readAll(t, got.Train), readAll(t, want.Train)) {
			t.Errorf("vocabulary %d: reads back otherwise (%v): %+v", vocab, err, got)
		}
		info := filepath.Join(dir, "dataset.json")
		first := strings.Replace(readString(t, info), `"version": 2`, `"version": 1`, 1)
		if err := os.WriteFile(info, []byte(first), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadArrow(dir); !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("vocabulary %d: version 1: %v", vocab, err)
		}
	}
	wrong := &Dataset{Vocab: 10, MaxLength: 8, Train: InMemory(Example{IDs: []int32{1 << 16}, Loss: [][2]int32{{0, 1}}})}
	if err := wrong.SaveArrow(filepath.Join(t.TempDir(), "d")); err == nil {
		t.Error("a token of more than 2 bytes was cut")
	}
}

// damageCache flips bytes all over the files: loading is an error, or the byte
// was padding and the content is the same.
func damageCache(t *testing.T, dir string) {
	want, err := LoadArrow(dir)
	if err != nil {
		t.Fatal(err)
	}
	errs := 0
	for _, name := range []string{"val.arrow", "dataset.json"} {
		path := filepath.Join(dir, name)
		whole := []byte(readString(t, path))
		for i := 0; i < len(whole); i += 1 + len(whole)/300 {
			bad := slices.Clone(whole)
			bad[i] ^= 0x41
			if err := os.WriteFile(path, bad, 0o666); err != nil {
				t.Fatal(err)
			}
			got, err := LoadArrow(dir)
			if err != nil {
				errs++
				if fail.Code(err) != int(fail.Input) {
					t.Errorf("%s byte %d: code %d: %v", name, i, fail.Code(err), err)
				}
			} else if name == "val.arrow" && !sameContents(readAll(t, got.Val), readAll(t, want.Val)) {
				t.Errorf("%s byte %d: other samples, no error", name, i)
			}
		}
		if err := os.WriteFile(path, whole[:len(whole)/2], 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadArrow(dir); err == nil {
			t.Errorf("%s cut in half: no error", name)
		}
		if err := os.WriteFile(path, whole, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if errs < 200 {
		t.Errorf("only %d damaged caches are errors", errs)
	}
}

func sameContents(a, b []Example) bool {
	return slices.EqualFunc(a, b, func(a, b Example) bool { return a.ID == b.ID && slices.Equal(a.IDs, b.IDs) })
}
