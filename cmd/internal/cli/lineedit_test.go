package cli

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

// typed is a reader whose terminal has these keys pressed.
func typed(keys string) (*lineReader, *bytes.Buffer) {
	var shown bytes.Buffer
	return &lineReader{in: bufio.NewReader(strings.NewReader(keys)), out: &shown, raw: func() (func(), error) { return func() {}, nil },
		columns: func() int { return 20 }}, &shown
}

func TestLineEdit(t *testing.T) {
	for _, c := range []struct {
		keys string
		want []string
	}{
		{"hello\r", []string{"hello"}},
		{"a\x1b[Db\r", []string{"ba"}},                // left
		{"grün\x7f\x7fen\r", []string{"gren"}},        // backspace takes a character
		{"one two\x17three\r", []string{"one three"}}, // Ctrl-W
		{"abc\x01\x0bx\r", []string{"x"}},             // Ctrl-A, Ctrl-K
		{"abc\x15x\r", []string{"x"}},                 // Ctrl-U
		{"ac\x01\x1b[Cb\x05d\r", []string{"abcd"}},    // Ctrl-A, right, Ctrl-E
		{"abc\x1b[H\x1b[3~\r", []string{"bc"}},        // Home, Delete
		{"first\rsecond\r\x1b[A\x1b[A!\r", []string{"first", "second", "first!"}},
		{"first\rnew\x1b[A\x1b[B er\r", []string{"first", "new er"}}, // down again: what was begun
		{"same\rsame\r\x1b[A\x1b[A\x1b[A\r", []string{"same", "same", "same"}},
		{"lost\x03kept\r", []string{"kept"}}, // Ctrl-C gives a line up
		{"x\x1b[5~y\r", []string{"xy"}},      // a key without meaning
		{"a\\\rb\r", []string{"a\nb"}},       // a paragraph
	} {
		l, _ := typed(c.keys)
		var got []string
		for {
			line, err := l.paragraph("> ")
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, line)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.keys, got, c.want)
		}
	}
	for _, end := range []string{"\x03", "\x04"} {
		l, _ := typed(end + "not read\r")
		if line, err := l.paragraph("> "); err != io.EOF {
			t.Errorf("%q: %q, %v", end, line, err)
		}
	}
}

// TestLineFits: a line longer than the terminal never wraps, and its cursor shows.
func TestLineFits(t *testing.T) {
	l, shown := typed(strings.Repeat("x", 50) + "END\r")
	if _, err := l.paragraph("> "); err != nil {
		t.Fatal(err)
	}
	frames := strings.Split(shown.String(), "\r\x1b[K")
	for _, f := range frames {
		f, _, _ = strings.Cut(strings.TrimRight(f, "\r\n"), "\x1b")
		if len(f) >= 20 {
			t.Errorf("a row of %d columns: %q", len(f), f)
		}
	}
	if last := frames[len(frames)-1]; !strings.Contains(last, "END") {
		t.Errorf("the end is not shown: %q", last)
	}
}

// TestNoTerminal: lines of a file come as they are.
func TestNoTerminal(t *testing.T) {
	l := &lineReader{in: bufio.NewReader(strings.NewReader("a\r\nb\\\nc")), out: io.Discard}
	for _, want := range []string{"a", "b\nc"} {
		if got, err := l.paragraph("> "); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
}
