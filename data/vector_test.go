package data

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

// TestVector: a vector and a set hold what slices and maps hold, in memory and in
// files, and leave no file behind.
func TestVector(t *testing.T) {
	defer func(n int) { heldVector = n }(heldVector)
	heldVector = 100
	dir := t.TempDir()
	for _, beside := range []string{"", filepath.Join(dir, "rows"), filepath.Join(dir, "none", "rows")} {
		a := newVector[item](beside, 0)
		var want []item
		for i := range 1000 {
			v := item{first: int32(i), row: uint64(i) << 40, weight: 0.5}
			a.add(v)
			want = append(want, v)
		}
		if !slices.Equal(a.at, want) || a.get(999) != want[999] || a.len() != 1000 {
			t.Errorf("beside %q: another vector", beside)
		}
		if mapped := a.file != nil; mapped != (beside == filepath.Join(dir, "rows")) {
			t.Errorf("beside %q: in a file: %v", beside, mapped)
		}
		a.close()
		a.close()

		s, seen := newIDSet(beside), map[uint64]bool{}
		r := rand.New(rand.NewPCG(1, 2))
		for i := range 20_000 {
			id := r.Uint64() >> (i % 2 * 52) // many that occur twice, and 0
			if i%1000 == 0 {
				id = ^uint64(0) // the last slot, and those behind it
			}
			if has := s.has(id); has != seen[id] || s.add(id) != seen[id] {
				t.Fatalf("beside %q: hash %d: has %v, want %v", beside, id, has, seen[id])
			}
			seen[id] = true
		}
		s.close()
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// TestHeldBackByHash: the rows held back are those whose content has the smallest hashes,
// with all their copies, and never all that there are.
func TestHeldBackByHash(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 300 {
		n := 1 + r.IntN(40)
		o := Options{Datasets: []Source{{Path: "x"}}, ValSetSize: fmt.Sprint(r.IntN(n)), Vocab: 99}
		in := &ingest{o: &o, enc: newEncoding(&o, nil, nil), report: newReport(&o)}
		in.begin(HeldBytes)
		var keys []uint64
		for i := range n {
			row := uint64(r.IntN(1 + n/2)) // with copies
			keys = append(keys, mix64(row))
			for range 1 + r.IntN(2) { // of one or two samples
				in.train.add(item{row: row, nth: int64(i + 1), n: 1})
			}
		}
		if err := in.holdBack(); err != nil {
			t.Fatal(err)
		}
		want, _ := o.ValRows(n)
		slices.Sort(keys)
		held := map[uint64]bool{}
		for i, key := range keys {
			if i < want && key != keys[n-1] {
				held[key] = true
			}
		}
		for _, part := range []struct {
			items []item
			val   bool
		}{{in.train.at, false}, {in.val.at, true}} {
			for _, it := range part.items {
				if held[mix64(it.row)] != part.val {
					t.Fatalf("round %d: %d of %d rows are to be held back: row %d is in the wrong part", round, want, n, it.nth)
				}
			}
		}
	}
}

// TestIngestMemory: what an ingest, and a loader over its result, hold does not grow
// with the number of rows.
func TestIngestMemory(t *testing.T) {
	const most = 300_000
	dir := t.TempDir()
	path := filepath.Join(dir, "rows.jsonl")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for i := range most {
		fmt.Fprintf(w, "{\"input_ids\": [%d, %d, 7]}\n", i%1000, i/1000)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	held := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	early, late := int64(0), int64(0)
	o := Options{Datasets: []Source{{Path: path}}, ValSetSize: "10%", MaxLength: 8, Vocab: 1000, Dedup: "exact", Beside: filepath.Join(dir, "tokens")}
	d, _, err := ingestHolding(context.Background(), 1<<20, o, nil, nil, func(done, _ int64) {
		if done > most/6 && early == 0 {
			early = held()
		}
		if done == most {
			late = held()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if grown := late - early; grown > 4<<20 {
		t.Errorf("reading: %d bytes more are held after %d rows than after a sixth of them", grown, most)
	}
	if err := d.SaveArrow(o.Beside); err != nil {
		t.Fatal(err)
	}
	if d.Train.Len()+d.Val.Len() != most {
		t.Errorf("%d and %d samples", d.Train.Len(), d.Val.Len())
	}
	d.Close()
	before := held()
	if d, err = LoadArrow(o.Beside); err != nil {
		t.Fatal(err)
	}
	l, err := NewLoader(d.Train, LoaderOptions{MicroBatch: 8, MaxLength: 8, Shuffle: true, Beside: filepath.Join(dir, "samples")})
	if err != nil {
		t.Fatal(err)
	}
	stepOf(t, l, 0)
	stepOf(t, l, l.StepsPerEpoch()) // the second epoch
	if grown := held() - before; grown > 1<<20 {
		t.Errorf("loading: %d bytes are held of %d rows", grown, most)
	}
	runtime.KeepAlive(l)
}
