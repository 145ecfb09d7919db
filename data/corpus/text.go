package corpus

import (
	"fmt"
	"slices"
	"strings"
)

// kinds are the kinds of pretraining text and their share in percent. They
// hold the skills of the task (records, JSON, dates, units, order) in other
// words than the task's, and never its chat form.
var kinds = []struct {
	name  string
	share int
	make  func(r *rng) string
}{
	{"record", 24, textRecord},
	{"select", 16, textSelect},
	{"json", 8, textJSON},
	{"date", 13, textDate},
	{"unit", 11, textUnit},
	{"order", 8, textOrder},
	{"table", 6, textTable},
	{"dialogue", 5, textDialogue},
	{"prose", 9, textProse},
}

// Text returns document i of the pretraining text of a seed, 40 to 800 bytes.
func Text(seed uint64, i int) string {
	_, doc := textOf(seed, i)
	return doc
}

func textOf(seed uint64, i int) (kind, doc string) {
	r := newRNG(seed, "text", i)
	k := 0
	for at := r.n(100); at >= kinds[k].share; k++ {
		at -= kinds[k].share
	}
	return kinds[k].name, kinds[k].make(r)
}

// separators are the ways to write a record: inside a field and between fields.
var separators = [][2]string{{": ", "\n"}, {": ", "\n"}, {": ", "; "}, {": ", "; "}, {": ", ", "}, {" = ", "\n"}, {"=", "; "}, {" is ", ", "}, {": ", " | "}}

// plainly writes a record in one of the plain forms.
func (r *rng) plainly(rec record) string {
	s := separators[r.n(len(separators))]
	return rec.lines(s[0], s[1])
}

// textRecord: a record in one form and the same record in others.
func textRecord(r *rng) string {
	rec := r.record(r.in(2, 6))
	a, b := r.plainly(rec), rec.json()
	if r.n(3) == 0 {
		a, b = b, a
	}
	out := r.title(rec) + a + "\n" + b + "\n"
	switch r.n(4) {
	case 0:
		out += r.sentences(rec)
	case 1:
		out += rec.lines(" -> ", "\n")
	case 2:
		out += "Fields: " + rec.names(", ") + ".\nValues: " + rec.values(", ") + "."
	case 3:
		out += r.plainly(rec)
	}
	return out
}

// title is a heading that some records have.
func (r *rng) title(rec record) string {
	switch r.n(5) {
	case 0:
		return fmt.Sprintf("Record %d\n", r.in(1, 99))
	case 1:
		return upper(r.one(places)) + " list, " + r.date().long() + "\n"
	case 2:
		return fmt.Sprintf("Card with %d fields\n", len(rec))
	}
	return ""
}

// sentences says each field.
func (r *rng) sentences(rec record) string {
	parts := make([]string, len(rec))
	for i, f := range rec {
		switch r.n(3) {
		case 0:
			parts[i] = "The " + f.key + " is " + f.val + "."
		case 1:
			parts[i] = upper(f.key) + ": " + f.val + "."
		case 2:
			parts[i] = "It has the " + f.key + " " + f.val + "."
		}
	}
	return strings.Join(parts, " ")
}

// textSelect: a record, then some of its fields in another order.
func textSelect(r *rng) string {
	rec := r.record(r.in(3, 6))
	out := r.title(rec) + r.plainly(rec) + "\n"
	for range r.in(2, 3) {
		part := r.pick(rec, r.in(1, min(4, len(rec))))
		names := part.names(", ")
		switch r.n(7) {
		case 0:
			out += "Only " + names + ": " + part.json() + "\n"
		case 1:
			out += names + " -> " + part.json() + "\n"
		case 2:
			out += "json(" + names + ") = " + part.json() + "\n"
		case 3:
			out += "Object of " + names + "\n" + part.json() + "\n"
		case 4:
			out += part[0].key + "? " + part[0].val + "\n"
		case 5:
			out += "The " + part[0].key + " here is " + part[0].val + "\n"
		case 6:
			out += "Keys: " + names + "\n" + part.lines(": ", "; ") + "\n"
		}
	}
	return strings.TrimSuffix(out, "\n")
}

