package vec

import "github.com/tunekit/tunekit/kernels/internal/level"

// lanes is how many f32 a register of the table vectors holds.
const lanes = 4

var tables = [...]*table{level.Generic: &generic, level.NEON: &vectors}
