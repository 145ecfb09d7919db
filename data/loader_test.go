package data

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

type goldenBatches struct {
	Hyper struct {
		MicroBatch int `json:"micro_batch"`
		GradAccum  int `json:"grad_accum"`
	}
	MicroBatches []struct {
		InputIDs      [][]int32 `json:"input_ids"`
		Labels        [][]int32
		AttentionMask [][]int32 `json:"attention_mask"`
	} `json:"micro_batches"`
}

// TestLoaderReplaysGolden ingests the rows of golden/train/lora as type tokens
// and finds the same ids and labels in each optimizer step.
func TestLoaderReplaysGolden(t *testing.T) {
	var g goldenBatches
	readGolden(t, "train/lora/batches.json", &g)
	var rows []any
	for _, m := range g.MicroBatches {
		for i := range m.InputIDs {
			rows = append(rows, map[string]any{"input_ids": m.InputIDs[i], "labels": m.Labels[i], "attention_mask": m.AttentionMask[i]})
		}
	}
	o := Options{Datasets: []Source{{Path: jsonlFile(t, rows...)}}, Shuffle: &no, ValSetSize: "0", Packing: "none", Vocab: 320}
	d, r := ingestOne(t, o, nil, nil)
	if d.Train.Len() != len(rows) || r.Types["tokens"] != int64(len(rows)) {
		t.Fatalf("%d samples of %d rows, types %v", d.Train.Len(), len(rows), r.Types)
	}
	l, err := NewLoader(d.Train, LoaderOptions{MicroBatch: g.Hyper.MicroBatch, Accum: g.Hyper.GradAccum, Packing: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if l.StepsPerEpoch() != 30 {
		t.Fatalf("%d steps an epoch", l.StepsPerEpoch())
	}
	for s := range 30 {
		step, supervised := stepOf(t, l, s), int64(0)
		for k, b := range step.Micro {
			m := g.MicroBatches[s*g.Hyper.GradAccum+k]
			if want := paddingFree(m.InputIDs, m.Labels, m.AttentionMask); !sameBatch(b, want) {
				t.Fatalf("step %d micro-batch %d differs:\n got %v\nwant %v", s, k, b, want)
			}
			supervised += int64(b.Supervised)
		}
		if step.Supervised != supervised || supervised == 0 || step.Index != s {
			t.Errorf("step %d: supervised %d, its batches %d, index %d", s, step.Supervised, supervised, step.Index)
		}
	}
}

// paddingFree lays padded rows out as the loader should, from the definition.
func paddingFree(ids, labels, mask [][]int32) Batch {
	b := Batch{Seq: []int32{0}}
	for r := range ids {
		n := int32(0)
		for i := range ids[r] {
			if mask[r][i] == 0 {
				continue
			}
			target := int32(-1)
			if i+1 < len(ids[r]) && labels[r][i+1] != -100 {
				target = labels[r][i+1]
				b.Supervised++
			}
			b.IDs, b.Pos, b.Target = append(b.IDs, ids[r][i]), append(b.Pos, n), append(b.Target, target)
			n++
		}
		b.Seq = append(b.Seq, int32(len(b.IDs)))
	}
	return b
}

func sameBatch(a, b Batch) bool {
	return slices.Equal(a.IDs, b.IDs) && slices.Equal(a.Pos, b.Pos) && slices.Equal(a.Target, b.Target) &&
		slices.Equal(a.Seq, b.Seq) && a.Supervised == b.Supervised && len(a.Key) == len(a.IDs)
}

// TestPaddingFreeGolden packs the micro-batches that golden/train/lora packs.
func TestPaddingFreeGolden(t *testing.T) {
	var g struct {
		Rows []struct {
			MicroBatch int     `json:"micro_batch"`
			NumItems   int     `json:"num_items"`
			IDs        []int32 `json:"packed_input_ids"`
			Labels     []int32 `json:"packed_labels"`
			Pos        []int32 `json:"packed_position_ids"`
		}
	}
	var rows goldenBatches
	readGolden(t, "train/lora/padding_free.json", &g)
	readGolden(t, "train/lora/batches.json", &rows)
	if len(g.Rows) == 0 {
		t.Fatal("no rows")
	}
	for _, want := range g.Rows {
		m := rows.MicroBatches[want.MicroBatch]
		b := Batch{Seq: []int32{0}}
		for i := range m.InputIDs {
			s := sample{ids: m.InputIDs[i], labels: m.Labels[i]}
			if err := s.unpad(m.AttentionMask[i]); err != nil {
				t.Fatal(err)
			}
			e := (&encoding{}).tokens(s)
			b.append(&Example{IDs: e.ids, Loss: tidy(e.loss)}, int32(i))
		}
		if !slices.Equal(b.IDs, want.IDs) || !slices.Equal(b.Pos, want.Pos) || b.Supervised != want.NumItems {
			t.Errorf("micro-batch %d: packed otherwise (%d supervised, want %d)", want.MicroBatch, b.Supervised, want.NumItems)
		}
		for n, label := range want.Labels[1:] {
			if target := b.Target[n]; target != label && !(target == -1 && label == -100) {
				t.Errorf("micro-batch %d token %d: target %d, label %d", want.MicroBatch, n, target, label)
			}
		}
	}
}

func samples(n int) []Example {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]Example, n)
	for i := range out {
		ids := make([]int32, 1+r.IntN(60))
		for k := range ids {
			ids[k] = int32(r.IntN(100))
		}
		out[i] = Example{IDs: ids, Loss: [][2]int32{{int32(len(ids) / 2), int32(len(ids))}}}
		out[i].ID = contentID(ids, out[i].Loss)
	}
	return out
}

