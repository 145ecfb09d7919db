package data

import (
	"fmt"
	"slices"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/rows"
)

// learnedFields are the fields of a message by which datasets say whether it is
// learned from: weight in the rows of OpenAI and Mistral, train and training in
// those of axolotl, loss in those of ms-swift, loss_mask in those of others.
var learnedFields = []string{"weight", "train", "training", "loss", "loss_mask"}

// partialFields say the same of parts of a message.
var partialFields = []string{"train_detail", "training_detail", "loss_scale"}

// learned takes out of a message the fields that say whether it is learned; by is
// the name of one, or "" where it has none.
func learned(m chat.Message) (on bool, by string, err error) {
	for _, key := range partialFields {
		if _, ok := m.Get(key); ok {
			return false, "", fmt.Errorf("%s: parts of a message cannot be learned apart; say weight: 0 or 1 of the whole", key)
		}
	}
	for _, key := range learnedFields {
		v, ok := m.Get(key)
		if !ok {
			continue
		}
		m.Delete(key)
		is := false
		switch v {
		case true, int64(1), 1.0:
			is = true
		case false, int64(0), 0.0:
		default:
			return false, "", fmt.Errorf("%s is %v: a message is learned (1 or true) or not (0 or false)", key, v)
		}
		if by != "" && is != on {
			return false, "", fmt.Errorf("%s and %s disagree about whether it is learned", by, key)
		}
		on, by = is, key
	}
	return on, by, nil
}

// chatSample makes a sample of a conversation, of whose first assistant messages
// frozen are not trained on, nor those that say so themselves.
func chatSample(conv *chat.Conversation, frozen int) (sample, error) {
	s := sample{chat: conv, frozen: frozen}
	turn := -1
	for i, m := range conv.Messages {
		on, by, err := learned(m)
		if err != nil {
			return s, bad("", "message %d: %v", i, err)
		}
		said := fmt.Sprintf("message %d (%s): %s", i, m.Role(), by)
		switch assistant := m.Role() == "assistant"; {
		case assistant:
			if turn++; by != "" && !on {
				s.muted = append(s.muted, turn)
			}
		case on && (by == "train" || by == "training"):
			s.asks = said
		case by != "" && !on:
			s.spares = said
		}
	}
	return s, checkConversation(conv, frozen)
}

// checkAsked compares what the messages of other roles say about being learned
// with train_on, which decides for all of them.
func (s *sample) checkAsked(trainOn string) error {
	switch {
	case trainOn == "all" && s.spares != "":
		return bad("", "%s says that it is not learned, train_on: all that it is; train_on: assistant learns no other role", s.spares)
	case trainOn != "all" && s.asks != "":
		return bad("", "%s asks to learn it, train_on: %s learns only what the assistant writes", s.asks, trainOn)
	}
	return nil
}

// unzipped is a list of objects given as an object of lists, which `datasets` makes
// of a sequence of objects; false where the lists have not one length.
func unzipped(d *jinja.Dict) ([]any, bool) {
	var out []any
	for i := range d.Len() {
		k, v := d.At(i)
		list, ok := v.([]any)
		if !ok || i > 0 && len(list) != len(out) {
			return nil, false
		}
		for j, e := range list {
			if i == 0 {
				out = append(out, &jinja.Dict{})
			}
			if e != nil {
				out[j].(*jinja.Dict).Set(k, e)
			}
		}
	}
	return out, d.Len() > 0
}

// history is the column of earlier questions and answers of an instruct row, as
// LLaMA-Factory has it: [["question", "answer"], …], or the JSON text of it.
func (c columns) history(row *jinja.Dict) ([]chat.Message, error) {
	v, name := c.get(row, "history"), c.name(row, "history")
	if s, ok := v.(string); ok && s != "" {
		parsed, err := rows.ParseJSON([]byte(s))
		if err != nil {
			return nil, bad(name, "%v", err)
		}
		v = parsed
	}
	list, ok := v.([]any)
	if !ok && v != nil && v != "" {
		return nil, bad(name, "is %s, not a list of pairs of question and answer", rows.KindOf(v))
	}
	var out []chat.Message
	for i, e := range list {
		pair, _ := e.([]any)
		if len(pair) != 2 {
			return nil, bad(name, "element %d is not a pair of question and answer", i)
		}
		q, isText := pair[0].(string)
		a, areTexts := pair[1].(string)
		if !isText || !areTexts {
			return nil, bad(name, "element %d: question is %s, answer %s: both must be text", i, rows.KindOf(pair[0]), rows.KindOf(pair[1]))
		}
		out = append(out, chat.NewMessage("user", q), chat.NewMessage("assistant", a))
	}
	return out, nil
}

