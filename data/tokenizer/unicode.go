package tokenizer

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Hugging Face's tokenizers 0.23.3 reads characters by several versions of Unicode, and Go's
// tables are 15.0: its regular expressions (Oniguruma) and the words beside added tokens are
// 16.0, Digits and Lowercase 17.0 (Rust's own), normal forms and StripAccents 9.0, and the
// punctuation, accents and control characters of BERT 8.0. What differs is here, as hexadecimal
// ranges; testdata/make_unicode.py makes what a test compares all characters with.

// younger are the characters that Oniguruma has more in a category or script.
var younger = map[string]string{
	"Ll": "1c8a a7cd a7db 10d70-10d85",
	"Lm": "10d4e 10d6f 16d40-16d42 16d6b-16d6c",
	"Lo": "105c0-105f3 10d4a-10d4d 10d4f 10ec2-10ec4 11380-11389 1138b 1138e 11390-113b5 113b7 113d1 113d3 11bc0-11be0 13460-143fa 16100-1611d 16d43-16d6a 18cff " +
		"1e5d0-1e5ed 1e5f0 2ebf0-2ee5d",
	"Lu":                   "1c89 a7cb-a7cc a7da a7dc 10d50-10d65",
	"Mc":                   "113b8-113ba 113c2 113c5 113c7-113ca 113cc-113cd 113cf 1171e 1612a-1612c",
	"Mn":                   "897 10d69-10d6d 10efc 113bb-113c0 113ce 113d0 113d2 113e1-113e2 11f5a 1611e-16129 1612d-1612f 1e5ee-1e5ef",
	"Nd":                   "10d40-10d49 116d0-116e3 11bf0-11bf9 16130-16139 16d70-16d79 1ccf0-1ccf9 1e5f1-1e5fa",
	"Pd":                   "10d6e",
	"Po":                   "1b4e-1b4f 1b7f 113d4-113d5 113d7-113d8 11be1 16d6d-16d6f 1e5ff",
	"Sm":                   "10d8e-10d8f",
	"So":                   "2427-2429 2ffc-2fff 31e4-31e5 31ef 1cc00-1ccef 1cd00-1ceb3 1f8b2-1f8bb 1f8c0-1f8c1 1fa89 1fa8f 1fabe 1fac6 1fadc 1fadf 1fae9 1fbcb-1fbef",
	"Arabic":               "897 10ec2-10ec4 10efc",
	"Balinese":             "1b4e-1b4f 1b7f",
	"Common":               "2427-2429 2ffc-2fff 31e4-31e5 31ef 1cc00-1ccf9 1cd00-1ceb3 1f8b2-1f8bb 1f8c0-1f8c1 1fa89 1fa8f 1fabe 1fac6 1fadc 1fadf 1fae9 1fbcb-1fbef",
	"Cyrillic":             "1c89-1c8a",
	"Egyptian_Hieroglyphs": "13460-143fa",
	"Han":                  "2ebf0-2ee5d",
	"Kawi":                 "11f5a",
	"Khitan_Small_Script":  "18cff",
	"Latin":                "a7cb-a7cd a7da-a7dc",
	"Myanmar":              "116d0-116e3",
}

// categories are the groups of categories in younger.
var categories = map[string]string{"L": "Ll Lm Lo Lu", "M": "Mc Mn", "N": "Nd", "P": "Pd Po", "S": "Sm So", "LC": "Ll Lu"}

// youngerIn is younger's ranges of a category, a group or a script, "" where there are none.
func youngerIn(name string) string {
	var list []string
	for _, sub := range strings.Fields(categories[name] + " " + name) {
		if r := younger[sub]; r != "" {
			list = append(list, r)
		}
	}
	return strings.Join(list, " ")
}

