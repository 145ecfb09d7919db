// Package lanes holds the AVX-512 kernels of package block's encoders: generated
// functions that do to 16 sub-blocks at a time what the plain code there does to
// one, operation by operation, so that the bytes are the same.
package lanes
