package data

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
)

// encoding turns samples into token ids and supervised ranges. It keeps no
// state and may be used by several goroutines.
type encoding struct {
	tok     *tokenizer.Tokenizer // nil when every dataset is of type tokens
	tmpl    spanner              // nil without a chat template
	vars    map[string]any       // of the template, for rows that do not set them
	trainOn string
	eos     string // train_on_eos
	reasons string // reasoning
	vocab   int32  // ids must be below; 0 unknown
	encoder bool   // a sample is a prompt and one answer
	ends    []int32
	control []string          // the special tokens' texts
	markup  *strings.Replacer // takes them out
}

// spanner is what encoding needs of a Template.
type spanner interface {
	Spans(chat.Conversation) (text string, assistant [][2]int, err error)
	Render(c chat.Conversation, addGenerationPrompt bool) (string, error)
}

// newEncoding resolves options that are filled in.
func newEncoding(o *Options, tok *tokenizer.Tokenizer, tmpl *chat.Template) *encoding {
	e := &encoding{tok: tok, trainOn: o.TrainOn, eos: o.TrainOnEOS, reasons: o.Reasoning, vocab: int32(o.Vocab), vars: o.templateKwargs(), encoder: o.Encoder}
	if e.encoder { // which reads what the others before it say
		e.trainOn = "last"
	}
	if tmpl != nil {
		e.tmpl = tmpl
	}
	if tok == nil {
		return e
	}
	if e.vocab == 0 {
		e.vocab = int32(tok.Size())
	}
	e.ends = tok.EOSIDs()
	for id := range int32(tok.Size()) {
		if s := tok.Token(id); tok.Special(id) && s != "" {
			e.control = append(e.control, s)
		}
	}
	pairs := make([]string, 0, 2*len(e.control))
	for _, s := range e.control {
		pairs = append(pairs, s, "")
	}
	e.markup = strings.NewReplacer(pairs...)
	return e
}

// encoded is a tokenized row before overflow.
type encoded struct {
	ids  []int32
	loss [][2]int32
	note string   // what was done that the user should know, or ""
	lost []string // of the row's texts, by the template
	mark float32  // as Example.Mark
	cut  bool     // the beginning of its prompt was cut off
	row  string   // of a prompt alone
}

// Notes that encode leaves; the report counts them.
const (
	noteSeam    = "a token straddled the seam of prompt and answer: tokenized apart, as at inference"
	noteControl = "control tokens written in a message were encoded as text"
	noteCutEnd  = "every learned end token was cut off (overflow: truncate): of these the model does not learn to stop"
	noteNoBOS   = "the chat template writes no BOS although the tokenizer puts one before plain text: kept as the template has it"
)

// encode tokenizes one sample. The error is a *BadRow, or a *fail.Error that
// concerns the whole set.
func (e *encoding) encode(s sample) (out encoded, err error) {
	defer func() { // a part of a text may take longer than the whole
		if r := recover(); r != nil {
			limit, ok := r.(*fail.Error)
			if !ok {
				panic(r)
			}
			err = bad("", "%v", limit)
		}
	}()
	switch {
	case s.row != "":
		out, err = e.ask(&s)
	case e.encoder && s.text != nil:
		err = fail.Inputf("", "give rows of prompt and completion", "rows of type text have no answer: the model reads a prompt by an encoder and answers it")
	case e.encoder && s.plain:
		out, err = e.pair(s.prompt, s.completion)
	case s.ids != nil:
		out = e.tokens(s)
	case s.text != nil:
		out, err = e.text(*s.text)
	case s.plain:
		out, err = e.prompt(s.prompt, s.completion)
	default:
		out, err = e.chat(&s)
	}
	if err == nil && e.encoder {
		err = out.lastAnswer()
	}
	if err == nil {
		err = e.check(out.ids)
	}
	out.loss = tidy(out.loss)
	if err == nil && s.row == "" && (&Example{Loss: out.loss}).Supervised() == 0 {
		err = bad("", noSupervised)
	}
	return out, err
}

const noSupervised = "no supervised token"

// tokens is a row that is tokenized already: supervised where labels are set,
// everywhere without labels.
func (e *encoding) tokens(s sample) encoded {
	if s.labels == nil {
		return encoded{ids: s.ids, loss: whole(s.ids)}
	}
	var loss [][2]int32
	for i, l := range s.labels {
		if l != ignored {
			loss = append(loss, [2]int32{int32(i), int32(i) + 1})
		}
	}
	return encoded{ids: s.ids, loss: loss}
}