// TestLoaderEpochs: every epoch holds each sample once, in another order; a
// step is the same whenever it is asked for and whoever asks.
func TestLoaderEpochs(t *testing.T) {
	ex := samples(97)
	for _, packing := range []string{"bfd", "none"} {
		o := LoaderOptions{MicroBatch: 2, Accum: 3, MaxLength: 64, Packing: packing, Shuffle: true, Seed: 5}
		l, err := NewLoader(InMemory(ex...), o)
		if err != nil {
			t.Fatal(err)
		}
		n := l.StepsPerEpoch()
		var first []string
		for epoch := range 3 {
			seen, order := map[string]int{}, []string{}
			for i := range n {
				for _, b := range stepOf(t, l, epoch*n+i).Micro {
					for s := range len(b.Seq) - 1 {
						k := fmt.Sprint(b.IDs[b.Seq[s]:b.Seq[s+1]])
						seen[k]++
						order = append(order, k)
						for p := b.Seq[s]; p < b.Seq[s+1]; p++ {
							if b.Pos[p] != p-b.Seq[s] {
								t.Fatalf("position %d of a sample is %d", p-b.Seq[s], b.Pos[p])
							}
						}
					}
					if packing == "bfd" && len(b.IDs) > 2*64 {
						t.Errorf("micro-batch of %d tokens", len(b.IDs))
					}
				}
			}
			for _, e := range ex {
				if seen[fmt.Sprint(e.IDs)] == 0 {
					t.Fatalf("%s epoch %d lacks a sample", packing, epoch)
				}
			}
			if len(order) != len(ex) {
				t.Errorf("%s epoch %d has %d samples", packing, epoch, len(order))
			}
			if epoch > 0 && slices.Equal(order, first) {
				t.Errorf("%s: epoch %d has the order of the first", packing, epoch)
			}
			first = order
		}
		other, err := NewLoader(InMemory(ex...), o)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{2*n + 1, 0, n, 2*n + 1} { // out of order, as after a resume
			if !reflect.DeepEqual(stepOf(t, l, i), stepOf(t, other, i)) {
				t.Errorf("%s: step %d differs between loaders", packing, i)
			}
		}
		o.Seed++
		if other, _ = NewLoader(InMemory(ex...), o); reflect.DeepEqual(stepOf(t, l, 0), stepOf(t, other, 0)) {
			t.Errorf("%s: another seed gives the same first step", packing)
		}
	}
}

