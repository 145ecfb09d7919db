//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package cli

import "os"

// columns is the width of a terminal; this system does not say.
func columns(*os.File) int { return 0 }

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
