package kernels

import "unsafe"

// Bytes views v as the bytes that Upload and Download take, in the order of this
// machine. They are v's own memory; nil for an empty v.
func Bytes[T float32 | float64 | int32 | int64 | uint16](v []T) []byte {
	if len(v) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), len(v)*int(unsafe.Sizeof(v[0])))
}
