package data

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/rows"
)

// sample is a row of any type, not yet tokenized. Exactly one of the groups is
// set.
type sample struct {
	text *string // text

	prompt, completion string // plain prompt and completion
	plain              bool

	chat   *chat.Conversation // chat, instruct, conversational prompt and completion
	frozen int                // assistant messages at the start that are not trained on
	muted  []int              // those that say themselves that they are not, in order
	asks   string             // a message of another role that says it is learned
	spares string             // one that says it is not

	ids, labels []int32 // tokens; labels may be nil

	mark float32 // as Example.Mark
	row  string  // of a prompt alone, plain or chat: its row as JSON
}

// bad makes the error of a row.
func bad(column, format string, args ...any) error {
	return &rows.RowError{Column: column, Reason: fmt.Sprintf(format, args...)}
}

// convert turns a row into a sample.
func convert(kind string, c columns, row *jinja.Dict, hasTemplate bool) (sample, error) {
	switch kind {
	case typeText:
		return convertText(c, row)
	case typeChat:
		return convertChat(c, row)
	case typeInstruct:
		return convertInstruct(c, row, hasTemplate)
	case typePrompt:
		return convertPrompt(c, row)
	case typeTokens:
		return convertTokens(c, row)
	case typePromptOnly:
		return convertPromptOnly(c, row, hasTemplate)
	}
	return sample{}, bad("", "rows of type %s are not trained on", kind)
}

// text is a column that must be text; allowNull makes null the empty text.
func (c columns) text(row *jinja.Dict, ours string, allowNull bool) (string, error) {
	v := c.get(row, ours)
	switch v := v.(type) {
	case string:
		return v, nil
	case nil:
		if allowNull {
			return "", nil
		}
	}
	name := c.name(row, ours)
	if name == "" {
		name = ours
	}
	return "", bad(name, "is %s, not text", rows.KindOf(v))
}

func convertText(c columns, row *jinja.Dict) (sample, error) {
	s, err := c.text(row, "text", false)
	if err == nil && s == "" {
		err = bad(c.name(row, "text"), "is empty")
	}
	return sample{text: &s}, err
}

func convertPrompt(c columns, row *jinja.Dict) (sample, error) {
	p, q := c.get(row, "prompt"), c.get(row, "completion")
	_, pList := p.([]any)
	_, qList := q.([]any)
	if pList != qList {
		return sample{}, bad("completion", "prompt is %s, completion %s: both must be text or both messages", rows.KindOf(p), rows.KindOf(q))
	}
	if pList {
		return convertPromptChat(c, row, p, q)
	}
	prompt, err := c.text(row, "prompt", false)
	if err != nil {
		return sample{}, err
	}
	completion, err := c.text(row, "completion", false)
	if err == nil && completion == "" {
		err = bad(c.name(row, "completion"), "is empty")
	}
	return sample{prompt: prompt, completion: completion, plain: true}, err
}

func convertPromptChat(c columns, row *jinja.Dict, p, q any) (sample, error) {
	prompt, err := c.messages(c.name(row, "prompt"), p)
	if err != nil {
		return sample{}, err
	}
	completion, err := c.messages(c.name(row, "completion"), q)
	if err != nil {
		return sample{}, err
	}
	conv, err := c.conversation(row, append(prompt, completion...))
	if err != nil {
		return sample{}, err
	}
	return chatSample(conv, turns(prompt))
}

func convertInstruct(c columns, row *jinja.Dict, hasTemplate bool) (sample, error) {
	instruction, err := c.text(row, "instruction", false)
	if err != nil {
		return sample{}, err
	}
	input, err := c.text(row, "input", true)
	if err != nil {
		return sample{}, err
	}
	output, err := c.text(row, "output", false)
	if err == nil && output == "" {
		err = bad(c.name(row, "output"), "is empty")
	}
	if err != nil {
		return sample{}, err
	}
	history, err := c.history(row)
	if err == nil {
		err = checkMedia(row)
	}
	if err != nil {
		return sample{}, err
	}
	if !hasTemplate {
		if len(history) > 0 {
			return sample{}, bad(c.name(row, "history"), "earlier turns need a chat template, and the model has none")
		}
		return sample{prompt: alpaca(instruction, input), completion: output, plain: true}, nil
	}
	if input != "" {
		instruction += "\n" + input
	}
	conv, err := c.conversation(row, append(history, chat.NewMessage("user", instruction), chat.NewMessage("assistant", output)))
	return sample{chat: conv}, err
}

