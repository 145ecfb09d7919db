package data

import (
	"reflect"
	"testing"
)

// TestPackGolden compares with the bins TRL 1.16 makes: it packs groups of
// 1,000 rows and cuts long rows first.
func TestPackGolden(t *testing.T) {
	var cases []struct {
		Case      string
		Strategy  string
		SeqLength int `json:"seq_length"`
		Lengths   []int
		Bins      [][][3]int
	}
	readGolden(t, "train/sft/packing.json.gz", &cases)
	tested := 0
	for _, c := range cases {
		if c.Strategy != "bfd" {
			continue
		}
		tested++
		var got [][][3]int
		for at := 0; at < len(c.Lengths); at += 1000 {
			group := c.Lengths[at:min(at+1000, len(c.Lengths))]
			cut := make([]int, len(group))
			for i, n := range group {
				cut[i] = min(n, c.SeqLength)
			}
			for _, bin := range PackBFD(cut, c.SeqLength) {
				var runs [][3]int
				for _, i := range bin {
					runs = append(runs, [3]int{at + int(i), 0, cut[i]})
				}
				got = append(got, runs)
			}
		}
		if !reflect.DeepEqual(got, c.Bins) {
			t.Errorf("%s: bins differ from TRL's (%d against %d)", c.Case, len(got), len(c.Bins))
		}
	}
	if tested != 4 {
		t.Errorf("tested %d cases, want 4", tested)
	}
}

func TestPackTooLong(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a sample longer than a bin was packed")
		}
	}()
	PackBFD([]int{3, 9}, 8)
}
