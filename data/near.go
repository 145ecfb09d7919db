package data

import (
	"fmt"
	"unsafe"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/minhash"
)

// signatures are those of the rows of an ingest, one after the other.
type signatures struct {
	of   *minhash.Hasher
	sigs *vector[uint16]
	refs *vector[signed]
	file []string // by signed.file
}

// signed is where a row with a signature came from.
type signed struct {
	row  int64
	file int32
}

func newSignatures(o *Options, beside string) *signatures {
	return &signatures{of: minhash.New(o.DedupNgram, o.DedupNumPerm), sigs: newVector[uint16](beside, 0), refs: newVector[signed](beside, 0)}
}

// add keeps a signature and returns its number; -1 for a row without words.
func (s *signatures) add(sig minhash.Signature, ref RowRef) int32 {
	if sig == nil {
		return -1
	}
	if n := len(s.file); n == 0 || s.file[n-1] != ref.File {
		s.file = append(s.file, ref.File)
	}
	for _, v := range sig {
		s.sigs.add(v)
	}
	s.refs.add(signed{ref.Row, int32(len(s.file) - 1)})
	return int32(s.refs.len() - 1)
}

func (s *signatures) get(i int32) minhash.Signature {
	n := s.of.NumPerm
	return minhash.Signature(s.sigs.at[int(i)*n : (int(i)+1)*n])
}

func (s *signatures) ref(i int32) RowRef {
	r := s.refs.get(int(i))
	return RowRef{s.file[r.file], r.row}
}

func (s *signatures) close() {
	if s != nil {
		s.sigs.close()
		s.refs.close()
	}
}

// nearIndex finds signatures that are like another. It is a table of the bands of
// all that were added: open addressing by a band's key, and a list of the rows that
// share one, the last first.
type nearIndex struct {
	of          *signatures
	threshold   float64
	bands, rows int
	rowOf       *vector[int32] // numbers in of, as they were added
	next        *vector[int32] // 1 + the row added before with the same key, for each band; 0: none
	slots       *vector[nearSlot]
	shift       int // of a key to its slot
	used        int
}

type nearSlot struct {
	key  uint32
	last int32 // 1 + the last row added with the key; 0: free
}

// likest is how many rows of one band are compared: those that share a beginning
// that a whole data set has must not make the work grow with its square.
const likest = 128

func newNearIndex(of *signatures, threshold float64) *nearIndex {
	x := &nearIndex{of: of, threshold: threshold, shift: 32 - 10}
	x.bands, x.rows = minhash.Bands(threshold, of.of.NumPerm)
	beside := of.sigs.beside
	x.rowOf, x.next, x.slots = newVector[int32](beside, 0), newVector[int32](beside, 0), newVector[nearSlot](beside, 1<<10)
	return x
}

// find returns the row most like a signature, the last of equals, with its
// similarity; false where none reaches the threshold.
func (x *nearIndex) find(sig minhash.Signature) (row int32, similarity float64, ok bool) {
	best := int32(-1)
	for band := range x.bands {
		at := x.slot(sig.Key(band, x.rows))
		for i, n := x.slots.at[at].last, 0; i != 0 && n < likest; i, n = x.next.at[int(i-1)*x.bands+band], n+1 {
			if i-1 == best {
				continue
			}
			if s := minhash.Similarity(sig, x.of.get(x.rowOf.at[i-1])); s >= x.threshold && (s > similarity || s == similarity && i-1 > best) {
				best, similarity = i-1, s
			}
		}
	}
	if best < 0 {
		return -1, 0, false
	}
	return x.rowOf.at[best], similarity, true
}

// add puts a row into the index.
func (x *nearIndex) add(row int32) {
	if x.rowOf.add(row); 4*(x.used+x.bands) > 3*len(x.slots.at) {
		x.grow()
	}
	sig, n := x.of.get(row), int32(x.rowOf.len())
	for band := range x.bands {
		key := sig.Key(band, x.rows)
		s := &x.slots.at[x.slot(key)]
		if s.last == 0 {
			x.used++
		}
		x.next.add(s.last)
		*s = nearSlot{key, n}
	}
}

