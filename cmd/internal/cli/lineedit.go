package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
)

// lineReader reads lines of a person: on a terminal with a cursor and a history,
// else as they come.
type lineReader struct {
	in      *bufio.Reader
	out     io.Writer
	raw     func() (restore func(), err error) // nil: no terminal
	columns func() int
	history []string
}

// newLineReader reads f and shows what is typed on out.
func newLineReader(f *os.File, out io.Writer) *lineReader {
	l := &lineReader{in: bufio.NewReaderSize(f, 1<<16), out: out}
	if isTerminal(f) && os.Getenv("TERM") != "dumb" {
		l.raw = func() (func(), error) { return rawMode(f) }
		l.columns = func() int { return max(terminalColumns(f), 20) }
	}
	return l
}

// paragraph reads lines up to one that does not end in a backslash.
func (l *lineReader) paragraph(prompt string) (string, error) {
	var b strings.Builder
	for {
		line, err := l.line(prompt)
		if err != nil {
			return b.String(), err
		}
		more, goesOn := strings.CutSuffix(line, `\`)
		b.WriteString(more)
		if !goesOn {
			return b.String(), nil
		}
		b.WriteByte('\n')
		prompt = "… "
	}
}

func (l *lineReader) line(prompt string) (string, error) {
	if l.raw != nil {
		if restore, err := l.raw(); err == nil {
			defer restore()
			line, err := l.edit(prompt)
			fmt.Fprint(l.out, "\r\n")
			return line, err
		}
	}
	fmt.Fprint(l.out, prompt)
	raw, err := readLine(l.in)
	return strings.TrimRight(string(raw), "\r\n"), err
}

// editor is a line that is being typed.
type editor struct {
	text []rune
	at   int // of the cursor
}

func (e *editor) insert(r rune) {
	e.text = slices.Insert(e.text, e.at, r)
	e.at++
}

// cut removes from i to the cursor, or from the cursor to i.
func (e *editor) cut(i int) {
	i = min(max(i, 0), len(e.text))
	lo, hi := min(i, e.at), max(i, e.at)
	e.text, e.at = slices.Delete(e.text, lo, hi), lo
}

// wordStart is where the word before the cursor begins.
func (e *editor) wordStart() int {
	i := e.at
	for i > 0 && unicode.IsSpace(e.text[i-1]) {
		i--
	}
	for i > 0 && !unicode.IsSpace(e.text[i-1]) {
		i--
	}
	return i
}

// control characters of line editing, as in a shell.
const (
	ctrlA, ctrlB, ctrlC, ctrlD, ctrlE, ctrlF = 1, 2, 3, 4, 5, 6
	ctrlH, ctrlK, ctrlN, ctrlP, ctrlU, ctrlW = 8, 11, 14, 16, 21, 23
	escape, backspace                        = 27, 127
)

// escapes are the keys that a terminal sends as several characters.
var escapes = map[string]rune{
	"[A": ctrlP, "[B": ctrlN, "[C": ctrlF, "[D": ctrlB, "[H": ctrlA, "[F": ctrlE, "[3~": ctrlD, "[1~": ctrlA, "[4~": ctrlE,
	"OA": ctrlP, "OB": ctrlN, "OC": ctrlF, "OD": ctrlB, "OH": ctrlA, "OF": ctrlE,
}

// edit reads one line in raw mode. Ctrl-C on an empty line ends like Ctrl-D, else
// it gives the line up.
func (l *lineReader) edit(prompt string) (string, error) {
	var e editor
	now, kept := len(l.history), ""
	browse := func(to int) {
		if to < 0 || to > len(l.history) {
			return
		}
		if now == len(l.history) {
			kept = string(e.text)
		}
		now = to
		line := kept
		if now < len(l.history) {
			line = l.history[now]
		}
		e = editor{text: []rune(line)}
		e.at = len(e.text)
	}
	for {
		l.draw(prompt, &e)
		r, fromKey, err := l.key()
		if err != nil {
			return string(e.text), err
		}
		switch r {
		case '\r', '\n':
			line := string(e.text)
			if strings.TrimSpace(line) != "" && (len(l.history) == 0 || l.history[len(l.history)-1] != line) {
				l.history = append(l.history, line)
			}
			return line, nil
		case ctrlC:
			if len(e.text) == 0 {
				return "", io.EOF
			}
			e = editor{}
		case ctrlD:
			if len(e.text) == 0 && !fromKey {
				return "", io.EOF
			}
			e.cut(e.at + 1)
		case ctrlA:
			e.at = 0
		case ctrlE:
			e.at = len(e.text)
		case ctrlB:
			e.at = max(e.at-1, 0)
		case ctrlF:
			e.at = min(e.at+1, len(e.text))
		case ctrlP:
			browse(now - 1)
		case ctrlN:
			browse(now + 1)
		case ctrlH, backspace:
			e.cut(e.at - 1)
		case ctrlU:
			e.cut(0)
		case ctrlK:
			e.cut(len(e.text))
		case ctrlW:
			e.cut(e.wordStart())
		default:
			if r == '\t' || unicode.IsPrint(r) {
				e.insert(r)
			}
		}
	}
}

// key reads one character, or what a key of several stands for.
func (l *lineReader) key() (r rune, fromKey bool, err error) {
	if r, _, err = l.in.ReadRune(); err != nil || r != escape {
		return r, false, err
	}
	var seq strings.Builder
	for {
		b, err := l.in.ReadByte()
		if err != nil {
			return 0, true, err
		}
		seq.WriteByte(b)
		if s := seq.String(); len(s) > 1 && (b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z' || b == '~') || len(s) == 1 && b != '[' && b != 'O' {
			return escapes[s], true, nil // unknown ones are 0 and do nothing
		}
	}
}

// draw shows the part of the line around the cursor that fits into one row.
func (l *lineReader) draw(prompt string, e *editor) {
	room := l.columns() - len([]rune(prompt)) - 1
	from := max(0, e.at-room)
	shown := e.text[from:min(len(e.text), from+room)]
	fmt.Fprintf(l.out, "\r\x1b[K%s%s", prompt, strings.ReplaceAll(string(shown), "\t", " "))
	if back := from + len(shown) - e.at; back > 0 {
		fmt.Fprintf(l.out, "\x1b[%dD", back)
	}
}