func whole(ids []int32) [][2]int32 { return [][2]int32{{0, int32(len(ids))}} }

// text is a document: what the tokenizer puts around a text, and an EOS.
func (e *encoding) text(s string) (encoded, error) {
	ids, err := e.tok.TryEncode(s, true)
	if err != nil {
		return encoded{}, bad("", "%v", err)
	}
	if err := e.checkBOS(ids); err != nil {
		return encoded{}, err
	}
	n := int32(len(ids))
	ids = e.withEOS(ids)
	loss := [][2]int32{{0, n}}
	if e.eos != "none" {
		loss = whole(ids)
	}
	return encoded{ids: ids, loss: loss}, nil
}

// withEOS appends the EOS unless the tokenizer has done so.
func (e *encoding) withEOS(ids []int32) []int32 {
	if eos := e.tok.EOS(); eos >= 0 && (len(ids) == 0 || ids[len(ids)-1] != eos) {
		return append(ids, eos)
	}
	return ids
}

// checkBOS finds a text that brings its own BOS to a tokenizer that adds one.
func (e *encoding) checkBOS(ids []int32) error {
	if bos := e.tok.BOS(); bos >= 0 && len(ids) > 1 && ids[0] == bos && ids[1] == bos {
		return bad("", "begins with two BOS %q: the text has one and the tokenizer adds one (rendered chat? use type chat)", e.tok.Token(bos))
	}
	return nil
}

// prompt is plain prompt and completion. The prompt's tokens are those it has
// alone, as at inference; where the joined text would merge across the seam,
// the completion is tokenized on its own.
func (e *encoding) prompt(prompt, completion string) (encoded, error) {
	joined, err := e.tok.TryEncode(prompt+completion, true)
	if err != nil {
		return encoded{}, bad("", "%v", err)
	}
	if err := e.checkBOS(joined); err != nil {
		return encoded{}, err
	}
	if e.tok.AddsEOS() && len(joined) > 0 {
		joined = joined[:len(joined)-1]
	}
	head, err := e.head(prompt)
	if err != nil {
		return encoded{}, bad("", "%v", err)
	}
	out := encoded{ids: joined}
	if len(joined) < len(head) || !slices.Equal(joined[:len(head)], head) {
		rest, err := e.continuation(completion)
		if err != nil {
			return encoded{}, bad("", "%v", err)
		}
		out.ids, out.note = append(slices.Clone(head), rest...), noteSeam
	}
	start, end := int32(len(head)), int32(len(out.ids))
	out.ids = e.withEOS(out.ids)
	if e.eos != "none" {
		end = int32(len(out.ids))
	}
	if e.trainOn == "all" {
		start = 0
	}
	out.loss = [][2]int32{{start, end}}
	return out, nil
}

// pair is a prompt and a completion as an encoder and its decoder read them: each as the
// tokenizer writes a text by itself, the completion without a BOS, for which the
// decoder's start token stands.
func (e *encoding) pair(prompt, completion string) (encoded, error) {
	head, err := e.tok.TryEncode(prompt, true)
	if err != nil {
		return encoded{}, bad("", "%v", err)
	}
	if err := e.checkBOS(head); err != nil {
		return encoded{}, err
	}
	tail, err := e.tok.TryEncode(completion, true)
	if err != nil {
		return encoded{}, bad("", "%v", err)
	}
	if e.tok.AddsBOS() && len(tail) > 0 {
		tail = tail[1:]
	}
	if len(head) == 0 {
		return encoded{}, bad("prompt", "has no tokens: the encoder has nothing to read")
	}
	out := encoded{ids: append(slices.Clone(head), e.withEOS(tail)...)}
	end := int32(len(out.ids))
	if n := end - 1; e.eos == "none" && out.ids[n] == e.tok.EOS() {
		end = n
	}
	out.loss = [][2]int32{{int32(len(head)), end}}
	return out, nil
}

// lastAnswer leaves the last run of learned tokens of a row that an encoder and its
// decoder share, and what lies behind it out.
func (out *encoded) lastAnswer() error {
	loss := tidy(out.loss)
	if len(loss) == 0 {
		return nil // which is found
	}
	last := loss[len(loss)-1]
	if last[0] < 1 {
		return bad("", "nothing stands before the answer: the encoder has nothing to read")
	}
	out.ids, out.loss = out.ids[:last[1]], [][2]int32{last}
	return nil
}