func TestLoaderErrors(t *testing.T) {
	if _, err := NewLoader(Examples{}, LoaderOptions{MaxLength: 8}); fail.Code(err) != int(fail.Input) {
		t.Errorf("no samples: %v", err)
	}
	long := InMemory(Example{IDs: make([]int32, 9), From: RowRef{"a.jsonl", 3}})
	if _, err := NewLoader(long, LoaderOptions{MaxLength: 8}); err == nil || !strings.Contains(err.Error(), "a.jsonl row 3: sample has 9 tokens") {
		t.Errorf("long sample: %v", err)
	}
	if _, err := NewLoader(long, LoaderOptions{MaxLength: 8, Packing: "ffd"}); fail.Code(err) != int(fail.Usage) {
		t.Errorf("packing: %v", err)
	}
}

// TestGroups: whatever the packing, the samples of a group lie in one row, whole,
// next to each other and in their order; those that stand alone are laid as they
// are without groups.
func TestGroups(t *testing.T) {
	ex := samples(97)
	want := map[string]uint32{} // of each sample by its content
	order := map[uint32][]string{}
	for i, at := 0, uint32(0); i < len(ex); at++ {
		for range 1 + at%3 {
			if i < len(ex) && at%3 > 0 {
				ex[i].Group = at
			}
			if i < len(ex) {
				ex[i].IDs = append([]int32{int32(i)}, ex[i].IDs[:len(ex[i].IDs)/3]...)
				ex[i].Loss = whole(ex[i].IDs)
				k := fmt.Sprint(ex[i].IDs)
				want[k] = ex[i].Group
				order[ex[i].Group] = append(order[ex[i].Group], k)
			}
			i++
		}
	}
	for _, packing := range []string{"bfd", "none"} {
		o := LoaderOptions{MicroBatch: 2, Accum: 2, MaxLength: 64, Packing: packing, Shuffle: true, Seed: 3}
		l, err := NewLoader(InMemory(ex...), o)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for i := range 2 * l.StepsPerEpoch() {
			for m, b := range stepOf(t, l, i).Micro {
				if sizes := l.Sizes(i); sizes[m] != len(b.IDs) || packing == "bfd" && sizes[m] > 2*64 {
					t.Errorf("%s step %d: sizes %v, micro-batch %d has %d tokens", packing, i, sizes, m, len(b.IDs))
				}
				for s := 0; s < len(b.Group); {
					group := []string{fmt.Sprint(b.IDs[b.Seq[s]:b.Seq[s+1]])}
					g := b.Group[s]
					for s++; s < len(b.Group) && g != 0 && b.Group[s] == g; s++ {
						group = append(group, fmt.Sprint(b.IDs[b.Seq[s]:b.Seq[s+1]]))
					}
					if want[group[0]] != g || g != 0 && !slices.Equal(group, order[g]) {
						t.Errorf("%s: group %d is %v, want %v", packing, g, group, order[g])
					}
					seen += len(group)
				}
			}
		}
		if seen != 2*len(ex) {
			t.Errorf("%s: %d samples in two epochs, want %d", packing, seen, 2*len(ex))
		}
	}
	long := func(n int) Examples {
		return InMemory(Example{IDs: make([]int32, n), Group: 1, From: RowRef{"a", 1}}, Example{IDs: make([]int32, 7), Group: 1},
			Example{IDs: make([]int32, 3), Group: 2}, Example{IDs: make([]int32, 4), Group: 2}, Example{IDs: make([]int32, 6), Group: 3}, Example{IDs: make([]int32, 2), Group: 3})
	}
	l, err := NewLoader(long(8), LoaderOptions{MaxLength: 8}) // a pair of 15 tokens makes bins as long
	if err != nil || l.StepsPerEpoch() != 2 || !slices.Equal(l.Sizes(0), []int{15}) || !slices.Equal(l.Sizes(1), []int{15}) {
		t.Errorf("a group longer than a sample may be: %v", err)
	}
	if _, err = NewLoader(long(9), LoaderOptions{MaxLength: 8}); err == nil || !strings.Contains(err.Error(), "a row 1: sample has 9 tokens") {
		t.Errorf("a sample of a group longer than a bin: %v", err)
	}
}
