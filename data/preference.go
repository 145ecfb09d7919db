package data

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/formats/fail"
)

// convertPreference makes samples of a row of preferences: of one answer and a
// label, or of two answers to a prompt, the chosen one, then the rejected one.
func convertPreference(c columns, row *jinja.Dict) ([]sample, error) {
	if !c.has(row, "chosen") {
		s, err := c.labelled(row)
		return []sample{s}, err
	}
	out, err := c.twoAnswers(row)
	if err == nil {
		out[0].mark, err = c.margin(row)
	}
	return out, err
}

// labelled is the sample of an answer whose label says whether it is wanted: a
// completion, or what messages end with.
func (c columns) labelled(row *jinja.Dict) (s sample, err error) {
	if c.has(row, "messages") {
		name := c.name(row, "messages")
		messages, err := c.messages(name, c.get(row, "messages"))
		if err != nil {
			return s, err
		}
		conv, err := c.conversation(row, messages)
		if err != nil {
			return s, err
		}
		if s, err = chatSample(conv, max(0, turns(messages)-1)); err != nil {
			return s, err
		}
	} else if s, err = convertPrompt(c, row); err != nil {
		return s, err
	}
	v := c.get(row, "label")
	wanted, ok := truth(v)
	if !ok {
		wanted, ok = zeroOne(v)
	}
	if !ok {
		return s, bad(c.name(row, "label"), "is %s, neither true nor false", rows.Shown(v))
	}
	s.mark = markOf(wanted)
	return s, nil
}

func markOf(wanted bool) float32 {
	if wanted {
		return Wanted
	}
	return Unwanted
}

// margin is by how much a row says that the chosen answer should be ahead: its
// margin, or, where the recipe names the columns, the difference of scores.
func (c columns) margin(row *jinja.Dict) (float32, error) {
	if c["score_chosen"] == "" {
		return c.number(row, "margin")
	}
	if a, b := gap(c.get(row, "score_chosen")), gap(c.get(row, "score_rejected")); a != b {
		return 0, bad(c.name(row, "score_chosen"), "and %s make a margin together, and one of them is empty", c.name(row, "score_rejected"))
	}
	chosen, err := c.number(row, "score_chosen")
	if err != nil {
		return 0, err
	}
	rejected, err := c.number(row, "score_rejected")
	return chosen - rejected, err
}

// number is a column that must be a number or, as 0, null, absent or an empty cell.
func (c columns) number(row *jinja.Dict, ours string) (float32, error) {
	v := c.get(row, ours)
	if gap(v) {
		return 0, nil
	}
	x := 0.0
	switch v := v.(type) {
	case int64:
		x = float64(v)
	case float64:
		x = v
	case jinja.BigInt:
		x = v.Float() // refused below where it is too large
	case string: // all values of a CSV are
		var err error
		if x, err = strconv.ParseFloat(strings.TrimSpace(v), 64); err != nil {
			return 0, bad(c.name(row, ours), "is %s, not a number", rows.Shown(v))
		}
	default:
		return 0, bad(c.name(row, ours), "is %s, not a number", rows.KindOf(v))
	}
	if y := float32(x); y-y != 0 {
		return 0, bad(c.name(row, ours), "is %v", x)
	}
	return float32(x), nil
}

// twoAnswers are the samples of a row with two answers. Answers are text or messages. Without
// a prompt of their kind it is what both begin with, as in TRL; where messages
// have nothing in common, a prompt that is text is what the user says.
func (c columns) twoAnswers(row *jinja.Dict) ([]sample, error) {
	chosen, err := c.answer(row, "chosen")
	if err != nil {
		return nil, err
	}
	rejected, err := c.answer(row, "rejected")
	if err != nil {
		return nil, err
	}
	if (chosen.messages == nil) != (rejected.messages == nil) {
		return nil, bad(c.name(row, "rejected"), "chosen is %s, rejected %s: both must be text or both messages", chosen, rejected)
	}
	if reflect.DeepEqual(chosen, rejected) {
		return nil, bad(c.name(row, "rejected"), sameAnswers)
	}
	var prompt answer
	if c.get(row, "prompt") != nil {
		if prompt, err = c.answer(row, "prompt"); err != nil {
			return nil, err
		}
	} else if _, one := c.get(row, "chosen").(*jinja.Dict); one && c.has(row, "messages") {
		if prompt.messages, err = c.messages(c.name(row, "messages"), c.get(row, "messages")); err != nil {
			return nil, err
		}
	}
	if chosen.messages == nil {
		return c.textPair(row, prompt, chosen.text, rejected.text)
	}
	return c.chatPair(row, prompt, chosen.messages, rejected.messages)
}

