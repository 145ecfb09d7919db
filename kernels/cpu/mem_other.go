//go:build !unix

package cpu

// mapMemory has no implementation here: blocks come from the Go heap.
func mapMemory(int) ([]byte, error) { return nil, nil }

func unmapMemory([]byte) {}

func forgetMemory([]byte) {}