// The characters that differ elsewhere.
var (
	youngLetters = runeTable(youngerIn("L"))
	youngNumbers = runeTable(youngerIn("N"))
	youngWords   = runeTable(strings.Join([]string{youngerIn("L"), youngerIn("M"), youngerIn("N")}, " "))

	numbers17 = runeTable("11de0-11de9 16ff4-16ff6") // in Rust's numbers beside youngNumbers
	unformed  = runeTable("7fd 898-89f 8ca-8d3 9fe c3c d3b-d3c eba 1715 1abf-1ace 1df6-1dfa 32ff a7f2-a7f4 a82c ab69 10781-10785 10787-107b0 107b2-107ba 10d24-10d27 10eab-10eac " +
		"10efd-10eff 10f46-10f50 10f82-10f85 11070 1133b 1145e 11839-1183a 11930 11935 11938 1193d-1193e 11943 119e0 11a34 11a47 11a99 11d42 11d44-11d45 11d97 " +
		"11f41-11f42 16ff0-16ff1 1e030-1e06d 1e08f 1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef 1f16c 1fbf0-1fbf9") // have no decomposition and order there
	noAccents = runeTable("7fd 898-89f 8ca-8d3 9fe afa-aff b55 c04 c3c cf3 d00 d3b-d3c d81 eba ece 1715 180f 1abf-1ace 1cf7 1df6-1dfa a82c a8ff 10d24-10d27 10eab-10eac " +
		"10efd-10eff 10f46-10f50 10f82-10f85 11070 11073-11074 110c2 11145-11146 111c9 111ce-111cf 11241 1133b 1145e 1182c-1183a 11930-11935 11937-11938 " +
		"1193b-1193e 11940 11942-11943 119d1-119d7 119da-119e0 119e4 11a01-11a0a 11a33-11a39 11a3b-11a3e 11a47 11a51-11a5b 11a8a-11a99 11d31-11d36 11d3a " +
		"11d3c-11d3d 11d3f-11d45 11d47 11d8a-11d8e 11d90-11d91 11d93-11d97 11ef3-11ef6 11f00-11f01 11f03 11f34-11f3a 11f3e-11f42 13440 13447-13455 16f4f " +
		"16f7f-16f87 16fe4 16ff0-16ff1 1cf00-1cf2d 1cf30-1cf46 1e08f 1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef") // marks that StripAccents leaves
	noBertAccents = runeTable("7fd 898-89f 8ca-8e1 9fe afa-aff b55 c04 c3c d00 d3b-d3c d81 eba ece 180f 1885-1886 1abf-1ace 1df6-1dfb a82c a8c5 a8ff a9bd 10d24-10d27 10eab-10eac " +
		"10efd-10eff 10f46-10f50 10f82-10f85 11070 11073-11074 110c2 111c9 111cf 1123e 11241 1133b 11438-1143f 11442-11444 11446 1145e 1182f-11837 11839-1183a " +
		"1193b-1193c 1193e 11943 119d4-119d7 119da-119db 119e0 11a01-11a0a 11a33-11a38 11a3b-11a3e 11a47 11a51-11a56 11a59-11a5b 11a8a-11a96 11a98-11a99 " +
		"11c30-11c36 11c38-11c3d 11c3f 11c92-11ca7 11caa-11cb0 11cb2-11cb3 11cb5-11cb6 11d31-11d36 11d3a 11d3c-11d3d 11d3f-11d45 11d47 11d90-11d91 11d95 11d97 " +
		"11ef3-11ef4 11f00-11f01 11f36-11f3a 11f40 11f42 13440 13447-13455 16f4f 16fe4 1cf00-1cf2d 1cf30-1cf46 1e000-1e006 1e008-1e018 1e01b-1e021 1e023-1e024 " +
		"1e026-1e02a 1e08f 1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef 1e944-1e94a") // marks that BertNormalizer leaves
	noPunctuation = runeTable("61d 9fd a76 c77 c84 1b7d-1b7e 2e43-2e4f 2e52-2e5d 10ead 10f55-10f59 10f86-10f89 1144b-1144f 1145a-1145b 1145d 11660-1166c 116b9 1183b 11944-11946 " +
		"119e2 11a3f-11a46 11a9a-11a9c 11a9e-11aa2 11b00-11b09 11c41-11c45 11c70-11c71 11ef7-11ef8 11f43-11f4f 11fff 12ff1-12ff2 16e97-16e9a 16fe2 1e95e-1e95f")
	noControl = runeTable("890-891 8e2 110cd 13430-1343f")
)

