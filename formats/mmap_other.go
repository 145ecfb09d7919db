//go:build !unix

package formats

import "os"

const nonblock = 0

func mapFile(f *os.File, size int64) []byte { return nil }

func forgetPages(b []byte) {}

func unmapFile(b []byte) {}

func mappedAt(addr uintptr) string { return "" }
