package report

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// Aligned writes rows in columns.
func Aligned(w io.Writer, rows [][]string, right []bool) {
	width := make([]int, len(right))
	for _, row := range rows {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if right[i] {
				b.WriteString(pad + c + "  ")
			} else {
				b.WriteString(c + pad + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// Duration writes seconds as people say them.
func Duration(sec float64) string {
	switch {
	case sec < 9.95:
		return fmt.Sprintf("%.1f s", sec)
	case sec < 99.5:
		return fmt.Sprintf("%.0f s", sec)
	case sec < 59.5*60:
		return fmt.Sprintf("%.0f min", sec/60)
	case sec < 48*3600:
		m := int(sec/60 + 0.5)
		return fmt.Sprintf("%d h %02d min", m/60, m%60)
	}
	return fmt.Sprintf("%.1f days", sec/86400)
}

func nonzeroTime(sec float64) string {
	if sec == 0 {
		return ""
	}
	return Duration(sec)
}

// Memory is a number of bytes in binary units, "" for none.
func Memory(n int64) string {
	if n <= 0 {
		return ""
	}
	return humanize.IBytes(uint64(n))
}

// Size is the size of a file in decimal units, "" for none.
func Size(n int64) string {
	if n == 0 {
		return ""
	}
	return humanize.Bytes(uint64(n))
}

func nonzero(format string, v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf(format, v)
}

// Sig prints v with digits significant digits, plainly where that is short.
func Sig(v float64, digits int) string {
	a := math.Abs(v)
	if a == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return fmt.Sprint(v)
	}
	if a < 1e-4 || a >= 1e6 {
		return strings.Replace(fmt.Sprintf("%.*e", digits-1, v), "e-0", "e-", 1)
	}
	return fmt.Sprintf("%.*f", max(0, digits-1-int(math.Floor(math.Log10(a)))), v)
}

// Short prints v with as many digits as it has, as people write rates: 2e-4, 0.003, 1.5.
func Short(v float64) string {
	v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'g', 6, 64), 64) // 0.1 + 0.2 is 0.3
	if a := math.Abs(v); a > 0 && a < 1e-3 {
		return strings.Replace(strconv.FormatFloat(v, 'e', -1, 64), "e-0", "e-", 1)
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// plusMinus is a value with its standard error, both to the error's second
// digit.
func plusMinus(m *Measured, digits int) string {
	if m == nil {
		return ""
	}
	if !(m.StdErr > 0) {
		return Sig(m.Value, digits)
	}
	d := max(0, 1-int(math.Floor(math.Log10(m.StdErr))))
	if d > 6 || m.Value >= 1e6 {
		return Sig(m.Value, digits)
	}
	return fmt.Sprintf("%.*f ±%.*f", d, m.Value, d, m.StdErr)
}

func percent(m *Measured) string {
	if m == nil {
		return ""
	}
	s := fmt.Sprintf("%.1f %%", 100*m.Value)
	if m.StdErr >= 0.0005 {
		s += fmt.Sprintf(" ±%.1f", 100*m.StdErr)
	}
	return s
}

func rate(m *Measured) string {
	if m == nil {
		return ""
	}
	return Sig(m.Value, 3) + " tok/s"
}
