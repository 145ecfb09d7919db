package tokenizer

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2/v2"
)

// A splitter cuts a piece of text into smaller ones, in order. It may change
// the text (Metaspace writes ▁ for a space). first says whether the piece
// begins the text.
type splitter interface {
	split(s string, first bool, emit func(piece string, first bool))
}

// gpt2Pattern is what ByteLevel splits by.
const gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// The patterns with hand-written splitters.
const (
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2Pattern  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	digitPattern  = `\p{N}`
	digitsPattern = `\p{N}+`
	digits3       = `\p{N}{1,3}`
)

// spelledCase is how llama.cpp writes the contractions of llama3Pattern.
const spelledCase = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`

// canonicalPattern maps spellings of one pattern to one.
func canonicalPattern(p string) string {
	p = strings.ReplaceAll(p, spelledCase, `(?i:'s|'t|'re|'ve|'m|'ll|'d)`)
	p = strings.ReplaceAll(p, "\r", `\r`)
	p = strings.ReplaceAll(p, "\n", `\n`)
	p = strings.ReplaceAll(p, `(?:$|[^\S])`, `(?!\S)`)
	if p == strings.TrimSuffix(gpt2Pattern, `|\s+`) {
		return gpt2Pattern // what is left over becomes a piece anyway
	}
	return p
}

// newPatternSplitter returns the splitter that isolates the matches of a
// regular expression.
func newPatternSplitter(pattern string) (splitter, error) {
	switch canonicalPattern(pattern) {
	case gpt2Pattern:
		return gpt2Splitter{}, nil
	case llama3Pattern:
		return llama3Splitter{maxDigits: 3}, nil
	case qwen2Pattern:
		return llama3Splitter{maxDigits: 1}, nil
	case digitPattern:
		return digitSplitter{max: 1}, nil
	case digits3:
		return digitSplitter{max: 3}, nil
	case digitsPattern:
		return digitSplitter{max: 1 << 30}, nil
	}
	return newRegexSplitter(pattern, "Isolated", false)
}

// maxPattern bounds a regular expression in a tokenizer file, in bytes.
const maxPattern = 64 << 10

func compilePattern(pattern string) (*regexp2.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("a pattern of %d bytes is longer than %d", len(pattern), maxPattern)
	}
	if err := portable(pattern); err != nil {
		return nil, fmt.Errorf("pattern %q: %w", clip(pattern), err)
	}
	re, err := regexp2.Compile(wordClasses(pattern), regexp2.Multiline, regexp2.OptionMaxBacktrackingStackSize(1<<24))
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", clip(pattern), err)
	}
	re.MatchTimeout = 2 * time.Second
	return re, nil
}

// portable refuses what the reference's engine (Oniguruma, Ruby's syntax) and
// ours read differently: sets inside sets, intersections, {,n}. Its ^ and $ are
// those of lines, which the Multiline option gives.
func portable(pattern string) error {
	inSet := false
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '\\':
			if i++; inSet && i < len(pattern) && pattern[i] == 'W' {
				return fmt.Errorf("\\W inside a set is not supported")
			}
		case !inSet && c == '[':
			inSet = true
			if strings.HasPrefix(pattern[i+1:], "^") {
				i++
			}
			if strings.HasPrefix(pattern[i+1:], "]") {
				return fmt.Errorf("an unescaped ] begins a set")
			}
		case inSet && c == ']':
			inSet = false
		case inSet && c == '[':
			return fmt.Errorf("a set inside a set is not supported")
		case inSet && strings.HasPrefix(pattern[i:], "&&"):
			return fmt.Errorf("an intersection of sets is not supported")
		case !inSet && strings.HasPrefix(pattern[i:], "{,"):
			return fmt.Errorf("{,n} is not supported; write {0,n}")
		}
	}
	return nil
}

// wordChars are the characters of \w in the reference's engine, as contents of a set: letters
// and what counts as one, marks, digits, connectors, and the numbers of Latin 1.
var wordChars = `\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}²³¹¼-¾\u24B6-\u24E9` + "\U0001F130-\U0001F149\U0001F150-\U0001F169\U0001F170-\U0001F189" +
	youngRanges("L") + youngRanges("M") + youngRanges("N")

// namedClass is the first \p{name} or \P{name} of a pattern.
var namedClass = regexp.MustCompile(`^\\[pP]\{(\w+)\}`)

