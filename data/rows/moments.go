package rows

import (
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
)

// Dates, times and decimals are texts, spelled as Python's str() spells what pyarrow makes of them (datetime, Timestamp and Timedelta of
// pandas for nanoseconds, Decimal), which is what a template that Transformers renders shows of a row of the `datasets` library.

const dateLayout = "2006-01-02"

// moment is a point in time in its zone; one without a zone shows none.
func moment(t time.Time, zoned bool) string {
	s := t.Format(dateLayout+" 15:04:05") + fraction(t.Nanosecond())
	if zoned {
		s += t.Format("-07:00")
	}
	return s
}

// fraction are nanoseconds of a second with their point: nothing, six digits or nine.
func fraction(ns int) string {
	switch {
	case ns == 0:
		return ""
	case ns%1000 == 0:
		return fmt.Sprintf(".%06d", ns/1000)
	}
	return fmt.Sprintf(".%09d", ns)
}

// clock is a time of day since midnight, to the microsecond.
func clock(d time.Duration) string {
	t := time.Unix(0, 0).UTC().Add(d.Truncate(time.Microsecond))
	return t.Format(time.TimeOnly) + fraction(t.Nanosecond())
}

// days is the date that lies so many days behind 1970-01-01.
func days(n int64) string { return time.Unix(n*86400, 0).UTC().Format(dateLayout) }

// span is a duration of n units, each a second's perSecond-th part.
func span(n, perSecond int64) string {
	perDay := 86400 * perSecond
	day, rest := n/perDay, n%perDay
	if rest < 0 {
		day, rest = day-1, rest+perDay
	}
	s, part := rest/perSecond, fraction(int(rest%perSecond*(1e9/perSecond)))
	if perSecond == 1e9 { // pandas
		sign := ""
		if day < 0 {
			sign = "+"
		}
		return fmt.Sprintf("%d days %s%02d:%02d:%02d%s", day, sign, s/3600, s/60%60, s%60, part)
	}
	text := fmt.Sprintf("%d:%02d:%02d%s", s/3600, s/60%60, s%60, part)
	switch day {
	case 0:
		return text
	case 1, -1:
		return fmt.Sprintf("%d day, %s", day, text)
	}
	return fmt.Sprintf("%d days, %s", day, text)
}

// point is n with its last scale digits behind a point, or of very small and of rounded numbers with an exponent.
func point(n *big.Int, scale int) string {
	s := new(big.Int).Abs(n).String()
	before := len(s) - scale // digits before the point
	at := before
	if scale < 0 || before <= -6 {
		at = 1
	}
	out := ""
	switch {
	case at <= 0:
		out = "0." + strings.Repeat("0", -at) + s
	case at >= len(s):
		out = s + strings.Repeat("0", at-len(s))
	default:
		out = s[:at] + "." + s[at:]
	}
	if at != before {
		out += fmt.Sprintf("E%+d", before-at)
	}
	if n.Sign() < 0 {
		out = "-" + out
	}
	return out
}

// arrowMoment is a date, a time, a duration or a decimal of Arrow; ok is false for another type.
func arrowMoment(a arrow.Array, i int) (s string, ok bool, err error) {
	switch a := a.(type) {
	case *array.Date32:
		return days(int64(a.Value(i))), true, nil
	case *array.Date64:
		return a.Value(i).ToTime().Format(dateLayout), true, nil
	case *array.Timestamp:
		typ := a.DataType().(*arrow.TimestampType)
		at, err := typ.GetToTimeFunc()
		if err != nil {
			return "", true, fmt.Errorf("the time zone %q of a column is not known on this machine: %w", typ.TimeZone, err)
		}
		return moment(at(a.Value(i)), typ.TimeZone != ""), true, nil
	case *array.Time32:
		return clock(time.Duration(a.Value(i)) * a.DataType().(*arrow.Time32Type).Unit.Multiplier()), true, nil
	case *array.Time64:
		return clock(time.Duration(a.Value(i)) * a.DataType().(*arrow.Time64Type).Unit.Multiplier()), true, nil
	case *array.Duration:
		return span(int64(a.Value(i)), int64(time.Second/a.DataType().(*arrow.DurationType).Unit.Multiplier())), true, nil
	case *array.Decimal128:
		return point(a.Value(i).BigInt(), int(a.DataType().(*arrow.Decimal128Type).Scale)), true, nil
	case *array.Decimal256:
		return point(a.Value(i).BigInt(), int(a.DataType().(*arrow.Decimal256Type).Scale)), true, nil
	}
	return "", false, nil
}
