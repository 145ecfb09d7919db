package corpus

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
)

// task is a question without its wording: payload decides the part (train or
// held out), so that no wording of a held-out question is ever trained on.
type task struct {
	kind, payload, answer string
	prompts               []string // wordings
}

// tasks are the kinds of the instruction task and their share in percent. A
// kind with few different payloads gives way to the first when it runs dry.
var tasks = []struct {
	kind  string
	share int
	make  func(r *rng) task
}{
	{"json", 40, taskJSON},
	{"date", 20, taskDate},
	{"unit", 18, taskUnit},
	{"pick", 14, taskPick},
	{"sort", 8, taskSort},
}

// Task returns n rows of a part of the task: a user's request and the answer,
// all prompts different. Rows of different parts never share a record, date,
// quantity or set of numbers, whatever their seeds; train rows of different
// seeds may. It panics on an unknown part.
func Task(seed uint64, n int, split Split) []Row {
	if split != Train && split != HeldOut {
		panic("corpus: Task: unknown split " + string(split))
	}
	r := newRNG(seed, "task "+string(split), 0)
	rows, seen := make([]Row, 0, n), map[string]bool{}
	for len(rows) < n {
		rows = append(rows, drawRow(r, split, seen))
	}
	return rows
}

// drawRow draws a kind by its share and then rows of it until one is of the
// part and new; a kind that does not yield one soon is left for records.
func drawRow(r *rng, split Split, seen map[string]bool) Row {
	kind := 0
	for at := r.n(100); at >= tasks[kind].share; kind++ {
		at -= tasks[kind].share
	}
	for try := 0; ; try++ {
		if try == 200 {
			kind = 0
		}
		t := tasks[kind].make(r)
		prompt := r.one(t.prompts)
		if splitOf(t.kind+"|"+t.payload) != split || seen[prompt] {
			continue
		}
		seen[prompt] = true
		return Row{Messages: []Message{{"user", prompt}, {"assistant", t.answer}}, Kind: t.kind}
	}
}

// splitOf holds out one payload in eight, by content.
func splitOf(payload string) Split {
	h := fnv.New64a()
	h.Write([]byte(payload))
	if mix(h.Sum64())%8 == 0 {
		return HeldOut
	}
	return Train
}

// sorted is the record in the order of its keys' names: the part does not
// depend on the order in which fields were drawn.
func (rec record) sorted() record {
	out := slices.Clone(rec)
	slices.SortFunc(out, func(a, b field) int { return strings.Compare(a.key, b.key) })
	return out
}

// written is the record as the task shows it.
func (r *rng) written(rec record) string {
	if r.n(2) == 0 {
		return rec.lines(": ", "; ")
	}
	return rec.lines(": ", "\n")
}

func taskJSON(r *rng) task {
	rec := r.record(r.in(3, 5))
	want := r.pick(rec, r.in(2, 3))
	text, names := r.written(rec), want.names(", ")
	return task{"json", rec.sorted().lines("=", ";"), want.json(), []string{
		"Write " + names + " as JSON.\n" + text,
		"Make JSON with " + names + " from this record:\n" + text,
		text + "\nJSON with " + names + ", please.",
	}}
}

func taskPick(r *rng) task {
	rec := r.record(r.in(3, 5))
	f := rec[r.n(len(rec))]
	text := r.written(rec)
	return task{"pick", rec.sorted().lines("=", ";"), f.val, []string{
		"What is the " + f.key + "?\n" + text,
		"Tell me the " + f.key + " in this record:\n" + text,
		text + "\nWhich " + f.key + "?",
	}}
}

func taskDate(r *rng) task {
	d := r.date()
	p := r.perm(len(forms))
	from, to := forms[p[0]].write(d), forms[p[1]]
	return task{"date", d.iso(), to.write(d), []string{
		"Write " + from + " in " + to.name + " form.",
		"Change the date " + from + " to " + to.name + " form.",
		from + " in " + to.name + " form, please.",
	}}
}

func taskUnit(r *rng) task {
	m := r.measure()
	unit := units[m.unit].to
	return task{"unit", m.from() + " " + unit, m.to(), []string{
		"Convert " + m.from() + " to " + unit + ".",
		"How many " + unit + " are " + m.from() + "?",
		m.from() + " in " + unit + ", please.",
	}}
}

func taskSort(r *rng) task {
	n := r.numbers(3, 30)
	ordered := slices.Sorted(slices.Values(n))
	return task{"sort", fmt.Sprint(ordered), join(ordered), []string{
		"Sort " + join(n) + ".",
		"Put " + join(n) + " in order.",
		"Order the numbers " + join(n) + ", please.",
	}}
}

// numbers returns k different numbers in [1, most].
func (r *rng) numbers(k, most int) []int {
	out := r.perm(most)[:k]
	for i := range out {
		out[i]++
	}
	return out
}

func join(n []int) string {
	parts := make([]string, len(n))
	for i, v := range n {
		parts[i] = strconv.Itoa(v)
	}
	return strings.Join(parts, ", ")
}