// wordClasses writes out \w, \W, \b, \B, \d, \D, \p{name} and \P{name}, which ours takes for
// fewer characters; \D and \P{name} stay in a set.
func wordClasses(pattern string) string {
	in, out := "["+wordChars+"]", "[^"+wordChars+"]"
	var b strings.Builder
	inSet := false
	for i := 0; i < len(pattern); i++ {
		c := pattern[i]
		if c != '\\' || i+1 == len(pattern) {
			inSet = c == '[' || inSet && c != ']'
			b.WriteByte(c)
			continue
		}
		name, class := "Nd", pattern[i:i+2]
		if m := namedClass.FindStringSubmatch(pattern[i:]); m != nil {
			class, name = m[0], m[1]
		}
		if e := class[1]; strings.IndexByte("dDpP", e) >= 0 && (e == 'd' || e == 'D' || len(class) > 2) {
			young := youngRanges(name)
			i += len(class) - 1
			switch {
			case young == "" || inSet && (e == 'D' || e == 'P'):
				b.WriteString(class)
			case inSet:
				b.WriteString(class + young + class) // no range with what stands beside it
			case e == 'D' || e == 'P':
				b.WriteString("[^" + strings.ToLower(class[:2]) + class[2:] + young + "]")
			default:
				b.WriteString("[" + class + young + "]")
			}
			continue
		}
		i++
		switch e := pattern[i]; {
		case e == 'w' && inSet:
			b.WriteString(wordChars + `\p{L}`)
		case e == 'w':
			b.WriteString(in)
		case e == 'W' && !inSet:
			b.WriteString(out)
		case e == 'b' && !inSet:
			b.WriteString("(?:(?<=" + in + ")(?!" + in + ")|(?<!" + in + ")(?=" + in + "))")
		case e == 'B' && !inSet:
			b.WriteString("(?:(?<=" + in + ")(?=" + in + ")|(?<!" + in + ")(?!" + in + "))")
		default:
			b.WriteString(pattern[i-1 : i+1])
		}
	}
	return b.String()
}

// regexSplitter splits by any regular expression; behavior is the file's word
// for what happens to matches.
type regexSplitter struct {
	re       *regexp2.Regexp
	behavior string
	invert   bool
}

func newRegexSplitter(pattern, behavior string, invert bool) (splitter, error) {
	re, err := compilePattern(pattern)
	if err != nil {
		return nil, err
	}
	return newBehavior(&regexSplitter{re: re, behavior: behavior, invert: invert})
}

func newBehavior(r *regexSplitter) (splitter, error) {
	switch r.behavior {
	case "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous":
		return r, nil
	}
	return nil, fmt.Errorf("split behavior %q is unknown", clip(r.behavior))
}

// errPattern carries a failed match out of the splitters.
type errPattern struct{ err error }

// span is a piece [lo, hi) of a string and whether it matched.
type span struct {
	lo, hi int
	match  bool
}

// matches covers s with matches, of which some are empty, and the gaps between them.
func (r *regexSplitter) matches(s string) []span {
	runes := []rune(s)
	at := make([]int, 0, len(runes)+1) // byte offset of each rune
	for i := range s {
		at = append(at, i)
	}
	at = append(at, len(s))
	var out []span
	last, end := 0, -1 // where the last match ended
	err := r.re.FindRunesMatches(runes, -1, func(v regexp2.MatchView) bool {
		i, n, _ := v.GroupRange(0)
		lo, hi := at[i], at[i+n]
		if lo > last {
			out = append(out, span{last, lo, r.invert})
		}
		if hi > lo || lo != end {
			out = append(out, span{lo, hi, !r.invert})
		}
		last, end = hi, hi
		return true
	})
	if err != nil {
		panic(errPattern{fmt.Errorf("pre-tokenizer pattern %q on %q: %w", clip(r.re.String()), clip(s), err)})
	}
	if last < len(s) {
		out = append(out, span{last, len(s), r.invert})
	}
	return out
}

func (r *regexSplitter) split(s string, first bool, emit func(string, bool)) {
	splitSpans(s, r.matches(s), r.behavior, first, emit)
}

// splitSpans cuts s at the spans as a behavior says.
func splitSpans(s string, spans []span, behavior string, first bool, emit func(string, bool)) {
	spans = mergeSpans(spans, behavior)
	for _, p := range spans {
		if p.hi > p.lo && !(p.match && behavior == "Removed") {
			emit(s[p.lo:p.hi], first && p.lo == 0)
		}
	}
}

