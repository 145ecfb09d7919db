package fail

import "strings"

// Nearest is the known name with the smallest edit distance, if it is small.
func Nearest(s string, names []string) string {
	best, dist := "", 1+len(s)/3
	for _, n := range names {
		if d := editDistance(strings.ToLower(s), strings.ToLower(n)); d <= dist && (best == "" || d < dist) {
			best, dist = n, d
		}
	}
	return best
}

// Near is a hint that first asks whether the nearest of names was meant, if one is near.
func Near(s string, names []string, hint string) string {
	if near := Nearest(s, names); near != "" {
		return "did you mean " + near + "? " + hint
	}
	return hint
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, diag+1, row[j]+1)
		}
	}
	return row[len(b)]
}
