//go:build !linux

package cpu

// AvailableMemory is unknown here: there is no default limit.
func AvailableMemory() int64 { return 0 }
