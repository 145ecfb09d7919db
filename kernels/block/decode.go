package block

import "fmt"

// Decode writes n elements of m from (row, col) into dst[:n]. col and n are
// multiples of Info.Unit of the type (n may also end at the row's end). It is
// called from many goroutines and allocates nothing.
func Decode(dst []float32, m Raw, row, col, n int) {
	panic(fmt.Sprintf("block: Decode of %v", m.Type))
}