// runeTable reads hexadecimal ranges.
func runeTable(ranges string) *unicode.RangeTable {
	t := &unicode.RangeTable{}
	for _, r := range strings.Fields(ranges) {
		lo, hi, ok := strings.Cut(r, "-")
		if !ok {
			hi = lo
		}
		t.R32 = append(t.R32, unicode.Range32{Lo: hexRune(lo), Hi: hexRune(hi), Stride: 1})
	}
	slices.SortFunc(t.R32, func(a, b unicode.Range32) int { return cmp.Compare(a.Lo, b.Lo) })
	return t
}

func hexRune(s string) uint32 {
	n, err := strconv.ParseUint(s, 16, 32)
	if err != nil {
		panic(err)
	}
	return uint32(n)
}

// inTable is unicode.Is for tables whose first character is far behind most texts.
func inTable(t *unicode.RangeTable, r rune) bool {
	return uint32(r) >= t.R32[0].Lo && unicode.Is(t, r)
}

// isNumeric tells whether r is a number for Digits.
func isNumeric(r rune) bool {
	return unicode.IsNumber(r) || inTable(youngNumbers, r) || inTable(numbers17, r)
}

// isAccent tells whether StripAccents drops r.
func isAccent(r rune) bool {
	return unicode.Is(unicode.M, r) && !inTable(noAccents, r) || r == '\u1cf2' || r == '\u1cf3'
}

// isBertAccent tells whether BertNormalizer drops r with strip_accents.
func isBertAccent(r rune) bool {
	return unicode.Is(unicode.Mn, r) && !inTable(noBertAccents, r) || r == '\u1734'
}

// isPunctuation tells whether r is punctuation for Punctuation and BertPreTokenizer: in ASCII symbols, too.
func isPunctuation(r rune) bool {
	if r < utf8.RuneSelf {
		return unicode.IsPunct(r) || unicode.IsSymbol(r)
	}
	return unicode.IsPunct(r) && !inTable(noPunctuation, r) || r == '\u166d' || r == '\U000111c9'
}

// lowercase is s in lower case, character by character: İ becomes two.
func lowercase(s string) string {
	s = strings.ToLower(strings.ReplaceAll(s, "İ", "i\u0307"))
	return strings.Map(func(r rune) rune {
		switch {
		case r < 0x1c89:
		case r == 0x1c89 || r == 0xa7cc || r == 0xa7ce || r == 0xa7d2 || r == 0xa7d4 || r == 0xa7da:
			return r + 1
		case r == 0xa7cb:
			return 0x264
		case r == 0xa7dc:
			return 0x19b
		case 0x10d50 <= r && r <= 0x10d65:
			return r + 0x20
		case 0x16ea0 <= r && r <= 0x16eb8:
			return r + 0x1b
		}
		return r
	}, s)
}

// formed gives a text in a normal form. Characters that have none there part the text.
func formed(f norm.Form) func(string) string {
	return func(s string) string {
		var b strings.Builder
		done := 0
		for i, r := range s {
			if inTable(unformed, r) {
				b.WriteString(f.String(s[done:i]))
				b.WriteRune(r)
				done = i + utf8.RuneLen(r)
			}
		}
		if done == 0 {
			return f.String(s)
		}
		b.WriteString(f.String(s[done:]))
		return b.String()
	}
}

// youngRanges is youngerIn as contents of a set of a regular expression.
func youngRanges(name string) string {
	var b strings.Builder
	for _, r := range strings.Fields(youngerIn(name)) {
		lo, hi, ok := strings.Cut(r, "-")
		b.WriteRune(rune(hexRune(lo)))
		if ok {
			b.WriteByte('-')
			b.WriteRune(rune(hexRune(hi)))
		}
	}
	return b.String()
}
