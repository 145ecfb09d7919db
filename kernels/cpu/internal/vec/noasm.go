//go:build !amd64 && !arm64

package vec

import "github.com/tunekit/tunekit/kernels/internal/level"

var tables = [...]*table{level.Generic: &generic}
