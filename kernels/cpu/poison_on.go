//go:build invariants

package cpu

// poison fills freed memory with NaN, so that use after Free shows.
func poison(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}
