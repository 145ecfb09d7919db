package corpus

import (
	"fmt"
	"strconv"
	"strings"
)

// field is one entry of a record; a number stands in JSON without quotes.
type field struct {
	key, val string
	number   bool
}

type record []field

// keys are the field names and how their values are made.
var keys = []struct {
	key    string
	number bool
	make   func(r *rng) string
}{
	{"name", false, (*rng).name},
	{"city", false, func(r *rng) string { return r.one(cities) }},
	{"country", false, func(r *rng) string { return r.one(countries) }},
	{"item", false, func(r *rng) string { return r.one(items) }},
	{"color", false, func(r *rng) string { return r.one(colors) }},
	{"price", true, func(r *rng) string { return r.number(999) }},
	{"count", true, func(r *rng) string { return r.number(99) }},
	{"date", false, func(r *rng) string { return r.date().iso() }},
	{"weight", false, func(r *rng) string { return r.number(99) + " " + r.one([]string{"kg", "g"}) }},
	{"code", false, func(r *rng) string { return r.code() }},
	{"day", false, func(r *rng) string { return r.one(weekdays) }},
	{"status", false, func(r *rng) string { return r.one(statuses) }},
	{"team", false, func(r *rng) string { return r.one(teams) }},
	{"job", false, func(r *rng) string { return r.one(jobs) }},
	{"size", false, func(r *rng) string { return r.one(sizes) }},
	{"room", true, func(r *rng) string { return r.number(400) }},
	{"year", true, func(r *rng) string { return strconv.Itoa(r.in(1950, 2039)) }},
	{"material", false, func(r *rng) string { return r.one(materials) }},
	{"food", false, func(r *rng) string { return r.one(foods) }},
	{"age", true, func(r *rng) string { return strconv.Itoa(r.in(18, 90)) }},
}

func (r *rng) name() string {
	if r.n(6) == 0 {
		return r.one(firstNames) + " " + r.strange()
	}
	return r.person()
}

// number is a whole number up to most, small ones as often as large ones.
func (r *rng) number(most int) string {
	limit := 9
	for limit < most && r.n(3) > 0 {
		limit = min(limit*10+9, most)
	}
	return strconv.Itoa(r.in(1, limit))
}

func (r *rng) code() string {
	return fmt.Sprintf("%c%c-%d", 'A'+rune(r.n(26)), 'A'+rune(r.n(26)), r.in(10, 999))
}

// record makes a record of n different fields in random order.
func (r *rng) record(n int) record {
	rec := make(record, n)
	for i, k := range r.perm(len(keys))[:n] {
		rec[i] = field{keys[k].key, keys[k].make(r), keys[k].number}
	}
	return rec
}

// pick returns n fields of rec in random order.
func (r *rng) pick(rec record, n int) record {
	out := make(record, n)
	for i, k := range r.perm(len(rec))[:n] {
		out[i] = rec[k]
	}
	return out
}

// lines writes a record with a separator inside fields and one between them.
func (rec record) lines(inside, between string) string {
	parts := make([]string, len(rec))
	for i, f := range rec {
		parts[i] = f.key + inside + f.val
	}
	return strings.Join(parts, between)
}

// names lists the keys.
func (rec record) names(between string) string {
	parts := make([]string, len(rec))
	for i, f := range rec {
		parts[i] = f.key
	}
	return strings.Join(parts, between)
}

// values lists the values.
func (rec record) values(between string) string {
	parts := make([]string, len(rec))
	for i, f := range rec {
		parts[i] = f.val
	}
	return strings.Join(parts, between)
}

// json writes a record as a JSON object on one line.
func (rec record) json() string {
	parts := make([]string, len(rec))
	for i, f := range rec {
		parts[i] = strconv.Quote(f.key) + ": " + f.jsonValue()
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func (f field) jsonValue() string {
	if f.number {
		return f.val
	}
	return strconv.Quote(f.val)
}

// day is a date of the calendar.
type day struct{ y, m, d int }

func (r *rng) date() day {
	d := day{y: r.in(1990, 2035), m: r.in(1, 12)}
	d.d = r.in(1, daysIn(d.y, d.m))
	return d
}

func daysIn(y, m int) int {
	switch m {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if y%4 == 0 && (y%100 != 0 || y%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

func (d day) iso() string   { return fmt.Sprintf("%04d-%02d-%02d", d.y, d.m, d.d) }
func (d day) long() string  { return fmt.Sprintf("%d %s %d", d.d, months[d.m-1], d.y) }
func (d day) short() string { return fmt.Sprintf("%d/%d/%d", d.d, d.m, d.y) }

// forms are the ways to write a date, by the name the task asks for.
var forms = []struct {
	name  string
	write func(day) string
}{{"ISO", day.iso}, {"long", day.long}, {"short", day.short}}

// units are conversions to a smaller unit that are exact in small numbers.
var units = []struct {
	from, to         string
	fromName, toName string
	factor, most     int
}{
	{"km", "m", "kilometre", "metre", 1000, 99},
	{"m", "cm", "metre", "centimetre", 100, 99},
	{"m", "mm", "metre", "millimetre", 1000, 99},
	{"cm", "mm", "centimetre", "millimetre", 10, 99},
	{"kg", "g", "kilogram", "gram", 1000, 99},
	{"t", "kg", "ton", "kilogram", 1000, 99},
	{"g", "mg", "gram", "milligram", 1000, 99},
	{"l", "ml", "litre", "millilitre", 1000, 99},
	{"h", "min", "hour", "minute", 60, 12},
	{"min", "s", "minute", "second", 60, 12},
}

// measure is a quantity in a unit and the one below it.
type measure struct{ unit, value int }

func (r *rng) measure() measure {
	u := r.n(len(units))
	return measure{u, r.in(1, units[u].most)}
}

func (m measure) from() string { return fmt.Sprintf("%d %s", m.value, units[m.unit].from) }
func (m measure) to() string {
	u := units[m.unit]
	return fmt.Sprintf("%d %s", m.value*u.factor, u.to)
}

// spelled writes the quantity with the unit's name.
func (m measure) spelled() string { return plural(m.value, units[m.unit].fromName) }
func (m measure) spelledTo() string {
	return plural(m.value*units[m.unit].factor, units[m.unit].toName)
}

func plural(n int, unit string) string {
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}