// head is a prompt as a server tokenizes it: with a BOS, without an EOS.
func (e *encoding) head(prompt string) ([]int32, error) {
	ids, err := e.tok.TryEncode(prompt, true)
	if err == nil && e.tok.AddsEOS() && len(ids) > 0 {
		ids = ids[:len(ids)-1]
	}
	return ids, err
}

// continuation tokenizes text that follows other text: a line break before it
// takes what tokenizers put at the very beginning of a text.
func (e *encoding) continuation(s string) ([]int32, error) {
	before, err := e.tok.TryEncode("\n", false)
	if err == nil {
		all, err := e.tok.TryEncode("\n"+s, false)
		if err == nil && len(all) >= len(before) && slices.Equal(all[:len(before)], before) {
			return all[len(before):], nil
		}
	}
	return e.tok.TryEncode(s, false)
}

// chat renders a conversation with the model's template and supervises what
// the assistant wrote after the first frozen messages, without muted ones.
func (e *encoding) chat(s *sample) (encoded, error) {
	if err := s.checkAsked(e.trainOn); err != nil {
		return encoded{}, err
	}
	c, err := e.conversation(s.chat)
	if err != nil {
		return encoded{}, err
	}
	text, spans, err := e.tmpl.Spans(*c)
	if err != nil {
		return encoded{}, templateError(err)
	}
	if err := checkRendered(text, c, spans); err != nil {
		return encoded{}, err
	}
	var cuts []int
	var hidden [][2]int // places in cuts
	ends := make([][2]int, len(spans))
	for i, span := range spans {
		ends[i][0] = len(cuts)
		cuts = append(cuts, span[0])
		if e.reasons == "mask" {
			for _, r := range reasoningIn(text[span[0]:span[1]], assistant(c, i)) {
				hidden = append(hidden, [2]int{len(cuts), len(cuts) + 1})
				cuts = append(cuts, span[0]+r[0], span[0]+r[1])
			}
		}
		ends[i][1] = len(cuts)
		cuts = append(cuts, span[1])
	}
	ids, at, note, err := e.cut(text, c, cuts)
	if err != nil {
		return encoded{}, bad("", "%v", err)
	}
	if err := e.checkChatBOS(text, ids); err != nil {
		return encoded{}, err
	}
	if note == "" && e.tok.AddsBOS() && len(ids) > 0 && ids[0] != e.tok.BOS() {
		note = noteNoBOS
	}
	turns := make([][2]int32, 0, len(spans))
	for _, end := range ends {
		turns = append(turns, [2]int32{at[end[0]], at[end[1]]})
	}
	var holes [][2]int32
	for _, i := range s.muted {
		holes = append(holes, turns[i])
	}
	for _, h := range hidden {
		holes = append(holes, [2]int32{at[h[0]], at[h[1]]})
	}
	slices.SortFunc(holes, func(a, b [2]int32) int { return int(a[0] - b[0]) })
	return encoded{ids: ids, loss: without(e.supervise(ids, turns, s.frozen), holes), note: note, lost: e.lostTexts(text, c, spans)}, nil
}

// conversation is c as the template gets it.
func (e *encoding) conversation(c *chat.Conversation) (*chat.Conversation, error) {
	if e.tmpl == nil {
		return nil, fail.Inputf("", "chat_template: FILE with the template of the instruct model of this family, or "+strings.Join(chat.Builtins(), ", ")+" by name, or rows of type text or prompt_completion",
			"the model has no chat template and the dataset is of type chat")
	}
	if len(e.vars) > 0 {
		vars := maps.Clone(e.vars)
		maps.Copy(vars, c.Extra)
		c.Extra = vars
	}
	if e.reasons == "drop" {
		c = withoutReasoning(c)
	}
	return c, nil
}

// templateError makes what a template failed with an error of the row.
func templateError(err error) error {
	var known *fail.Error
	if errors.As(err, &known) {
		return bad("", "template: %s", known.Msg)
	}
	return bad("", "template: %v", err)
}

