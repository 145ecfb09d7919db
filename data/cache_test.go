package data

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
)

func TestCache(t *testing.T) {
	path := jsonlFile(t, tokenRows(5000, 20)...)
	t.Chdir(filepath.Dir(path)) // a folder names its files without theirs
	path = filepath.Base(path)
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
	read := func() ([]Example, error) {
		d, err := LoadArrow(dir)
		if err != nil {
			return nil, err
		}
		return d.Val.Read(d.Val.Len())
	}
	want, err := read()
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
			got, err := read()
			if err != nil {
				errs++
				if fail.Code(err) != int(fail.Input) {
					t.Errorf("%s byte %d: code %d: %v", name, i, fail.Code(err), err)
				}
			} else if name == "val.arrow" && !sameContents(got, want) {
				t.Errorf("%s byte %d: other samples, no error", name, i)
			}
		}
		if err := os.WriteFile(path, whole[:len(whole)/2], 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := read(); err == nil {
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

// made is n samples of length tokens that are made when they are read.
type made struct{ n, length int }

func (m made) count() int { return m.n }

func (m made) size(int) (int, uint32) { return m.length, 0 }

func (m made) id(i int) uint64 { e, _ := m.read(i); return e.ID }

func (m made) mark(int) float32 { return 0 }

func (m made) read(i int) (Example, error) {
	ids := make([]int32, m.length)
	for k := range ids {
		ids[k] = int32((i*31 + k*k) % 70_000)
	}
	e := Example{IDs: ids, Loss: [][2]int32{{1, int32(m.length)}}, From: RowRef{"made", int64(i)}}
	e.ID = contentID(e.IDs, e.Loss)
	return e, nil
}

// TestCacheLargerThanMemory: of a cache of 80 MB an index of 12 bytes a sample is
// held, and a loader's 8, while every step of an epoch is made.
func TestCacheLargerThanMemory(t *testing.T) {
	const n, length = 20_000, 1000
	d := &Dataset{Vocab: 70_000, MaxLength: length, Train: Examples{made{n, length}}}
	dir := filepath.Join(t.TempDir(), "d")
	if err := d.SaveArrow(dir); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(dir, "train.arrow"))
	if err != nil || st.Size() < 80e6 {
		t.Fatalf("%v of 80 MB (%v)", st, err)
	}
	held := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := held()
	got, err := LoadArrow(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewLoader(got.Train, LoaderOptions{MicroBatch: 50, Accum: 2, MaxLength: length, Shuffle: true, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	tokens := 0
	for i := range l.StepsPerEpoch() {
		for _, b := range stepOf(t, l, i).Micro {
			tokens += len(b.IDs)
		}
	}
	if tokens != n*length {
		t.Errorf("%d tokens in an epoch", tokens)
	}
	if most := int64(24*n + 256<<10); held()-before > most {
		t.Errorf("%d bytes are held, want at most %d", held()-before, most)
	}
	runtime.KeepAlive(l)
}

// TestMappedSteps: over a cache a loader makes the steps that it makes of the
// same samples in memory, whatever packing, seed, groups and vocabulary.
func TestMappedSteps(t *testing.T) {
	for _, vocab := range []int{0, 100} {
		for _, groups := range []bool{false, true} {
			ex := samples(5000) // more than a record batch
			for i := range ex {
				ex[i].From = RowRef{fmt.Sprint("file", i%3), int64(i)}
				if groups && i%4 < 2 {
					ex[i].Group = uint32(i/4 + 1)
				}
			}
			d := &Dataset{Key: "k", Vocab: vocab, MaxLength: 128, Train: InMemory(ex...), Val: InMemory(ex[:7]...)}
			dir := filepath.Join(t.TempDir(), "d")
			if err := d.SaveArrow(dir); err != nil {
				t.Fatal(err)
			}
			got, err := LoadArrow(dir)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(readAll(t, got.Train), ex) || !reflect.DeepEqual(readAll(t, got.Val), ex[:7]) {
				t.Errorf("vocabulary %d, groups %v: reads back otherwise", vocab, groups)
			}
			for _, o := range []LoaderOptions{
				{MicroBatch: 3, Accum: 2, MaxLength: 128, Packing: "bfd", Shuffle: true, Seed: 1},
				{MicroBatch: 8, Accum: 1, MaxLength: 128, Packing: "bfd"},
				{MicroBatch: 5, Accum: 4, MaxLength: 128, Packing: "none", Shuffle: true, Seed: 9},
			} {
				mapped, err1 := NewLoader(got.Train, o)
				held, err2 := NewLoader(d.Train, o)
				if err := errors.Join(err1, err2); err != nil {
					t.Fatal(err)
				}
				n := held.StepsPerEpoch()
				if mapped.StepsPerEpoch() != n {
					t.Fatalf("%+v: %d and %d steps", o, mapped.StepsPerEpoch(), n)
				}
				for _, i := range []int{0, 1, n / 2, n - 1, n, 2*n - 1} {
					if !reflect.DeepEqual(stepOf(t, mapped, i), stepOf(t, held, i)) || !slices.Equal(mapped.Sizes(i), held.Sizes(i)) {
						t.Errorf("%+v: step %d differs", o, i)
					}
				}
			}
		}
	}
}

// TestDamagedSample: damage that no check of the layout sees is an error of the
// step that reads the sample, and of no other.
func TestDamagedSample(t *testing.T) {
	ex := samples(50)
	dir := filepath.Join(t.TempDir(), "d")
	if err := (&Dataset{Vocab: 100, MaxLength: 64, Train: InMemory(ex...)}).SaveArrow(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "train.arrow")
	whole := []byte(readString(t, path))
	var first []byte // tokens of sample 20, as they lie in the file
	for _, id := range ex[20].IDs {
		first = append(first, byte(id), 0)
	}
	at := bytes.Index(whole, first)
	if at < 0 {
		t.Fatal("the tokens are not in the file")
	}
	whole[at] ^= 1
	if err := os.WriteFile(path, whole, 0o666); err != nil {
		t.Fatal(err)
	}
	d, err := LoadArrow(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewLoader(d.Train, LoaderOptions{Packing: "none"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		_, err := l.Step(i)
		if bad := errors.Is(err, formats.ErrCorrupt) && strings.Contains(err.Error(), "sample 20: content does not fit its hash"); bad != (i == 20) || err != nil && !bad {
			t.Errorf("step %d: %v", i, err)
		}
	}
}