// alpaca is the plain form of an instruction that the Stanford Alpaca models
// were trained with, for models without a chat template.
func alpaca(instruction, input string) string {
	const below = "Below is an instruction that describes a task"
	if input == "" {
		return below + ". Write a response that appropriately completes the request.\n\n### Instruction:\n" + instruction + "\n\n### Response:\n"
	}
	return below + ", paired with an input that provides further context. Write a response that appropriately completes the request.\n\n" +
		"### Instruction:\n" + instruction + "\n\n### Input:\n" + input + "\n\n### Response:\n"
}

func convertChat(c columns, row *jinja.Dict) (sample, error) {
	name := c.name(row, "messages")
	messages, err := c.messages(name, c.get(row, "messages"))
	if err != nil {
		return sample{}, err
	}
	conv, err := c.conversation(row, messages)
	if err != nil {
		return sample{}, err
	}
	return chatSample(conv, 0)
}

// conversation is messages with what else a row tells the template. A system text goes before messages
// that have none.
func (c columns) conversation(row *jinja.Dict, messages []chat.Message) (*chat.Conversation, error) {
	conv := &chat.Conversation{Messages: messages}
	system, err := c.text(row, "system", true)
	if system != "" && (len(messages) == 0 || messages[0].Role() != "system") {
		conv.Messages = append([]chat.Message{chat.NewMessage("system", system)}, messages...)
	}
	if err == nil {
		err = checkMedia(row)
	}
	if err == nil {
		conv.Tools, err = c.tools(row)
	}
	if err == nil {
		conv.Extra, err = templateVars(row)
	}
	return conv, err
}

// roles are the names of roles in datasets and what templates call them.
var roles = map[string]string{
	"system": "system", "developer": "developer", "user": "user", "assistant": "assistant", "tool": "tool",
	"function": "function", "ipython": "ipython",
	// ShareGPT and its relatives.
	"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bot": "assistant", "model": "assistant",
	"observation": "tool", "function_response": "tool", "function_call": "function_call", "tool_call": "function_call",
}

