package formats

import (
	"fmt"
	"strconv"

	"github.com/tunekit/tunekit/formats/fail"
)

const corruptHint = "the file is damaged or was not fully downloaded; fetch it again"

// corrupt reports a damaged or hostile file; where is the file, with a field
// where one is known. It wraps ErrCorrupt.
func corrupt(where, format string, args ...any) error {
	e := fail.Inputf(where, corruptHint, format, args...)
	e.Err = ErrCorrupt
	return e
}

// tooBig reports a count above one of the limits of this package. It wraps
// ErrCorrupt: no known model comes near.
func tooBig(where, format string, args ...any) error {
	e := fail.Limitf(where, "no known model comes near this limit; is the file damaged?", format, args...)
	e.Err = ErrCorrupt
	return e
}

// unsupported reports something valid that this program does not read.
func unsupported(where, hint, format string, args ...any) error {
	return fail.Inputf(where, hint, format, args...)
}

// quote makes a name from a file safe to print, and short.
func quote(s string) string {
	if len(s) > 120 {
		return strconv.Quote(s[:120]) + fmt.Sprintf("… (%d bytes)", len(s))
	}
	return strconv.Quote(s)
}