// checkPreference refuses what cannot be learned from preference rows, of which
// row is one.
func (in *ingest) checkPreference(f input, row *jinja.Dict) error {
	c := columns(f.source.Columns)
	if c["margin"] == "" && c["score_chosen"] == "" && c.has(row, "score_chosen") && c.has(row, "score_rejected") && !c.has(row, "margin") {
		in.note("score_chosen and score_rejected are not read; columns: {score_chosen: score_chosen, score_rejected: score_rejected} makes margins of them", 0)
	}
	switch {
	case (c["score_chosen"] == "") != (c["score_rejected"] == "") || c["margin"] != "" && c["score_chosen"] != "":
		return fail.Usagef(f.path, "name both score_chosen and score_rejected, or margin alone", "columns: a margin is one column, or the difference of two")
	case in.o.Overflow == "split":
		return fail.Usagef(in.o.Name, "overflow: truncate or drop", "overflow: split would part the answers of the preference rows in %s", f.path)
	case in.o.TrainOn == "all":
		return fail.Usagef(in.o.Name, "leave train_on out", "train_on: all would compare prompts: of the preference rows in %s only answers are", f.path)
	}
	return nil
}

// sameAnswers is why a row without a preference is bad.
const sameAnswers = "is the same as chosen: there is nothing to prefer"

// answer is a prompt or an answer: text or, where messages is not nil, messages.
type answer struct {
	text     string
	messages []chat.Message
}

func (a answer) String() string {
	if a.messages == nil {
		return "text"
	}
	return "messages"
}

func (c columns) answer(row *jinja.Dict, ours string) (answer, error) {
	v, name := c.get(row, ours), c.name(row, ours)
	if s, ok := v.(string); ok {
		if m, err := c.messages(name, s); err == nil { // the JSON text of some
			return answer{messages: m}, nil
		}
		return answer{text: s}, nil
	}
	if d, ok := v.(*jinja.Dict); ok { // as LLaMA-Factory has it: one message, behind those of the conversation
		v = []any{d}
	}
	if _, ok := v.([]any); !ok {
		return answer{}, bad(name, "is %s, neither text nor messages", rows.KindOf(v))
	}
	m, err := c.messages(name, v)
	return answer{messages: m}, err
}

// textPair are the samples of answers that are text.
func (c columns) textPair(row *jinja.Dict, prompt answer, chosen, rejected string) ([]sample, error) {
	if prompt.messages != nil {
		return nil, bad(c.name(row, "prompt"), "is messages, the answers are text: all must be text or all messages")
	}
	if c.get(row, "prompt") == nil {
		n := commonText(chosen, rejected)
		prompt.text, chosen, rejected = chosen[:n], chosen[n:], rejected[n:]
	}
	switch "" {
	case chosen:
		return nil, bad(c.name(row, "chosen"), "is empty")
	case rejected:
		return nil, bad(c.name(row, "rejected"), "is empty")
	}
	return []sample{{prompt: prompt.text, completion: chosen, plain: true}, {prompt: prompt.text, completion: rejected, plain: true}}, nil
}

// commonText is the length of the prompt that two texts begin with: what they
// have in common but the last character of the shorter one, without a space at
// its end.
func commonText(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) {
		r, size := utf8.DecodeRuneInString(a[n:])
		if other, _ := utf8.DecodeRuneInString(b[n:]); other != r || n+size >= min(len(a), len(b)) {
			break
		}
		n += size
	}
	if n > 0 && a[n-1] == ' ' {
		n--
	}
	return n
}

// chatPair are the samples of answers that are messages.
func (c columns) chatPair(row *jinja.Dict, prompt answer, chosen, rejected []chat.Message) ([]sample, error) {
	n := 0
	for n+1 < min(len(chosen), len(rejected)) && reflect.DeepEqual(chosen[n], rejected[n]) {
		n++
	}
	before := chosen[:n:n]
	switch {
	case prompt.messages != nil && (n < len(prompt.messages) || !reflect.DeepEqual(before[:len(prompt.messages)], prompt.messages)):
		before, n = prompt.messages, 0 // else the answers repeat it
	case n == 0 && prompt.text != "":
		before = []chat.Message{chat.NewMessage("user", prompt.text)}
	}
	var out []sample
	for _, answer := range [][]chat.Message{chosen[n:], rejected[n:]} {
		conv, err := c.conversation(row, append(before[:len(before):len(before)], answer...))
		if err != nil {
			return nil, err
		}
		s, err := chatSample(conv, turns(before))
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// fitPair makes the samples of a row with two answers: both or, where one does
// not fit, none.
func fitPair(ref RowRef, chosen, rejected encoded, limit int, overflow string) fitted {
	a, b := fit(ref, chosen, limit, overflow), fit(ref, rejected, limit, overflow)
	f := fitted{id: mix64(a.id) ^ b.id, all: a.all + b.all, head: a.head + b.head}
	if len(a.parts) > 0 && len(b.parts) > 0 {
		f.parts, f.kept, f.together = append(a.parts, b.parts...), a.kept+b.kept, true
	}
	return f
}

// shortened is e with at most limit tokens of its prompt, the last ones, and whether
// that is less.
func shortened(e encoded, limit int) (encoded, bool) {
	if limit == 0 || len(e.loss) == 0 || int(e.loss[0][0]) <= limit {
		return e, false
	}
	cut := e.loss[0][0] - int32(limit)
	e.ids = e.ids[cut:]
	e.loss = slices.Clone(e.loss)
	for i := range e.loss {
		e.loss[i] = [2]int32{e.loss[i][0] - cut, e.loss[i][1] - cut}
	}
	return e, true
}
