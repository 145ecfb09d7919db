package rows

import (
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// What pyarrow 26 and pandas make of the numbers, as text: str(pa.array([N], TYPE).to_pylist()[0]).
func TestMoments(t *testing.T) {
	const s = 1716606245 // 2024-05-25 03:04:05
	for _, c := range []struct {
		kind  arrow.DataType
		value int64
		want  string
	}{
		{&arrow.TimestampType{Unit: arrow.Second}, s, "2024-05-25 03:04:05"},
		{&arrow.TimestampType{Unit: arrow.Second}, -1, "1969-12-31 23:59:59"},
		{&arrow.TimestampType{Unit: arrow.Millisecond}, s*1000 + 500, "2024-05-25 03:04:05.500000"},
		{&arrow.TimestampType{Unit: arrow.Microsecond}, -1000001, "1969-12-31 23:59:58.999999"},
		{&arrow.TimestampType{Unit: arrow.Nanosecond}, s*1e9 + 123000, "2024-05-25 03:04:05.000123"},
		{&arrow.TimestampType{Unit: arrow.Nanosecond}, s*1e9 + 1, "2024-05-25 03:04:05.000000001"},
		{&arrow.TimestampType{Unit: arrow.Second, TimeZone: "UTC"}, s, "2024-05-25 03:04:05+00:00"},
		{&arrow.TimestampType{Unit: arrow.Millisecond, TimeZone: "+02:00"}, -1001, "1970-01-01 01:59:58.999000+02:00"},
		{arrow.FixedWidthTypes.Time32s, 3661, "01:01:01"},
		{arrow.FixedWidthTypes.Time32ms, 5, "00:00:00.005000"},
		{arrow.FixedWidthTypes.Time64us, 3661, "00:00:00.003661"},
		{arrow.FixedWidthTypes.Time64ns, 3661, "00:00:00.000003"},
		{arrow.FixedWidthTypes.Duration_s, 90061, "1 day, 1:01:01"},
		{arrow.FixedWidthTypes.Duration_ms, -1, "-1 day, 23:59:59.999000"},
		{arrow.FixedWidthTypes.Duration_us, 500000, "0:00:00.500000"},
		{arrow.FixedWidthTypes.Duration_ns, -1000, "-1 days +23:59:59.999999"},
		{arrow.FixedWidthTypes.Duration_ns, 90061e9, "1 days 01:01:01"},
		{arrow.FixedWidthTypes.Date32, -1, "1969-12-31"},
		{arrow.FixedWidthTypes.Date64, 86400000 * 19000, "2022-01-08"},
	} {
		b := array.NewBuilder(memory.DefaultAllocator, c.kind)
		switch b := b.(type) {
		case *array.TimestampBuilder:
			b.Append(arrow.Timestamp(c.value))
		case *array.Time32Builder:
			b.Append(arrow.Time32(c.value))
		case *array.Time64Builder:
			b.Append(arrow.Time64(c.value))
		case *array.DurationBuilder:
			b.Append(arrow.Duration(c.value))
		case *array.Date32Builder:
			b.Append(arrow.Date32(c.value))
		case *array.Date64Builder:
			b.Append(arrow.Date64(c.value))
		}
		if got, err := arrowNumber(b.NewArray(), 0); err != nil || got != c.want {
			t.Errorf("%s %d: %q, %v, want %q", c.kind, c.value, got, err, c.want)
		}
	}
	b := array.NewTimestampBuilder(memory.DefaultAllocator, &arrow.TimestampType{TimeZone: "Nowhere/Land"})
	b.Append(0)
	if got, err := arrowNumber(b.NewArray(), 0); err == nil {
		t.Errorf("an unknown zone gives %q", got)
	}
	if got := moment(time.Unix(s, 0).In(time.FixedZone("", -12600)), true); got != "2024-05-24 23:34:05-03:30" {
		t.Errorf("%q", got)
	}
}

// str(Decimal) of pa.decimal128 with this scale.
func TestPoint(t *testing.T) {
	for _, c := range []struct {
		n     int64
		scale int
		want  string
	}{
		{0, 2, "0.00"}, {150, 2, "1.50"}, {-1230, 2, "-12.30"}, {1, 2, "0.01"}, {-300, 0, "-300"}, {0, 5, "0.00000"}, {0, 10, "0E-10"},
		{1000, 10, "1.000E-7"}, {-12000, 10, "-0.0000012000"}, {1, -2, "1E+2"}, {0, -2, "0E+2"}, {0, 7, "0E-7"}, {12345, -2, "1.2345E+6"},
	} {
		if got := point(big.NewInt(c.n), c.scale); got != c.want {
			t.Errorf("%d, %d digits: %s, want %s", c.n, c.scale, got, c.want)
		}
	}
	if got := fmt.Sprint(point(new(big.Int).Exp(big.NewInt(10), big.NewInt(37), nil), 38)); got != "0.10000000000000000000000000000000000000" {
		t.Error(got)
	}
}