// slot is the place of a key, or the free one where it belongs.
func (x *nearIndex) slot(key uint32) int {
	mask := len(x.slots.at) - 1
	for at := int(key>>x.shift) & mask; ; at = (at + 1) & mask {
		if s := x.slots.at[at]; s.last == 0 || s.key == key {
			return at
		}
	}
}

func (x *nearIndex) grow() {
	old := x.slots
	x.slots = newVector[nearSlot](old.beside, 2*len(old.at))
	x.shift = max(x.shift-1, 0)
	for _, s := range old.at {
		if s.last != 0 {
			x.slots.at[x.slot(s.key)] = s
		}
	}
	old.close()
}

func (x *nearIndex) close() {
	if x != nil {
		x.rowOf.close()
		x.next.close()
		x.slots.close()
	}
}

// NearBytes is about how much room on disk the comparison of n rows takes; rows of two
// answers take up to twice as much.
func (o *Options) NearBytes(n int64) int64 {
	if !o.Near() {
		return 0
	}
	bands, _ := minhash.Bands(o.DedupThreshold, o.DedupNumPerm)
	row := 2*int64(o.DedupNumPerm) + int64(unsafe.Sizeof(signed{}))
	if o.Dedup == "near" && o.Decontaminate == "near" { // a signature for each
		row *= 2
	}
	indexes := int64(0)
	if o.Dedup == "near" {
		indexes++
	}
	if o.Decontaminate == "near" { // of few rows, but which is not known before
		indexes++
	}
	row += indexes * int64(bands) * (4 + 2*int64(unsafe.Sizeof(nearSlot{})))
	return 2 * n * row // lists grow by doubling
}

// texts calls f with what the text of a sample says: all that its messages say but
// those of the system, which many rows share.
func (s *sample) texts(f func(text string)) {
	switch {
	case s.text != nil:
		f(*s.text)
	case s.chat != nil:
		for _, m := range s.chat.Messages {
			if role := m.Role(); role != "system" && role != "developer" {
				saidIn(m, f)
			}
		}
	default:
		f(s.prompt)
		f(s.completion)
	}
}

func saidIn(m chat.Message, f func(string)) {
	for i := range m.Len() {
		if k, v := m.At(i); k != "role" {
			saysIn(v, f)
		}
	}
}

// saysIn calls f with the texts within a value.
func saysIn(v any, f func(string)) {
	switch v := v.(type) {
	case nil:
	case string:
		f(v)
	case []any:
		for _, e := range v {
			saysIn(e, f)
		}
	case *jinja.Dict:
		for i := range v.Len() {
			_, e := v.At(i)
			saysIn(e, f)
		}
	default:
		f(fmt.Sprint(v))
	}
}

// sign makes the signature of a row of samples, for dedup, and those of each of them,
// to find in an evaluation; of tokens each is a word. In the first, answers that are
// wanted are never like those that are not.
func sign(h *minhash.Hasher, o *Options, samples []sample) (row minhash.Signature, each []minhash.Signature) {
	texts := make([]minhash.Text, len(samples))
	for i := range samples {
		t := &texts[i]
		for _, id := range samples[i].ids {
			t.Words = append(t.Words, uint64(id)+1)
		}
		if samples[i].ids == nil {
			samples[i].texts(func(s string) { t.Words = minhash.AppendWords(t.Words, s) })
		}
	}
	if o.Decontaminate == "near" {
		for _, t := range texts {
			if sig := h.Sign(t); sig != nil {
				each = append(each, sig)
			}
		}
	}
	if o.Dedup == "near" {
		for i := range texts {
			texts[i].Seed = uint64(i)
			if samples[i].mark < 0 {
				texts[i].Seed = 2
			}
		}
		row = h.Sign(texts...)
	}
	return row, each
}

// Like is a row that is nearly the same as another.
type Like struct {
	RowRef
	Other      RowRef  `json:"other"`
	Similarity float64 `json:"similarity"`
}

// String is a line about the two rows.
func (l Like) String() string {
	return fmt.Sprintf("%s is like %s (%.2f)", l.RowRef, l.Other, l.Similarity)
}

// likes keeps the first of them.
func likes(list []Like, l Like) []Like {
	if len(list) < maxBad {
		list = append(list, l)
	}
	return list
}
