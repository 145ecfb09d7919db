package rows

import (
	"encoding/binary"
	"math"
	"math/big"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/apache/arrow/go/v15/arrow/float16"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/format"

	"github.com/tunekit/tunekit/data/jinja"
)

// converter chooses how a column's values become plain ones.
func converter(c *parquet.Column) func(parquet.Value) any {
	t := c.Type()
	lt := t.LogicalType()
	if lt == nil {
		lt = &format.LogicalType{}
	}
	kind := t.Kind()
	switch {
	case lt.Decimal != nil:
		return decimal(kind, int(lt.Decimal.Scale))
	case lt.Date != nil && kind == parquet.Int32:
		return func(v parquet.Value) any {
			return days(int64(v.Int32()))
		}
	case lt.Timestamp != nil && kind == parquet.Int64:
		return timestamp(lt.Timestamp.Unit, lt.Timestamp.IsAdjustedToUTC)
	case lt.Time != nil && kind == parquet.Int32:
		return func(v parquet.Value) any { return clock(time.Duration(v.Int32()) * time.Millisecond) }
	case lt.Time != nil && kind == parquet.Int64:
		unit := time.Microsecond
		if lt.Time.Unit.Nanos != nil {
			unit = time.Nanosecond
		}
		return func(v parquet.Value) any { return clock(time.Duration(v.Int64()) * unit) }
	case lt.Integer != nil && !lt.Integer.IsSigned:
		return unsigned(kind)
	}
	return plainConverter(kind, lt.UTF8 != nil || lt.Enum != nil || lt.Json != nil)
}

func plainConverter(kind parquet.Kind, text bool) func(parquet.Value) any {
	switch kind {
	case parquet.Boolean:
		return func(v parquet.Value) any { return v.Boolean() }
	case parquet.Int32:
		return func(v parquet.Value) any { return int64(v.Int32()) }
	case parquet.Int64:
		return func(v parquet.Value) any { return v.Int64() }
	case parquet.Int96:
		return func(v parquet.Value) any { return int96(v.Int96()) }
	case parquet.Float:
		return func(v parquet.Value) any { return float64(v.Float()) }
	case parquet.Double:
		return func(v parquet.Value) any { return v.Double() }
	case parquet.ByteArray:
		return func(v parquet.Value) any { return bytesOrText(v.ByteArray(), text) }
	}
	return func(v parquet.Value) any { return append([]byte(nil), v.ByteArray()...) }
}

// bytesOrText: a column that says it is text must be; others are text where
// they can be.
func bytesOrText(b []byte, text bool) any {
	if utf8.Valid(b) {
		return string(b)
	}
	if text {
		return badText{}
	}
	return append([]byte(nil), b...)
}

func unsigned(kind parquet.Kind) func(parquet.Value) any {
	if kind == parquet.Int32 {
		return func(v parquet.Value) any { return int64(uint32(v.Int32())) }
	}
	return func(v parquet.Value) any {
		return whole(uint64(v.Int64()))
	}
}

// float16Value is a column of the logical type FLOAT16 (SchemaElement's field 10, 15).
func float16Value(v parquet.Value) any {
	return float64(float16.FromBits(binary.LittleEndian.Uint16(v.ByteArray())).Float32())
}

// whole is a number of 64 bits without a sign.
func whole(u uint64) any {
	if u > math.MaxInt64 {
		return jinja.BigInt(strconv.FormatUint(u, 10))
	}
	return int64(u)
}

func timestamp(unit format.TimeUnit, utc bool) func(parquet.Value) any {
	at := time.UnixMicro
	switch {
	case unit.Millis != nil:
		at = time.UnixMilli
	case unit.Nanos != nil:
		at = func(n int64) time.Time { return time.Unix(0, n) }
	}
	return func(v parquet.Value) any { return moment(at(v.Int64()).UTC(), utc) }
}

// int96 is the retired timestamp: nanoseconds of the day and a Julian day.
func int96(v deprecated.Int96) any {
	days := int64(int32(v[2])) - 2440588
	nanos := int64(v[1])<<32 | int64(v[0])
	return moment(time.Unix(days*86400, nanos).UTC(), false)
}

// decimal writes the unscaled integer with its point.
func decimal(kind parquet.Kind, scale int) func(parquet.Value) any {
	if scale < 0 || scale > 1000 {
		scale = 0
	}
	return func(v parquet.Value) any {
		n := new(big.Int)
		switch kind {
		case parquet.Int32:
			n.SetInt64(int64(v.Int32()))
		case parquet.Int64:
			n.SetInt64(v.Int64())
		default:
			twosComplement(n, v.ByteArray())
		}
		return point(n, scale)
	}
}

func twosComplement(n *big.Int, b []byte) {
	n.SetBytes(b)
	if len(b) > 0 && b[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
}
