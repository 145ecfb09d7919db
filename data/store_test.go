package data

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// TestIngestFromFile: tokens that went to a file give the dataset, the report and
// the folder that they give from memory, and the file is removed.
func TestIngestFromFile(t *testing.T) {
	rows := tokenRows(300, 20)
	rows = append(rows, rows[:40]...)
	rows = append(rows, tokenRows(5, 90)...)
	in := jsonlFile(t, rows...)
	root := t.TempDir()
	defer func(n int) { heldVector = n }(heldVector)
	o := Options{Datasets: []Source{{Path: in, Weight: 1.5}}, ValSetSize: "20", MaxLength: 40, Overflow: "split", Vocab: 99, Seed: 7}
	want, report := ingestOne(t, o, nil, nil)
	a := filepath.Join(root, "a", "tokens")
	if err := os.Mkdir(filepath.Dir(a), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := want.SaveArrow(a); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int64{0, 20_000} { // at once, and in the middle
		o.Beside = filepath.Join(t.TempDir(), "b", "tokens")
		heldVector = int(limit / 100)
		got, rep, err := ingestHolding(context.Background(), limit, o, nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, held := got.Train.src.(*view).of.(list); held {
			t.Error("the tokens are held in memory")
		}
		if !reflect.DeepEqual(rep, report) || !reflect.DeepEqual(readAll(t, got.Train), readAll(t, want.Train)) || !reflect.DeepEqual(readAll(t, got.Val), readAll(t, want.Val)) {
			t.Errorf("limit %d: another dataset", limit)
		}
		if err := os.Mkdir(filepath.Dir(o.Beside), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := got.SaveArrow(o.Beside); err != nil {
			t.Fatal(err)
		}
		got.Close()
		for _, name := range []string{"train.arrow", "val.arrow", "dataset.json"} {
			if readString(t, filepath.Join(a, name)) != readString(t, filepath.Join(o.Beside, name)) {
				t.Errorf("limit %d: %s has other bytes", limit, name)
			}
		}
		if left, _ := os.ReadDir(filepath.Dir(o.Beside)); len(left) != 1 {
			t.Errorf("limit %d leaves %v", limit, left)
		}
	}
	o.Beside, o.Overflow = filepath.Join(t.TempDir(), "tokens"), "error"
	if _, _, err := ingestHolding(context.Background(), 0, o, nil, nil, nil); err == nil {
		t.Fatal("long rows were taken")
	}
	if left, _ := os.ReadDir(filepath.Dir(o.Beside)); len(left) != 0 {
		t.Errorf("an ingest that failed leaves %v", left)
	}
}

// TestIngestGroups: parts of a row that are learned from together stay so, under a
// number of their own, when rows are held back, repeated and shuffled; rows of
// one part get what they get without groups.
func TestIngestGroups(t *testing.T) {
	ingestPairs := func(pairs bool) *Dataset {
		o := Options{Datasets: []Source{{Path: "x"}}, ValSetSize: "30", Vocab: 99, Seed: 7}
		if err := o.Fill(); err != nil {
			t.Fatal(err)
		}
		in := &ingest{o: &o, enc: newEncoding(&o, nil, nil), report: newReport(&o)}
		in.begin(HeldBytes)
		f := input{source: Source{Weight: 2}}
		for i := range 200 {
			in.report.Rows++
			row := Example{IDs: []int32{int32(i % 99), int32(i / 99), 1}, Loss: [][2]int32{{1, 3}}, From: RowRef{"x", int64(i)}}
			other := row
			other.IDs = append([]int32{50}, row.IDs...)
			fate := fitted{id: contentID(row.IDs, row.Loss), parts: []Example{row}}
			if pairs && i%2 == 0 {
				fate.parts, fate.together = append(fate.parts, other), true
			}
			if err := in.row(f, row.From, typeTokens, tokenized{samples: []encoded{{ids: row.IDs, loss: row.Loss}}, fate: fate}); err != nil {
				t.Fatal(err)
			}
		}
		d, err := in.finish()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	alone, pairs := ingestPairs(false), ingestPairs(true)
	for name, ex := range map[string][2]Examples{"train": {alone.Train, pairs.Train}, "val": {alone.Val, pairs.Val}} {
		want, got := readAll(t, ex[0]), readAll(t, ex[1])
		seen := map[uint32]bool{}
		at := 0
		for _, w := range want {
			e := got[at]
			if !reflect.DeepEqual(e.IDs, w.IDs) || e.From != w.From || (e.Group != 0) != (w.From.Row%2 == 0) || e.Group != 0 && seen[e.Group] {
				t.Fatalf("%s sample %d is %+v, want %v", name, at, e, w.From)
			}
			at++
			if e.Group != 0 {
				if second := got[at]; second.Group != e.Group || second.From != e.From || len(second.IDs) != 4 {
					t.Fatalf("%s: %+v is followed by %+v", name, e, second)
				}
				seen[e.Group] = true
				at++
			}
		}
		if at != len(got) || len(seen) == 0 {
			t.Errorf("%s: %d samples, %d expected, %d groups", name, len(got), at, len(seen))
		}
	}
}