// mediaColumns hold pictures, videos and sounds that the text refers to.
var mediaColumns = []string{"images", "videos", "audios"}

// checkMedia refuses rows that are more than text.
func checkMedia(row *jinja.Dict) error {
	for _, name := range mediaColumns {
		some := false // one of them may stand alone
		switch v, _ := row.Get(name); v := v.(type) {
		case []any:
			some = len(v) > 0
		case string:
			some = v != ""
		case *jinja.Dict:
			some = v.Len() > 0
		}
		if some {
			return bad(name, "text only: what this column refers to cannot be learned")
		}
	}
	return nil
}

// lossMasks are columns that say 1 of each token that is learned: completion_mask
// and assistant_masks in TRL's rows, loss_mask in those of others.
var lossMasks = []string{"completion_mask", "assistant_masks", "assistant_mask", "loss_mask"}

// mask takes out of a row of tokens what is learned: where every mask there is says
// 1 and, in rows of our own cache, in the ranges of loss.
func (s *sample) mask(c columns, row *jinja.Dict) error {
	for _, name := range lossMasks {
		if v, _ := row.Get(name); v == nil {
			continue
		}
		mask, err := c.ints(row, name)
		if err != nil {
			return err
		}
		if len(mask) != len(s.ids) {
			return bad(name, "has %d elements for %d input_ids", len(mask), len(s.ids))
		}
		for i, m := range mask {
			if m != 0 && m != 1 {
				return bad(name, "element %d is %d", i, m)
			}
		}
		s.keep(func(i int) bool { return mask[i] == 1 })
	}
	if v, _ := row.Get("loss"); v == nil {
		return nil
	}
	ranges, err := c.ints(row, "loss")
	if err != nil {
		return err
	}
	learned := make([]bool, len(s.ids))
	for i := 0; i+1 < len(ranges); i += 2 {
		from, to := ranges[i], ranges[i+1]
		if from < 0 || to < from || int(to) > len(s.ids) {
			return bad("loss", "range %d to %d of %d tokens", from, to, len(s.ids))
		}
		for k := from; k < to; k++ {
			learned[k] = true
		}
	}
	if len(ranges)%2 != 0 {
		return bad("loss", "is start, end, start, end … of what is learned; it has %d elements", len(ranges))
	}
	s.keep(func(i int) bool { return learned[i] })
	return nil
}

// keep leaves tokens out of what is learned.
func (s *sample) keep(on func(i int) bool) {
	if s.labels == nil {
		s.labels = slices.Clone(s.ids)
	}
	for i := range s.labels {
		if i < len(s.ids) && !on(i) {
			s.labels[i] = ignored
		}
	}
}

// checkPacked refuses a row of several sequences, which would see each other.
func checkPacked(c columns, row *jinja.Dict) error {
	if v, _ := row.Get("seq_lengths"); v != nil {
		if n, err := c.ints(row, "seq_lengths"); err != nil || len(n) > 1 {
			return bad("seq_lengths", "holds %d sequences in one row: give each a row of its own, packing is ours", len(n))
		}
	}
	if v, _ := row.Get("position_ids"); v != nil {
		at, err := c.ints(row, "position_ids")
		if err != nil {
			return err
		}
		for i, p := range at {
			if i > 0 && (p == 0 || p < at[i-1]) {
				return bad("position_ids", "begins anew at element %d: give each sequence a row of its own, packing is ours", i)
			}
		}
	}
	return nil
}

// dropNulls leaves null fields out of the structures of a row; see rows.FillsIn.
func dropNulls(row *jinja.Dict) {
	for i := range row.Len() {
		k, v := row.At(i)
		row.Set(k, prune(v))
	}
}
