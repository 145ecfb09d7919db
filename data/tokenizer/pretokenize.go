package tokenizer

import (
	"cmp"
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

// portable refuses what the reference's engine (Oniguruma) and ours read differently. Its ^
// and $ are those of lines, which the Multiline option gives.
func portable(pattern string) error {
	type group struct {
		folds  bool // ignores case
		atomic bool // something in it gives nothing back
	}
	inSet, folded := false, false
	var here, closed group // the innermost, and the one that ended just now
	var around []group
	var before byte // a literal
	for i := 0; i < len(pattern); i++ {
		rest, last, ended := pattern[i:], before, closed
		before, closed = 0, group{}
		switch c := pattern[i]; {
		case c == '\\' && len(rest) > 1:
			i++
			switch e := rest[1]; {
			case (e == 'p' || e == 'P') && !strings.HasPrefix(rest[2:], "{"):
				return fmt.Errorf("\\%c without braces is a letter to the reference; write \\%c{L}", e, e)
			case e == 'p' || e == 'P':
				i += max(strings.IndexByte(rest, '}'), 1) - 1
				if m := namedClass.FindStringSubmatch(rest); here.folds && m != nil && casedClass(m[1]) {
					return fmt.Errorf("(?i) on %s takes the characters of the other cases in the reference, too, which is not supported", m[0])
				}
			case e == 'Q':
				return fmt.Errorf("\\Q is a letter to the reference; write Q")
			}
		case !inSet && c == '[':
			inSet = true
			if strings.HasPrefix(rest, "[^") {
				i++
			}
			if strings.HasPrefix(pattern[i+1:], "]") {
				return fmt.Errorf("an unescaped ] begins a set")
			}
		case inSet && c == ']':
			inSet = false
		case inSet && c == '[':
			return fmt.Errorf("a set inside a set is not supported")
		case inSet && strings.HasPrefix(rest, "&&"):
			return fmt.Errorf("an intersection of sets is not supported")
		case inSet:
		case strings.HasPrefix(rest, "{,"):
			return fmt.Errorf("{,n} is not supported; write {0,n}")
		case c == '{':
			if m := oddInterval.FindString(rest); m != "" {
				return fmt.Errorf("%s repeats x%s to the reference; write (?:x%s)%s", m, m[:len(m)-1], m[:len(m)-1], m[len(m)-1:])
			}
			if ended.atomic {
				return fmt.Errorf("a number of times an atomic group is not supported")
			}
		case c == '(':
			m := optionGroup.FindStringSubmatch(rest)
			if m == nil {
				around = append(around, here)
				here.atomic = strings.HasPrefix(rest, "(?>")
				break
			}
			if strings.Trim(m[1], "imx-") != "" {
				return fmt.Errorf("%s: options other than i, m and x are not supported", m[0])
			}
			if m[2] == ":" {
				around = append(around, here)
				here.atomic = false
			} else if i > 0 && strings.IndexByte("(:|", pattern[i-1]) < 0 {
				return fmt.Errorf("%s inside an alternative takes those behind it along in the reference; write (?%s:…)", m[0], m[1])
			}
			on, off, _ := strings.Cut(m[1], "-")
			here.folds = (here.folds || strings.Contains(on, "i")) && !strings.Contains(off, "i")
			folded = folded || here.folds
			i += len(m[0]) - 1
		case c == ')' && len(around) > 0:
			closed = here
			here, around = around[len(around)-1], around[:len(around)-1]
			here.atomic = here.atomic || closed.atomic
		default:
			if c == '+' && i > 0 && strings.IndexByte("+*?", pattern[i-1]) >= 0 {
				here.atomic = true
			}
			if pair := strings.ToLower(string([]byte{last, c})); here.folds && strings.Contains(" ss st ff fi fl ", " "+pair+" ") {
				return fmt.Errorf("(?i) on %s takes one character (ß, ﬆ, ﬁ) in the reference, too, which is not supported", pair)
			}
			before = c
		}
	}
	if i := strings.IndexFunc(pattern, func(r rune) bool { return inTable(foldsToMore, r) }); folded && i >= 0 {
		r, _ := utf8.DecodeRuneInString(pattern[i:])
		return fmt.Errorf("(?i) on %c takes several characters in the reference, too, which is not supported", r)
	}
	return nil
}

// casedClass reports whether a category holds some characters without those of the other case,
// as that of letters does, of which the mark U+0345 is one in small.
func casedClass(name string) bool {
	name = cmp.Or(longNames[name], name)
	return name == "L" || name == "LC" || name == "Lu" || name == "Ll" || name == "Lt" || name == "M" || name == "Mn" || strings.Contains(name, "case")
}

// foldsToMore are the characters whose case folds to several (CaseFolding.txt, status F).
var foldsToMore = runeTable("df 130 149 1f0 390 3b0 587 1e96-1e9a 1e9e 1f50 1f52 1f54 1f56 1f80-1faf 1fb2-1fb4 1fb6-1fb7 1fbc 1fc2-1fc4 1fc6-1fc7 1fcc 1fd2-1fd3 1fd6-1fd7 1fe2-1fe4 1fe6-1fe7 1ff2-1ff4 1ff6-1ff7 1ffc fb00-fb06 fb13-fb17")

// oddInterval is a repetition {n}? or {n,m}+, which is possessive or sparing to other
// engines, and optionGroup the head of a group with options.
var (
	oddInterval = regexp.MustCompile(`^\{(?:\d+\}\?|\d+(?:,\d*)?\}\+)`)
	optionGroup = regexp.MustCompile(`^\(\?([a-zA-Z]*(?:-[a-zA-Z]*)?)([:)])`)
)

// wordSet are the characters of \w in a set of the reference's engine, as contents of a set:
// letters and what counts as one, marks, digits and connectors. Outside of sets wordChars has the numbers of Latin 1, too.
var (
	wordSet = `\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\u24B6-\u24E9` + "\U0001F130-\U0001F149\U0001F150-\U0001F169\U0001F170-\U0001F189" +
		youngRanges("L") + youngRanges("M") + youngRanges("N") + `\p{L}`
	wordChars = `²³¹¼-¾` + wordSet
)

// namedClass is the first \p{name} or \P{name} of a pattern.
var namedClass = regexp.MustCompile(`^\\[pP]\{(\w+)\}`)

// longNames are those of categories, which our engine knows as well.
var longNames = map[string]string{"Letter": "L", "Mark": "M", "Number": "N", "Punctuation": "P", "Symbol": "S", "Cased_Letter": "LC", "Lowercase_Letter": "Ll", "Uppercase_Letter": "Lu", "Modifier_Letter": "Lm", "Other_Letter": "Lo",
	"Spacing_Mark": "Mc", "Nonspacing_Mark": "Mn", "Decimal_Number": "Nd", "Dash_Punctuation": "Pd", "Other_Punctuation": "Po", "Math_Symbol": "Sm", "Other_Symbol": "So"}

// wordClasses writes out what ours takes for other characters: \w, \W, \b, \B, \d, \D, \p{name} and
// \P{name}, the ^ of lines, and the option m, which is s here.
func wordClasses(pattern string) string {
	in, out := "["+wordChars+"]", "[^"+wordChars+"]"
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '[':
			n := writeSet(&b, pattern[i:])
			i += n - 1
			continue
		case c == '(':
			if m := optionGroup.FindStringSubmatch(pattern[i:]); m != nil {
				b.WriteString(strings.ReplaceAll(m[0], "m", "s"))
				i += len(m[0]) - 1
				continue
			}
			b.WriteByte(c)
			continue
		case c == '^': // not behind the last newline
			b.WriteString(`(?:\A|^(?!\z))`)
			continue
		case c != '\\' || i+1 == len(pattern):
			b.WriteByte(c)
			continue
		}
		if class, young, negated := charClass(pattern[i:]); class != "" && young != "" {
			if i += len(class) - 1; negated {
				b.WriteString("[^" + strings.ToLower(class[:2]) + class[2:] + young + "]")
			} else {
				b.WriteString("[" + class + young + "]")
			}
			continue
		}
		i++
		switch pattern[i] {
		case 'w':
			b.WriteString(in)
		case 'W':
			b.WriteString(out)
		case 'b':
			b.WriteString("(?:(?<=" + in + ")(?!" + in + ")|(?<!" + in + ")(?=" + in + "))")
		case 'B':
			b.WriteString("(?:(?<=" + in + ")(?=" + in + ")|(?<!" + in + ")(?!" + in + "))")
		default:
			b.WriteString(pattern[i-1 : i+1])
		}
	}
	return b.String()
}

