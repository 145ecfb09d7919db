package data

import (
	"slices"
	"unicode"
)

type scriptName struct {
	name  string
	table *unicode.RangeTable
}

// scripts are what letters are told apart by, the most frequent first.
var scripts = []scriptName{
	{"Latin", unicode.Latin}, {"Han", unicode.Han}, {"Hiragana", unicode.Hiragana}, {"Katakana", unicode.Katakana}, {"Hangul", unicode.Hangul},
	{"Cyrillic", unicode.Cyrillic}, {"Arabic", unicode.Arabic}, {"Devanagari", unicode.Devanagari}, {"Thai", unicode.Thai}, {"Greek", unicode.Greek},
	{"Hebrew", unicode.Hebrew}, {"Bengali", unicode.Bengali}, {"Tamil", unicode.Tamil}, {"Telugu", unicode.Telugu}, {"Gujarati", unicode.Gujarati},
	{"Gurmukhi", unicode.Gurmukhi}, {"Kannada", unicode.Kannada}, {"Malayalam", unicode.Malayalam}, {"Sinhala", unicode.Sinhala}, {"Myanmar", unicode.Myanmar},
	{"Khmer", unicode.Khmer}, {"Lao", unicode.Lao}, {"Tibetan", unicode.Tibetan}, {"Georgian", unicode.Georgian}, {"Armenian", unicode.Armenian},
	{"Ethiopic", unicode.Ethiopic}, {"Mongolian", unicode.Mongolian},
}

const (
	otherScript = "other letters"
	noScript    = "no letters"
)

// letterCount counts the letters of a text by script.
type letterCount struct {
	of    [32]int // as scripts
	other int
}

func (l *letterCount) count(text string) {
	for _, r := range text {
		switch {
		case r < 0x80:
			if r|0x20 >= 'a' && r|0x20 <= 'z' {
				l.of[0]++
			}
		case unicode.IsLetter(r):
			i := slices.IndexFunc(scripts, func(s scriptName) bool { return unicode.Is(s.table, r) })
			if i < 0 {
				l.other++
			} else {
				l.of[i]++
			}
		}
	}
}

// script is the one that most letters are of. Japanese is told from Chinese by its
// syllables: where a tenth of Han and kana is kana, it is kana.
func (l *letterCount) script() string {
	const han, hiragana, katakana = 1, 2, 3
	kana := l.of[hiragana] + l.of[katakana]
	of := l.of
	if of[hiragana], of[katakana] = 0, 0; 10*kana >= kana+of[han] && kana > 0 {
		kana, of[han] = kana+of[han], 0
	}
	best, name := 0, noScript
	for i, s := range scripts {
		if of[i] > best {
			best, name = of[i], s.name
		}
	}
	if kana > best {
		best, name = kana, "Japanese"
	}
	if l.other > best {
		name = otherScript
	}
	return name
}

// scriptOf is the script of a row's texts; "" of tokens, which have none here.
func scriptOf(samples []sample) string {
	var l letterCount
	for i := range samples {
		if samples[i].ids != nil {
			return ""
		}
		samples[i].texts(l.count)
	}
	return l.script()
}
