package data

// Batch is one padding-free micro-batch: samples laid end to end, with no
// attention across them.
type Batch struct {
	IDs    []int32 // [N]
	Pos    []int32 // [N] position in its own sample, from 0
	Target []int32 // [N] the id to predict after token n, or -1
	Seq    []int32 // [S+1] sample s is tokens Seq[s] … Seq[s+1]
	Key    []int64 // [N] sample<<32 | position: where random numbers of a token come from

	// Group is the group of each sample [S], 0 for one that stands alone. Samples
	// of a group are whole and next to each other.
	Group []uint32

	// Mark is that of each sample [S], Sample its number in the Examples that it was
	// read from, and From its row.
	Mark   []float32
	Sample []int32
	From   []RowRef

	// What a teacher expects after the tokens with a target, most likely first: of each
	// as many ids, and their log-probabilities; nil where it was not asked.
	TopIDs  []int32
	TopLogP []float32

	Supervised int // number of Target that are not -1
}

// Step is the work of one optimizer step.
type Step struct {
	Micro      []Batch
	Supervised int64 // over all of Micro: the loss of the step is its sum divided by this
	Index      int
}

// NewBatch lays out ex, whose numbers are those given.
func NewBatch(ex []Example, numbers []int32) Batch {
	b := Batch{Seq: []int32{0}}
	for i := range ex {
		b.append(&ex[i], numbers[i])
	}
	return b
}

// append adds sample e, whose number is k, to b.
func (b *Batch) append(e *Example, k int32) {
	base := int64(e.ID&0x7fffffff) << 32
	at := len(b.IDs)
	b.IDs = append(b.IDs, e.IDs...)
	for i := range e.IDs {
		b.Pos = append(b.Pos, int32(i))
		b.Target = append(b.Target, -1)
		b.Key = append(b.Key, base|int64(i))
	}
	for _, r := range e.Loss {
		for i := max(r[0], 1); i < r[1]; i++ {
			b.Target[at+int(i)-1] = e.IDs[i]
			b.Supervised++
		}
	}
	b.TopIDs, b.TopLogP = append(b.TopIDs, e.TopIDs...), append(b.TopLogP, e.TopLogP...)
	b.Seq = append(b.Seq, int32(len(b.IDs)))
	b.Group, b.Mark, b.Sample = append(b.Group, e.Group), append(b.Mark, e.Mark), append(b.Sample, k)
	b.From = append(b.From, e.From)
}
