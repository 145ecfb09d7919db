//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package cli

import (
	"errors"
	"os"
)

// columns is the width of a terminal; this system does not say.
func columns(*os.File) int { return 0 }

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// rawMode is not known here: lines come as the system edits them.
func rawMode(*os.File) (restore func(), err error) { return nil, errors.ErrUnsupported }

// terminalColumns is not known here.
func terminalColumns(*os.File) int { return 0 }
