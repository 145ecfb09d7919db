package cli

import (
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"unicode/utf8"

	"github.com/tunekit/tunekit/formats/fail"
)

// console is standard output. It keeps the first error, so that a full disk or a
// closed pipe is never taken for success, and writes control characters, which
// come from files and would be orders to a terminal, as JSON escapes them.
type console struct {
	w     io.Writer
	err   error
	wrote bool // anything at all
}

func (c *console) Write(p []byte) (int, error) {
	c.wrote = c.wrote || len(p) > 0
	if c.err == nil {
		_, c.err = io.WriteString(c.w, harmless(string(p)))
	}
	if c.err != nil {
		return 0, c.err
	}
	return len(p), nil
}

// failure is what kept the output from being written whole, nil for nothing.
func (c *console) failure() error {
	if c.err == nil {
		return nil
	}
	return fail.Limitf("standard output", "free space, or write elsewhere", "%w", c.err)
}

// colours writes as it is what the program itself has coloured.
type colours struct{ *console }

func (c colours) Write(p []byte) (n int, err error) {
	if c.err == nil {
		n, c.err = c.w.Write(p)
	}
	return n, c.err
}

// coloured is w without its protection against control characters.
func coloured(w io.Writer) io.Writer {
	if c, ok := w.(*console); ok {
		return colours{c}
	}
	return w
}

// harmless is s with control characters as \u001b, which leaves JSON what it was.
// Bytes that are no UTF-8 stay: a terminal shows them as such.
func harmless(s string) string {
	control := func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r <= 0x9f }
	if strings.IndexFunc(s, control) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if control(r) {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// crashed makes an error of a panic: exit code 1, so that nobody takes a fault
// of the program for one of a recipe.
func crashed(r any) error {
	return &fail.Error{Kind: fail.Internal, Msg: fmt.Sprintf("internal error: %v\n%s", r, debug.Stack()),
		Hint: "this is a fault of the program; nothing is half-written"}
}