// charClass is the class \d, \D, \p{name} or \P{name} that s begins with, "" where it is another,
// what it has more in the reference's version of Unicode, as contents of a set, and whether it is a complement.
func charClass(s string) (class, young string, negated bool) {
	name := "Nd"
	if m := namedClass.FindStringSubmatch(s); m != nil {
		class, name = m[0], cmp.Or(longNames[m[1]], m[1])
	} else if class = s[:2]; class != `\d` && class != `\D` {
		return "", "", false
	}
	return class, youngRanges(name), class[1] == 'D' || class[1] == 'P'
}

// writeSet writes the set that s begins with, and returns its length. A set that holds
// complements becomes a choice between what it has beside them and each of them.
func writeSet(b *strings.Builder, s string) int {
	i, negated := 1, false
	if strings.HasPrefix(s[i:], "^") {
		i, negated = 2, true
	}
	var in strings.Builder
	var parts []string
	for ; i < len(s) && s[i] != ']'; i++ {
		if s[i] != '\\' || i+1 == len(s) {
			in.WriteByte(s[i])
			continue
		}
		class, young, complement := charClass(s[i:])
		switch e := s[i : i+2]; {
		case e == `\W`:
			class, complement, young = e, true, wordSet
		case e == `\S`: // beside which our engine loses classes
			class, complement, young = e, true, `\s`
		case e == `\w`:
			in.WriteString(wordSet) // which ends with a class: no range with what stands beside it
			i++
			continue
		}
		switch {
		case class == "" || young == "":
			class = cmp.Or(class, s[i:i+2])
			in.WriteString(class)
		case !complement:
			in.WriteString(class + young + class)
		default:
			if class == `\W` || class == `\S` {
				parts = append(parts, "[^"+young+"]")
			} else {
				parts = append(parts, "[^"+strings.ToLower(class[:2])+class[2:]+young+"]")
			}
			if strings.HasPrefix(s[i+len(class):], "-") { // a hyphen behind a class is one
				in.WriteString(`\-`)
				i++
			}
		}
		i += len(class) - 1
	}
	set := "[" + in.String() + "]"
	if strings.HasPrefix(set, "[^") { // which was not the first
		set = `[\` + set[1:]
	}
	switch {
	case len(parts) == 0 && negated:
		b.WriteString("[^" + set[1:])
	case len(parts) == 0:
		b.WriteString(set)
	default:
		if in.Len() > 0 {
			parts = append([]string{set}, parts...)
		}
		if any := strings.Join(parts, "|"); negated {
			b.WriteString("(?:(?!" + any + ")[\\s\\S])")
		} else {
			b.WriteString("(?:" + any + ")")
		}
	}
	if i < len(s) {
		return i + 1
	}
	return i
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
