//go:build !linux

package recipes

// AvailableMemory is unknown here: no limit is set unless one is given.
func AvailableMemory() int64 { return 0 }
