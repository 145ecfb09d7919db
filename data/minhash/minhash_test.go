package minhash

import (
	"compress/gzip"
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
)

// golden is what testdata/datasketch_golden.py says of paragraphs of WikiText-2 and
// of copies with changes.
type golden struct {
	Docs  []string
	Pairs [][6]float64 // two texts, shingles in both, in either, datasketch's estimate, found by it
}

func readGolden(t testing.TB) (g golden) {
	f, err := os.Open("testdata/golden.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err == nil {
		err = json.NewDecoder(z).Decode(&g)
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// shingleSet is the set of shingles of a text, as Sign cuts them.
func shingleSet(text string, n int) map[string]bool {
	words := AppendWords(nil, text)
	set := map[string]bool{}
	for i := 0; i < max(1, len(words)-n+1); i++ {
		var b strings.Builder
		for _, w := range words[i:min(i+n, len(words))] {
			b.WriteString(string(rune(w%0x10000)) + string(rune(w>>16%0x10000)) + "|")
		}
		set[b.String()] = true
	}
	return set
}

// TestDatasketch: the same shingles as datasketch was given, estimates as close to
// the exact similarity as theory and datasketch have them, and of the pairs over the
// threshold at least those that datasketch's index finds.
func TestDatasketch(t *testing.T) {
	const threshold = 0.8
	g := readGolden(t)
	h := New(5, 128)
	sigs, sets := make([]Signature, len(g.Docs)), make([]map[string]bool, len(g.Docs))
	for i, d := range g.Docs {
		sigs[i], sets[i] = h.Sign(Text{Words: AppendWords(nil, d)}), shingleSet(d, 5)
	}
	bands, rows := Bands(threshold, 128)
	var square, theirs, variance float64
	var over, hit, said, theirHit, theirSaid int
	for _, p := range g.Pairs {
		a, b := int(p[0]), int(p[1])
		shared := 0
		for s := range sets[a] {
			if sets[b][s] {
				shared++
			}
		}
		if either := len(sets[a]) + len(sets[b]) - shared; shared != int(p[2]) || either != int(p[3]) {
			t.Fatalf("texts %d and %d share %d of %d shingles; datasketch was given %v of %v", a, b, shared, either, p[2], p[3])
		}
		exact, got := p[2]/p[3], Similarity(sigs[a], sigs[b])
		square += (got - exact) * (got - exact)
		theirs += (p[4] - exact) * (p[4] - exact)
		variance += exact * (1 - exact) / 128
		found := false
		for band := range bands {
			found = found || got >= threshold && sigs[a].Key(band, rows) == sigs[b].Key(band, rows)
		}
		if exact >= threshold {
			over++
		}
		count := func(found bool, said, hit *int) {
			if found {
				*said++
				if exact >= threshold {
					*hit++
				}
			}
		}
		count(found, &said, &hit)
		count(p[5] == 1, &theirSaid, &theirHit)
	}
	n := float64(len(g.Pairs))
	ours, ref, want := math.Sqrt(square/n), math.Sqrt(theirs/n), math.Sqrt(variance/n)
	recall, precision := float64(hit)/float64(over), float64(hit)/float64(said)
	theirRecall, theirPrecision := float64(theirHit)/float64(over), float64(theirHit)/float64(theirSaid)
	t.Logf("%d pairs: error of the estimate %.4f, datasketch's %.4f, in theory %.4f", len(g.Pairs), ours, ref, want)
	t.Logf("%d pairs over %v: recall %.3f precision %.3f with %d bands of %d; datasketch's recall %.3f precision %.3f", over, threshold, recall, precision, bands, rows, theirRecall, theirPrecision)
	if ours > 1.1*want {
		t.Errorf("error of the estimate %.4f, in theory %.4f", ours, want)
	}
	if recall < theirRecall || precision < theirPrecision {
		t.Errorf("recall %.3f precision %.3f; datasketch has %.3f and %.3f", recall, precision, theirRecall, theirPrecision)
	}
}

// TestBands: what bands find by the formula, for every threshold, and never more than
// the signature has.
func TestBands(t *testing.T) {
	for _, perm := range []int{16, 100, 128, 256} {
		for threshold := 0.3; threshold <= 1; threshold += 0.05 {
			bands, rows := Bands(threshold, perm)
			if bands*rows > perm || bands < 1 {
				t.Fatalf("%d bands of %d from %d", bands, rows, perm)
			}
			if p := 1 - math.Pow(1-math.Pow(threshold, float64(rows)), float64(bands)); p < recall && rows > 1 {
				t.Errorf("threshold %.2f of %d: found with %.3f", threshold, perm, p)
			}
		}
	}
}

// TestWords: what is a word, by how many there are.
func TestWords(t *testing.T) {
	for text, want := range map[string]int{
		"":                         0,
		" .,;:!?\t\n\"'()[]{}":     0,
		"Hello, World!":            2,
		"3 + 4 = 7":                5,
		"x-=1":                     4,
		"日本語のテキスト":                 8,
		"привет мир":               2,
		"naïve cafe\u0301":         2,
		"🙂🙂":                       2,
		"สวัสดี":                   6,
		"a\u200bb":                 2,
		string([]byte{0xff, 'a'}):  2,
		"don't":                    2,
		"https://x.org/a?b=c#frag": 12,
	} {
		if got := AppendWords(nil, text); len(got) != want {
			t.Errorf("%q: %d words, want %d", text, len(got), want)
		}
	}
	if !slices.Equal(AppendWords(nil, "The CAT, sat."), AppendWords(nil, "the cat sat")) {
		t.Error("case and punctuation of prose change words")
	}
	h := New(5, 64)
	few := func(s string) Signature { return h.Sign(Text{Words: AppendWords(nil, s)}) }
	if h.Sign() != nil || few("...") != nil {
		t.Error("a signature of no words")
	}
	if Similarity(few("3 + 4"), few("3 - 4")) > 0.1 {
		t.Error("a sum and a difference are the same")
	}
	words := AppendWords(nil, "one two three four five six")
	if Similarity(h.Sign(Text{Words: words}), h.Sign(Text{Words: words, Seed: 1})) > 0.1 {
		t.Error("texts of two seeds share shingles")
	}
}

// FuzzSign: any text has a signature or no words, and is like itself.
func FuzzSign(f *testing.F) {
	f.Add("some words to begin with", 3)
	f.Add("\xff\xfe", 1)
	f.Fuzz(func(t *testing.T, text string, n int) {
		h := New(1+(n&7), 32)
		words := AppendWords(nil, text)
		sig := h.Sign(Text{Words: words})
		if (sig == nil) != (len(words) == 0) {
			t.Fatalf("%d words, signature %v", len(words), sig)
		}
		if sig != nil && (Similarity(sig, sig) != 1 || Similarity(sig, h.Sign(Text{Words: AppendWords(nil, strings.ToLower(text))})) > 1) {
			t.Fatal("not like itself")
		}
	})
}

func BenchmarkSign(b *testing.B) {
	g := readGolden(b)
	h := New(5, 128)
	n := 0
	for i := 0; b.Loop(); i++ {
		d := g.Docs[i%len(g.Docs)]
		n += len(d)
		h.Sign(Text{Words: AppendWords(nil, d)})
	}
	b.ReportMetric(float64(n)/1e6/b.Elapsed().Seconds(), "MB/s")
}
