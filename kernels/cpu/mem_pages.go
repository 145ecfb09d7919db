//go:build unix && !linux

package cpu

// largePages leaves the choice to the operating system.
func largePages([]byte) {}