// messages reads a list of messages, or the JSON text of one.
func (c columns) messages(column string, v any) ([]chat.Message, error) {
	if s, ok := v.(string); ok && strings.HasPrefix(strings.TrimSpace(s), "[") {
		parsed, err := rows.ParseJSON([]byte(s))
		if err != nil {
			return nil, bad(column, "%v", err)
		}
		v = parsed
	}
	list, ok := v.([]any)
	if d, isObject := v.(*jinja.Dict); isObject {
		if list, ok = unzipped(d); !ok {
			return nil, bad(column, "is an object, not a list of messages; an object of lists has as many of each: {role: [user, …], content: [hello, …]}")
		}
	}
	if !ok {
		return nil, bad(column, "is %s, not a list of messages", rows.KindOf(v))
	}
	if len(list) == 0 {
		return nil, bad(column, "has no messages")
	}
	out := make([]chat.Message, 0, len(list))
	for i, e := range list {
		d, ok := e.(*jinja.Dict)
		if !ok {
			return nil, bad(column, "message %d is %s", i, rows.KindOf(e))
		}
		m, err := c.message(d)
		if err != nil {
			return nil, bad(column, "message %d: %v", i, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// message brings a message into the form that chat templates expect: role and
// content first, ShareGPT's function_call as a tool call, null fields left out,
// tool arguments written as JSON text parsed. Parts other than text are refused.
func (c columns) message(d *jinja.Dict) (chat.Message, error) {
	roleKey, contentKey := c.name(d, "role"), c.name(d, "content")
	name, ok := c.get(d, "role").(string)
	if !ok {
		return chat.Message{}, fmt.Errorf("has no role (fields: %s)", strings.Join(rowKeys(d), ", "))
	}
	role, ok := roles[name]
	if !ok {
		return chat.Message{}, fmt.Errorf("role %q is not known", name)
	}
	content := c.get(d, "content")
	m := chat.Message{Dict: jinja.NewDict("role", role, "content", content)}
	if role == "function_call" {
		var err error
		if m, err = functionCall(content); err != nil {
			return chat.Message{}, err
		}
		content = ""
	}
	for i := range d.Len() {
		k, v := d.At(i)
		if k != roleKey && k != contentKey && v != nil {
			m.Set(k, v)
		}
	}
	calls, err := toolCalls(m)
	if err != nil {
		return chat.Message{}, err
	}
	switch content.(type) {
	case string, []any:
		return m, m.CheckText()
	case nil:
		if !calls {
			return chat.Message{}, fmt.Errorf("%s has no content", role)
		}
	default:
		return chat.Message{}, fmt.Errorf("content is %s", rows.KindOf(content))
	}
	return m, nil
}

// functionCall makes ShareGPT's {"name": …, "arguments": …} an assistant turn.
func functionCall(content any) (chat.Message, error) {
	s, ok := content.(string)
	if !ok {
		return chat.Message{}, fmt.Errorf("function_call is %s, not JSON text", rows.KindOf(content))
	}
	v, err := rows.ParseJSON([]byte(s))
	if err != nil {
		return chat.Message{}, fmt.Errorf("function_call: %w", err)
	}
	calls, ok := v.([]any)
	if !ok {
		calls = []any{v}
	}
	for i, call := range calls {
		calls[i] = jinja.NewDict("type", "function", "function", call)
	}
	m := chat.NewMessage("assistant", "")
	m.Set("tool_calls", calls)
	return m, nil
}

// toolCalls checks a message's tool calls and parses arguments that are JSON
// text, as servers do before they render. It tells whether there are any.
func toolCalls(m chat.Message) (bool, error) {
	v, ok := m.Get("tool_calls")
	if !ok {
		return false, nil
	}
	list, ok := v.([]any)
	if !ok {
		return false, fmt.Errorf("tool_calls is %s, not a list", rows.KindOf(v))
	}
	for i, e := range list {
		call, ok := e.(*jinja.Dict)
		if !ok {
			return false, fmt.Errorf("tool call %d is %s", i, rows.KindOf(e))
		}
		f := call
		if inner, ok := call.Get("function"); ok {
			if f, ok = inner.(*jinja.Dict); !ok {
				return false, fmt.Errorf("tool call %d: function is %s", i, rows.KindOf(inner))
			}
		}
		if f.String("name") == "" {
			return false, fmt.Errorf("tool call %d has no name", i)
		}
		if s, ok := f.Get("arguments"); ok {
			if text, ok := s.(string); ok {
				if args, err := rows.ParseJSON([]byte(text)); err == nil {
					f.Set("arguments", args)
				}
			}
		}
	}
	return len(list) > 0, nil
}

// prune leaves null fields out of a value.
func prune(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = prune(v[i])
		}
	case *jinja.Dict:
		out := &jinja.Dict{}
		for i := range v.Len() {
			if k, e := v.At(i); e != nil {
				out.Set(k, prune(e))
			}
		}
		return out
	}
	return v
}

// tools is the tools column: a list of descriptions, each an object or its JSON
// text, or the JSON text of the list.
func (c columns) tools(row *jinja.Dict) (any, error) {
	v := c.get(row, "tools")
	name := c.name(row, "tools")
	if older, ok := row.Get("functions"); ok && older != nil {
		if v != nil {
			return nil, bad("functions", "%s and its older form functions are both given", name)
		}
		v, name = functionTools(older), "functions"
	}
	if s, ok := v.(string); ok {
		if strings.TrimSpace(s) == "" {
			return nil, nil
		}
		parsed, err := rows.ParseJSON([]byte(s))
		if err != nil {
			return nil, bad(name, "%v", err)
		}
		v = parsed
	}
	if d, ok := v.(*jinja.Dict); ok {
		if list, ok := unzipped(d); ok {
			v = list
		}
	}
	list, ok := v.([]any)
	if !ok && v != nil {
		return nil, bad(name, "is %s, not a list of tools", rows.KindOf(v))
	}
	if len(list) == 0 {
		return nil, nil
	}
	for i, tool := range list {
		if s, ok := tool.(string); ok { // JSON text, for columns that hold one kind of value
			parsed, err := rows.ParseJSON([]byte(s))
			if err != nil {
				return nil, bad(name, "tool %d: %v", i, err)
			}
			list[i] = parsed
		}
		if _, ok := list[i].(*jinja.Dict); !ok {
			return nil, bad(name, "tool %d is %s, not an object", i, rows.KindOf(list[i]))
		}
	}
	return list, nil
}

// turns counts the assistant's messages.
func turns(messages []chat.Message) int {
	n := 0
	for _, m := range messages {
		if m.Role() == "assistant" {
			n++
		}
	}
	return n
}

// checkConversation checks that there is something to learn after the frozen
// messages.
func checkConversation(conv *chat.Conversation, frozen int) error {
	if turns(conv.Messages) <= frozen {
		return bad("", "no assistant message to train on")
	}
	if last := conv.Messages[len(conv.Messages)-1]; frozen > 0 && last.Role() != "assistant" {
		return bad("", "completion ends with a message of %s", last.Role())
	}
	return nil
}

func convertTokens(c columns, row *jinja.Dict) (sample, error) {
	ids, err := c.ints(row, "input_ids")
	if err != nil {
		return sample{}, err
	}
	if len(ids) == 0 {
		return sample{}, bad(c.name(row, "input_ids"), "is empty")
	}
	s := sample{ids: ids}
	if err := checkPacked(c, row); err != nil {
		return sample{}, err
	}
	if c.get(row, "labels") != nil {
		if s.labels, err = c.ints(row, "labels"); err != nil {
			return sample{}, err
		}
	}
	if err := s.mask(c, row); err != nil {
		return sample{}, err
	}
	if c.get(row, "attention_mask") != nil {
		mask, err := c.ints(row, "attention_mask")
		if err != nil {
			return sample{}, err
		}
		if err := s.unpad(mask); err != nil {
			return sample{}, err
		}
	}
	return s, s.checkLabels(c.name(row, "labels"))
}

// convertTokenPair is convertTokens for a model with an encoder, which reads input_ids;
// labels are the answer, as Transformers' collator of such models takes them.
func convertTokenPair(c columns, row *jinja.Dict) (sample, error) {
	ids, err := c.ints(row, "input_ids")
	if err != nil {
		return sample{}, err
	}
	s := sample{ids: ids}
	if err := checkPacked(c, row); err != nil {
		return sample{}, err
	}
	if c.get(row, "attention_mask") != nil {
		mask, err := c.ints(row, "attention_mask")
		if err == nil {
			err = s.unpad(mask)
		}
		if err != nil {
			return sample{}, err
		}
	}
	if c.get(row, "labels") == nil {
		return sample{}, bad("labels", "is missing: it is the answer to input_ids")
	}
	answer, err := c.ints(row, "labels")
	if err != nil {
		return sample{}, err
	}
	answer = slices.DeleteFunc(answer, func(id int32) bool { return id == ignored })
	if len(s.ids) == 0 || len(answer) == 0 {
		return sample{}, bad(c.name(row, "labels"), "%d tokens answer %d input_ids", len(answer), len(s.ids))
	}
	s.labels = append(slices.Repeat([]int32{ignored}, len(s.ids)), answer...)
	s.ids = slices.Concat(s.ids, answer)
	return s, nil
}

// ints is a column that must be a list of whole numbers.
func (c columns) ints(row *jinja.Dict, ours string) ([]int32, error) {
	v := c.get(row, ours)
	list, ok := v.([]any)
	if !ok {
		return nil, bad(c.name(row, ours), "is %s, not a list of numbers", rows.KindOf(v))
	}
	out := make([]int32, len(list))
	for i, e := range list {
		n, ok := e.(int64)
		if !ok || n != int64(int32(n)) {
			return nil, bad(c.name(row, ours), "element %d is %s, not a whole number of 32 bits", i, rows.Shown(e))
		}
		out[i] = int32(n)
	}
	return out, nil
}

// unpad takes out the tokens that an attention mask leaves out.
func (s *sample) unpad(mask []int32) error {
	if len(mask) != len(s.ids) || s.labels != nil && len(s.labels) != len(s.ids) {
		return bad("attention_mask", "lengths differ: %d input_ids, %d labels, %d attention_mask", len(s.ids), len(s.labels), len(mask))
	}
	var ids, labels []int32
	for i, m := range mask {
		if m != 0 && m != 1 {
			return bad("attention_mask", "element %d is %d", i, m)
		}
		if m == 0 && s.labels != nil && s.labels[i] != ignored {
			return bad("labels", "element %d is supervised and masked out", i)
		}
		if m == 1 {
			ids = append(ids, s.ids[i])
			if s.labels != nil {
				labels = append(labels, s.labels[i])
			}
		}
	}
	s.ids, s.labels = ids, labels
	if len(ids) == 0 {
		return bad("attention_mask", "masks every token out")
	}
	return nil
}

// ignored is the label of a token without supervision.
const ignored = -100

func (s *sample) checkLabels(column string) error {
	if s.labels == nil {
		return nil
	}
	if len(s.labels) != len(s.ids) {
		return bad(column, "%d labels for %d input_ids", len(s.labels), len(s.ids))
	}
	i := slices.IndexFunc(s.labels, func(l int32) bool { return l != ignored })
	for ; i >= 0 && i < len(s.labels); i++ {
		if s.labels[i] != ignored && s.labels[i] != s.ids[i] {
			return bad(column, "element %d is %d: neither -100 nor the token %d", i, s.labels[i], s.ids[i])
		}
	}
	return nil
}