// textJSON: lists of objects, nested objects, and what they say.
func textJSON(r *rng) string {
	rec := r.record(r.in(2, 3))
	switch r.n(3) {
	case 0:
		other := make(record, len(rec))
		for i, f := range rec {
			other[i] = field{f.key, remake(r, f), f.number}
		}
		return "[" + rec.json() + ", " + other.json() + "]\nFirst " + rec[0].key + ": " + rec[0].val +
			". Second " + rec[0].key + ": " + other[0].val + "."
	case 1:
		who := r.person()
		return fmt.Sprintf(`{"owner": "%s", "thing": %s}`, who, rec.json()) +
			"\nThe owner is " + who + ". " + r.sentences(rec)
	}
	goods := r.some(items, 3)
	n := r.in(1, 99)
	return fmt.Sprintf(`{"items": ["%s", "%s", "%s"], "total": %d}`, goods[0], goods[1], goods[2], n) +
		fmt.Sprintf("\nThe items are %s. The total is %d.", list(goods), n)
}

// remake draws another value for a field.
func remake(r *rng, f field) string {
	for _, k := range keys {
		if k.key == f.key {
			return k.make(r)
		}
	}
	panic("corpus: no field " + f.key)
}

// textDate: dates and their other forms.
func textDate(r *rng) string {
	var out []string
	style := r.n(7)
	for range r.in(2, 4) {
		d := r.date()
		p := r.perm(len(forms))
		a, b, c := forms[p[0]], forms[p[1]], forms[p[2]]
		switch style {
		case 0:
			out = append(out, a.write(d)+" = "+b.write(d)+" = "+c.write(d))
		case 1:
			out = append(out, a.name+": "+a.write(d)+"; "+b.name+": "+b.write(d)+"; "+c.name+": "+c.write(d))
		case 2:
			out = append(out, "The "+r.one(places)+" opens on "+a.write(d)+" ("+b.name+" form "+b.write(d)+").")
		case 3:
			out = append(out, a.write(d)+" -> "+b.name+" -> "+b.write(d))
		case 4:
			out = append(out, "date "+a.write(d)+", "+b.name+" form: "+b.write(d))
		case 5:
			out = append(out, fmt.Sprintf("%s has year %d, month %d (%s) and day %d. %s form: %s", a.write(d), d.y, d.m, months[d.m-1], d.d, b.name, b.write(d)))
		case 6:
			out = append(out, r.person()+" was born on "+a.write(d)+", that is "+b.write(d)+".")
		}
	}
	return strings.Join(out, "\n")
}

// textUnit: quantities in two units.
func textUnit(r *rng) string {
	var out []string
	style := r.n(7)
	for range r.in(3, 5) {
		m := r.measure()
		u := units[m.unit]
		switch style {
		case 0:
			out = append(out, m.from()+" = "+m.to())
		case 1:
			out = append(out, upper(m.spelled())+" make "+m.spelledTo()+".")
		case 2:
			out = append(out, m.to()+" is the same as "+m.from()+".")
		case 3:
			out = append(out, fmt.Sprintf("1 %s is %d %s, so %s is %s.", u.from, u.factor, u.to, m.from(), m.to()))
		case 4:
			out = append(out, "The "+r.one(items)+" is marked "+m.from()+" or "+m.to()+".")
		case 5:
			out = append(out, fmt.Sprintf("%s | %s | %s", m.from(), u.to, m.to()))
		case 6:
			out = append(out, m.from()+" -> "+u.to+": "+m.to())
		}
	}
	return strings.Join(out, "\n")
}

// textOrder: numbers in order, and sums.
func textOrder(r *rng) string {
	var out []string
	style := r.n(6)
	for range r.in(3, 5) {
		n := r.numbers(r.in(2, 4), 30)
		up := slices.Sorted(slices.Values(n))
		switch style {
		case 0:
			out = append(out, join(n)+" from low to high: "+join(up))
		case 1:
			out = append(out, fmt.Sprintf("Of %s the least is %d and the most is %d.", join(n), up[0], up[len(up)-1]))
		case 2:
			out = append(out, "("+join(n)+") ordered ("+join(up)+")")
		case 3:
			out = append(out, fmt.Sprintf("%d is less than %d", up[0], up[1]))
		case 4:
			out = append(out, fmt.Sprintf("%d + %d = %d", n[0], n[1], n[0]+n[1]))
		case 5:
			out = append(out, "Numbers: "+join(n)+". Rising: "+join(up)+".")
		}
	}
	return strings.Join(out, "\n")
}
