package corpus

import (
	"fmt"
	"strings"
)

// textTable: a table with bars or commas, and what some rows say.
func textTable(r *rng) string {
	head := r.record(r.in(2, 4))
	rows := make([]record, r.in(2, 4))
	for i := range rows {
		rows[i] = make(record, len(head))
		for j, f := range head {
			rows[i][j] = field{f.key, remake(r, f), f.number}
		}
	}
	sep := r.one([]string{" | ", ", ", "; "})
	out := head.names(sep) + "\n"
	for _, row := range rows {
		out += row.values(sep) + "\n"
	}
	i := r.n(len(rows))
	ordinal := []string{"first", "second", "third", "fourth"}[i]
	switch r.n(3) {
	case 0:
		out += "The " + ordinal + " row: " + rows[i].json()
	case 1:
		out += "In the " + ordinal + " row: " + r.sentences(rows[i])
	case 2:
		f := rows[i][len(head)-1]
		out += "Where " + rows[i][0].key + " is " + rows[i][0].val + ", " + f.key + " is " + f.val + "."
	}
	return out
}

// textDialogue: two people ask each other what the task asks, in other words.
func textDialogue(r *rng) string {
	a, b := r.one(firstNames), r.one(firstNames)
	var out []string
	for range r.in(2, 3) {
		q, ans := r.exchange()
		out = append(out, a+": "+q, b+": "+ans)
		if r.n(3) == 0 {
			out = append(out, a+": "+r.one([]string{"Thank you.", "Good.", "I see.", "Fine, thanks."}))
		}
	}
	return strings.Join(out, "\n")
}

func (r *rng) exchange() (question, answer string) {
	switch r.n(6) {
	case 0:
		m := r.measure()
		return "How long or heavy is " + m.from() + " then?", "It makes " + m.to() + "."
	case 1:
		d := r.date()
		return "When is that, " + d.iso() + "?", "On " + d.long() + "."
	case 2:
		rec := r.record(3)
		f := rec[r.n(3)]
		return "I noted " + rec.lines(" ", ", ") + ". And the " + f.key + "?", "You noted " + f.val + "."
	case 3:
		thing, place := r.one(items), r.one(places)
		return "Where is the " + thing + "?", "The " + thing + " is at the " + place + "."
	case 4:
		name, job := r.name(), r.one(jobs)
		return "Who is " + name + "?", name + " is " + article(job) + "."
	}
	w := r.some(foods, 3)
	return "What do we need?", "We need " + list(w) + "."
}

// textProse: short stories, definitions, instructions and facts.
func textProse(r *rng) string {
	switch r.n(4) {
	case 0:
		return r.story()
	case 1:
		return r.definitions()
	case 2:
		return r.instructions()
	}
	return r.facts()
}

func (r *rng) story() string {
	who, thing, place := r.name(), r.one(items), r.one(places)
	first := strings.Fields(who)[0]
	kind := r.one(adjectives) + " " + r.one(colors) + " " + thing
	out := []string{fmt.Sprintf("%s is %s from %s.", who, article(r.one(jobs)), r.one(cities)),
		fmt.Sprintf("On %s %s %s %s at the %s.", r.one(weekdays), first, r.one(verbsPast), article(kind), place),
		fmt.Sprintf("It was %s and %s was %s.", r.one(weathers), "the "+place, r.one(adjectives)),
		fmt.Sprintf("The %s cost %d coins and was made of %s.", thing, r.in(2, 99), r.one(materials)),
		fmt.Sprintf("%s %s came back with the %s.", first, r.one(adverbs), thing),
		fmt.Sprintf("%s %s saw the %s and wanted one too.", upper(article(r.one(animals))), r.one(adverbs), thing)}
	return strings.Join(out[:r.in(3, len(out))], " ")
}

func (r *rng) definitions() string {
	uses := []struct{ thing, use string }{{"lamp", "to give light"}, {"knife", "to cut bread"}, {"clock", "to tell the time"},
		{"bottle", "to hold water"}, {"ladder", "to climb up"}, {"map", "to find the way"}, {"kettle", "to boil water"},
		{"brush", "to clean a floor"}, {"bag", "to carry books"}, {"pen", "to write a letter"}, {"tent", "to sleep outside"},
		{"compass", "to find the north"}, {"coat", "to keep warm"}, {"camera", "to take pictures"}, {"radio", "to hear music"}}
	var out []string
	for range r.in(2, 3) {
		u := uses[r.n(len(uses))]
		out = append(out, fmt.Sprintf("%s is a thing that people use %s. Most are made of %s or %s.",
			upper(article(u.thing)), u.use, r.one(materials), r.one(materials)))
	}
	return strings.Join(out, " ")
}

func (r *rng) instructions() string {
	w := r.some(foods, 3)
	a, b := r.in(1, 9), r.in(10, 90)
	return fmt.Sprintf("To make %s you need %s. 1. Take %d %s. 2. Mix %s and %s %s. 3. Wait %d minutes. 4. Serve it %s.",
		r.one([]string{"a meal", "a cake", "a soup", "a pie"}), list(w), a, w[0], w[1], w[2], r.one(adverbs), b, r.one([]string{"warm", "cold", "hot"}))
}

func (r *rng) facts() string {
	var out []string
	for range r.in(3, 5) {
		switch r.n(5) {
		case 0:
			out = append(out, fmt.Sprintf("%s is a city, %s is a country.", r.one(cities), r.one(countries)))
		case 1:
			i := r.n(6)
			out = append(out, fmt.Sprintf("%s comes after %s.", weekdays[i+1], weekdays[i]))
		case 2:
			i := r.n(11)
			out = append(out, fmt.Sprintf("%s is month %d and %s is month %d.", months[i], i+1, months[i+1], i+2))
		case 3:
			out = append(out, fmt.Sprintf("The %s and the %s are animals.", r.one(animals), r.one(animals)))
		case 4:
			w := r.strange()
			out = append(out, fmt.Sprintf("%s is a word. Write it again: %s.", w, w))
		}
	}
	return strings.Join(out, " ")
}
