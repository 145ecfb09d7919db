//go:build !amd64

package block

import "github.com/tunekit/tunekit/kernels/dtype"

func laneEncoder(dtype.Kind) chunkEncoder { return nil }

// Finite reports whether no value is NaN or infinite.
func Finite(x []float32) bool { return plainFinite(x) }