// supervise chooses among the assistant's turns and the end tokens.
func (e *encoding) supervise(ids []int32, turns [][2]int32, frozen int) [][2]int32 {
	if frozen > 0 {
		turns = turns[frozen:]
	}
	if e.trainOn == "last" && len(turns) > 0 {
		turns = turns[len(turns)-1:]
	}
	loss := slices.DeleteFunc(slices.Clone(turns), func(r [2]int32) bool { return r[0] >= r[1] })
	if e.trainOn == "all" {
		loss = whole(ids)
	}
	switch e.eos {
	case "all":
		return append(loss, e.endTokens(ids, int32(len(ids)))...)
	case "none":
		return without(loss, e.endTokens(ids, int32(len(ids))))
	case "last":
		if len(turns) > 0 {
			return without(loss, e.endTokens(ids, turns[len(turns)-1][0]))
		}
	}
	return loss
}

// endTokens are the end-of-turn tokens of ids before a position, as ranges.
func (e *encoding) endTokens(ids []int32, before int32) [][2]int32 {
	var out [][2]int32
	for i, id := range ids[:before] {
		if e.isEnd(id) {
			out = append(out, [2]int32{int32(i), int32(i) + 1})
		}
	}
	return out
}

func (e *encoding) isEnd(id int32) bool {
	_, ok := slices.BinarySearch(e.ends, id)
	return ok
}

// checkRendered finds templates that drop what they were given.
func checkRendered(text string, c *chat.Conversation, spans [][2]int) error {
	if want := turns(c.Messages); len(spans) > want {
		return bad("", "the template marks %d parts of %d assistant turns with {%% generation %%}: chat_template: one that has a whole turn in one of them", len(spans), want)
	} else if len(spans) < want {
		return bad("", "%s: the template writes %d of %d assistant turns", noSupervised, len(spans), want)
	}
	for i, m := range c.Messages {
		if err := olderCall(text, i, m); err != nil {
			return err
		}
		calls, _ := m.Get("tool_calls")
		list, _ := calls.([]any)
		for _, call := range list {
			if name := functionName(call); !strings.Contains(text, name) {
				return bad("", "message %d: the template writes no tool calls (%s is lost); chat_template: chatml does", i, name)
			}
		}
	}
	tools, _ := c.Tools.([]any)
	for _, tool := range tools {
		if name := functionName(tool); name != "" && !strings.Contains(text, name) {
			return bad("tools", "the template writes no tools (%s is lost); chat_template: chatml does", name)
		}
	}
	return nil
}

// functionName is the name of a tool or tool call.
func functionName(v any) string {
	d, ok := v.(*jinja.Dict)
	if !ok {
		return ""
	}
	if f, ok := d.Get("function"); ok {
		if inner, ok := f.(*jinja.Dict); ok {
			d = inner
		}
	}
	return d.String("name")
}

// checkChatBOS compares the BOS the template wrote with what the ids begin with.
func (e *encoding) checkChatBOS(text string, ids []int32) error {
	bos := e.tok.BOS()
	if bos < 0 || len(ids) == 0 {
		return nil
	}
	name := e.tok.Token(bos)
	if strings.HasPrefix(text, name) && ids[0] != bos {
		return bad("", "BOS %q is lost: the template writes it and the tokenizer does not know it", name)
	}
	if len(ids) > 1 && ids[0] == bos && ids[1] == bos {
		return bad("", "begins with two BOS %q", name)
	}
	return nil
}

// check holds ids to the model's vocabulary.
func (e *encoding) check(ids []int32) error {
	for _, id := range ids {
		if id < 0 || e.vocab > 0 && id >= e.vocab {
			return fail.Inputf("", "use the tokenizer that came with the model, or resize the embedding",
				"token id %d%s, the model has %d: the tokenizer does not match the model", id, e.spell(id), e.vocab)
		}
	}
	return nil
}

func (e *encoding) spell(id int32) string {
	if e.tok == nil || id < 0 {
		return ""
	}
	return fmt.Sprintf(" (%q)", e.tok.Token(id))
}

// supervisesEnd tells whether an end token is supervised.
func (e *encoding) supervisesEnd(ids []int32, loss [][2]int32) bool {
	for _, r := range loss {
		if slices.ContainsFunc(ids[r[0]:r[1]], e.isEnd) {
			return true
		}
	}
	return false
}

// lostEnd tells whether the first limit tokens are without the supervised end tokens
// of the whole.
func (e *encoding) lostEnd(out encoded, limit int) bool {
	head := window(Example{IDs: out.ids, Loss: out.loss}, 0, limit)
	return e.supervisesEnd(out.ids, out.loss) && !e.supervisesEnd(head.IDs, head.Loss)
}
