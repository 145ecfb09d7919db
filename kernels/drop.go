package kernels

// Dropout is a function, so that every backend drops the same elements: column
// c of the token with key k is kept when DropWord(d.DropRow(k), c) ≥ P·2³², and
// then scaled by 1/(1-P). The words are SplitMix64 (Steele, Lea, Flood 2014)
// seeded by the row, two columns to a 64-bit word, low half first.

const golden = 0x9e3779b97f4a7c15

// mix is the output function of SplitMix64.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// DropSeed is what DropRow mixes with a key.
func (d *Drop) DropSeed() uint64 {
	return mix(mix(d.Seed+golden) ^ (uint64(d.Step)<<32 | uint64(d.Site)))
}

// DropRow is the seed of one token's row.
func (d *Drop) DropRow(key int64) uint64 { return mix(d.DropSeed() ^ uint64(key)) }

// DropCounter is the state of SplitMix64 for columns c and c+1 of a row, c even.
func DropCounter(row uint64, c int) uint64 { return row + golden*uint64(c/2+1) }

// DropWord is the random word of column c of a row.
func DropWord(row uint64, c int) uint32 {
	return uint32(mix(DropCounter(row, c)) >> (32 * uint(c%2)))
}

// DropThreshold returns the word from which on an element is kept, and the
// factor of kept elements. P must lie in [0, 1).
func (d *Drop) DropThreshold() (threshold uint32, scale float32) {
	if !(d.P >= 0 && d.P < 1) {
		panic("kernels: dropout probability outside [0, 1)")
	}
	return uint32(float64(d.P) * (1 << 32)), 1 / (1 - d.P)
}

// Apply drops and scales x, the columns from col on of the token with key.
func (d *Drop) Apply(x []float32, key int64, col int) {
	threshold, scale := d.DropThreshold()
	row := d.DropRow(key)
	for i := range x {
		if DropWord(row, col+i) < threshold {
			x[i] = 0
		} else {
			x[i] *= scale
		}
	}
}