func mergeSpans(spans []span, behavior string) []span {
	var out []span
	prev := false
	switch behavior {
	case "MergedWithPrevious":
		for _, p := range spans {
			if p.match && !prev && len(out) > 0 {
				out[len(out)-1].hi = p.hi
			} else {
				out = append(out, p)
			}
			prev = p.match
		}
	case "MergedWithNext":
		for i := len(spans) - 1; i >= 0; i-- {
			p := spans[i]
			if p.match && !prev && len(out) > 0 {
				out[len(out)-1].lo = p.lo
			} else {
				out = append(out, p)
			}
			prev = p.match
		}
		for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
			out[i], out[j] = out[j], out[i]
		}
	case "Contiguous":
		for i, p := range spans {
			if i > 0 && p.match == prev {
				out[len(out)-1].hi = p.hi
			} else {
				out = append(out, p)
			}
			prev = p.match
		}
	default:
		return spans
	}
	return out
}

// literalSplitter splits by a fixed string.
type literalSplitter struct {
	sep, behavior string
	invert        bool
}

func (l literalSplitter) split(s string, first bool, emit func(string, bool)) {
	var spans []span
	last := 0
	for l.sep != "" {
		i := strings.Index(s[last:], l.sep)
		if i < 0 {
			break
		}
		if i > 0 {
			spans = append(spans, span{last, last + i, l.invert})
		}
		spans = append(spans, span{last + i, last + i + len(l.sep), !l.invert})
		last += i + len(l.sep)
	}
	if last < len(s) {
		spans = append(spans, span{last, len(s), l.invert})
	}
	splitSpans(s, spans, l.behavior, first, emit)
}

// charSplitter splits by a property of single characters.
type charSplitter struct {
	is       func(rune) bool
	behavior string
}

func (c charSplitter) split(s string, first bool, emit func(string, bool)) {
	var spans []span
	gap := 0
	for i, r := range s {
		if !c.is(r) {
			continue
		}
		n := runeLen(s, i, r)
		if i > gap {
			spans = append(spans, span{gap, i, false})
		}
		spans = append(spans, span{i, i + n, true})
		gap = i + n
	}
	if gap < len(s) {
		spans = append(spans, span{gap, len(s), false})
	}
	splitSpans(s, spans, c.behavior, first, emit)
}

func runeLen(s string, i int, r rune) int {
	if r == utf8.RuneError {
		_, n := utf8.DecodeRuneInString(s[i:])
		return n
	}
	return utf8.RuneLen(r)
}

// metaspace writes ▁ for spaces, before the text as scheme says, and cuts
// before every ▁.
type metaspace struct {
	mark   string
	scheme string // "always", "first", "never"
	cut    bool
}

func (m metaspace) split(s string, first bool, emit func(string, bool)) {
	s = strings.ReplaceAll(s, " ", m.mark)
	if m.scheme == "always" || m.scheme == "first" && first {
		if !strings.HasPrefix(s, m.mark) {
			s = m.mark + s
		}
	}
	if !m.cut {
		emit(s, first)
		return
	}
	literalSplitter{sep: m.mark, behavior: "MergedWithNext"}.split(s, first, emit)
}

// spacePrefix is ByteLevel's add_prefix_space.
type spacePrefix struct{}

func (spacePrefix) split(s string, first bool, emit func(string, bool)) {
	if !strings.HasPrefix(s, " ") {
		s = " " + s
	}
	emit(s, first)
}

// byteSpeller writes bytes as GPT-2 spells them.
type byteSpeller struct{}

func (byteSpeller) split(s string, first bool, emit func(string, bool)) { emit(byteSpelled(s), first) }

// splitClasses cuts where the class of characters changes, and drops what has class 0.
func splitClasses(s string, first bool, class func(rune) int, emit func(string, bool)) {
	start, last := 0, 0
	for i, r := range s {
		c := class(r)
		if i > 0 && c != last {
			if last != 0 {
				emit(s[start:i], first && start == 0)
			}
			start = i
		}
		last = c
	}
	if last != 0 {
		emit(s[start:], first && start == 0)
	}
}

// wordSplitter finds words and runs of other characters that are not white, as the regular
// expression \w+|[^\w\s]+ does.
type wordSplitter struct{}

func (wordSplitter) split(s string, first bool, emit func(string, bool)) {
	splitClasses(s, first, func(r rune) int {
		switch {
		case isWordRune(r):
			return 1
		case unicode.IsSpace(r):
			return 0
		}
		return 2
	}, emit)
}

// lengthSplitter cuts after every n characters.
type lengthSplitter struct{ n int }

func (l lengthSplitter) split(s string, first bool, emit func(string, bool)) {
	start, n := 0, 0
	for i := range s {
		if n == l.n {
			emit(s[start:i], first && start == 0)
			start, n = i, 0
		}
		n++
	}
	if start < len(s) {
		emit(s[start:], first && start == 0)
	}
}
