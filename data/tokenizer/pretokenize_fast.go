package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// Character classes of the hand-written splitters.
const (
	classOther = iota
	classLetter
	classNumber
	classSpace
)

var asciiClass = func() (t [utf8.RuneSelf]uint8) {
	for r := range rune(utf8.RuneSelf) {
		t[r] = slowClass(r)
	}
	return t
}()

func slowClass(r rune) uint8 {
	switch {
	case unicode.IsLetter(r):
		return classLetter
	case unicode.IsNumber(r):
		return classNumber
	case unicode.IsSpace(r):
		return classSpace
	case inTable(youngLetters, r):
		return classLetter
	case inTable(youngNumbers, r):
		return classNumber
	}
	return classOther
}

// classAt is the class and the width of the character at s[i]; width 0 at the
// end.
func classAt(s string, i int) (uint8, int) {
	if i >= len(s) {
		return classOther, 0
	}
	if c := s[i]; c < utf8.RuneSelf {
		return asciiClass[c], 1
	}
	r, w := utf8.DecodeRuneInString(s[i:])
	return slowClass(r), w
}

// run returns the end of the characters of one class from s[i] on.
func run(s string, i int, class uint8) int {
	for {
		c, w := classAt(s, i)
		if w == 0 || c != class {
			return i
		}
		i += w
	}
}

// spaces returns where the run of white space at i is cut by `\s+(?!\S)|\s+`:
// before its last character when text follows.
func spaces(s string, i int) int {
	last, end := i, i
	for {
		c, w := classAt(s, end)
		if w == 0 {
			return end
		}
		if c != classSpace {
			if last > i {
				return last
			}
			return end
		}
		last = end
		end += w
	}
}

// llama3Splitter is llama3Pattern (maxDigits 3) and qwen2Pattern (1).
type llama3Splitter struct{ maxDigits int }

func (l llama3Splitter) split(s string, first bool, emit func(string, bool)) {
	for i := 0; i < len(s); {
		j := l.next(s, i)
		emit(s[i:j], first && i == 0)
		i = j
	}
}

func (l llama3Splitter) next(s string, i int) int {
	if s[i] == '\'' {
		if n := foldedContraction(s[i+1:]); n > 0 {
			return i + 1 + n
		}
	}
	c, w := classAt(s, i)
	switch {
	case c == classLetter:
		return run(s, i+w, classLetter)
	case c == classNumber:
		return l.digits(s, i)
	case s[i] != '\r' && s[i] != '\n':
		if c2, w2 := classAt(s, i+w); w2 > 0 && c2 == classLetter {
			return run(s, i+w+w2, classLetter)
		}
	}
	if j := symbols(s, i); j > i {
		for j < len(s) && (s[j] == '\r' || s[j] == '\n') {
			j++
		}
		return j
	}
	return newlines(s, i)
}

func (l llama3Splitter) digits(s string, i int) int {
	for range l.maxDigits {
		c, w := classAt(s, i)
		if w == 0 || c != classNumber {
			break
		}
		i += w
	}
	return i
}

// symbols is the end of ` ?[^\s\p{L}\p{N}]+` at i, or i.
func symbols(s string, i int) int {
	j := i
	if s[i] == ' ' {
		j++
	}
	if k := run(s, j, classOther); k > j {
		return k
	}
	return i
}

// newlines is the end of `\s*[\r\n]+|\s+(?!\S)|\s+` at i.
func newlines(s string, i int) int {
	end, j := -1, i
	for {
		c, w := classAt(s, j)
		if w == 0 || c != classSpace {
			break
		}
		if s[j] == '\r' || s[j] == '\n' {
			end = j + 1
		}
		j += w
	}
	if end > 0 {
		return end
	}
	return spaces(s, i)
}

// foldedContraction is the length of s, t, re, ve, m, ll or d at the start of
// s in any case; U+017F folds to s.
func foldedContraction(s string) int {
	a, n := foldAt(s, 0)
	switch a {
	case 's', 't', 'm', 'd':
		return n
	case 'r', 'v', 'l':
		b, m := foldAt(s, n)
		if b == 'e' && a != 'l' || b == 'l' && a == 'l' {
			return n + m
		}
	}
	return 0
}

func foldAt(s string, i int) (byte, int) {
	if i >= len(s) {
		return 0, 0
	}
	c := s[i]
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A', 1
	case c < utf8.RuneSelf:
		return c, 1
	case len(s) > i+1 && c == 0xC5 && s[i+1] == 0xBF:
		return 's', 2
	}
	return 0, 1
}

// gpt2Splitter is gpt2Pattern.
type gpt2Splitter struct{}

func (gpt2Splitter) split(s string, first bool, emit func(string, bool)) {
	for i := 0; i < len(s); {
		j := gpt2Next(s, i)
		emit(s[i:j], first && i == 0)
		i = j
	}
}

func gpt2Next(s string, i int) int {
	if s[i] == '\'' {
		if n := contraction(s[i+1:]); n > 0 {
			return i + 1 + n
		}
	}
	j := i
	if s[i] == ' ' {
		j++
	}
	c, w := classAt(s, j)
	if w > 0 && c != classSpace {
		return run(s, j+w, c)
	}
	return spaces(s, i)
}

func contraction(s string) int {
	if s == "" {
		return 0
	}
	switch s[0] {
	case 's', 't', 'm', 'd':
		return 1
	}
	if len(s) < 2 {
		return 0
	}
	switch s[:2] {
	case "re", "ve", "ll":
		return 2
	}
	return 0
}

// digitSplitter isolates runs of up to max numbers: those of \p{N}, or Rust's.
type digitSplitter struct {
	max  int
	rust bool
}

func (d digitSplitter) split(s string, first bool, emit func(string, bool)) {
	start := 0
	for i := 0; i < len(s); {
		j := i
		for range d.max {
			w := d.at(s, j)
			if w == 0 {
				break
			}
			j += w
		}
		if j == i {
			_, w := classAt(s, i)
			i += w
			continue
		}
		if i > start {
			emit(s[start:i], first && start == 0)
		}
		emit(s[i:j], first && i == 0)
		i, start = j, j
	}
	if start < len(s) {
		emit(s[start:], first && start == 0)
	}
}

// at is the width of the number at s[i], 0 where there is none.
func (d digitSplitter) at(s string, i int) int {
	c, w := classAt(s, i)
	if c == classOther && d.rust && w > 1 {
		if r, _ := utf8.DecodeRuneInString(s[i:]); isNumeric(r) {
			return w
		}
	}
	if c == classNumber {
		return w
	}
	return 0
}
