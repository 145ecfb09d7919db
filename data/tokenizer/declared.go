package tokenizer

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/data/jinja"
)

// specialKeys name a special token each in tokenizer_config.json.
var specialKeys = []string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}

// overlaid is tokenizer_config.json with what special_tokens_map.json says over it. As in Transformers 5.23
// (PreTrainedTokenizerBase._from_pretrained) that goes first where there is no added_tokens_decoder, and is not read where
// there is one.
func overlaid(config, special *jinja.Dict) *jinja.Dict {
	if _, ok := config.Get("added_tokens_decoder"); ok || special.Len() == 0 {
		return config
	}
	const old, extra = "additional_special_tokens", "extra_special_tokens"
	out := config.Clone()
	if v, _ := out.Get(extra); v == nil || len(valuesOf(v)) == 0 {
		if v, ok := out.Get(old); ok {
			out.Delete(old)
			out.Set(extra, v)
		}
	}
	for i := range special.Len() {
		key, v := special.At(i)
		if list, ok := v.([]any); ok && key == extra {
			if before, _ := out.Get(extra); before != nil {
				v = append(slices.Clone(valuesOf(before)), list...)
			}
		}
		if d, ok := v.(*jinja.Dict); ok && key != extra {
			d = d.Clone()
			d.Set("special", true)
			v = d
		}
		out.Set(key, v)
	}
	return out
}

// declaredTokens are the special tokens that a configuration names, in the order in which Transformers adds them: those with
// a key of their own (bos_token …, then image_token and the like), and those of the lists. Roles are the texts that have a name,
// in an object instead of a list too: it makes them special. Of a text that is named several times the last flags hold; what is said again
// word for word says nothing.
func declaredTokens(config *jinja.Dict) (named, listed []addedToken, roles map[string]bool) {
	roles = map[string]bool{}
	type said struct {
		a    addedToken
		text bool // as a text, not as an object
	}
	seen := map[said]bool{}
	add := func(to *[]addedToken, v any, role bool) {
		a, ok := token(v)
		if !ok {
			return
		}
		_, text := v.(string)
		again := seen[said{a, text}]
		seen[said{a, text}] = true
		a.Special = a.Special || role || text
		roles[a.Content] = roles[a.Content] || role
		same := func(b addedToken) bool { return b.Content == a.Content }
		for _, list := range [][]addedToken{named, listed} {
			if i := slices.IndexFunc(list, same); i >= 0 {
				if a.Special = a.Special || list[i].Special; again {
					a = list[i]
				}
				list[i] = a
			}
		}
		if !slices.ContainsFunc(*to, same) {
			*to = append(*to, a)
		}
	}
	for _, key := range specialKeys {
		v, _ := config.Get(key)
		add(&named, v, true)
	}
	for i := range config.Len() {
		key, v := config.At(i)
		if k, ok := key.(string); ok && strings.HasSuffix(k, "_token") && !slices.Contains(specialKeys, k) {
			add(&named, v, true)
		}
	}
	v, _ := config.Get("extra_special_tokens")
	if v == nil || len(valuesOf(v)) == 0 {
		v, _ = config.Get("additional_special_tokens")
	}
	_, names := v.(*jinja.Dict)
	for _, e := range valuesOf(v) {
		add(&listed, e, names)
	}
	return named, listed, roles
}

// declared takes over what t.words says of added tokens, as Transformers does, whose word goes before
// tokenizer.json's: the flags in added_tokens_decoder or added_tokens.json, tokens that only stand there, and special tokens
// that tokenizer.json has as ordinary ones or, of the lists, not at all. Those get the next ids, and before
// them, since Transformers counts so, named tokens that are nowhere; without such lists those are none. What is special
// anywhere stays so. A role makes a token special, but for one that tokenizer.json has as an ordinary added token where
// there is an added_tokens_decoder that does not list it. top is the largest id so far.
func (t *Tokenizer) declared(top int32) error {
	at := map[string]int{} // in t.added, the first of each text
	for i, a := range t.added {
		top = max(top, a.ID)
		if _, ok := at[a.Content]; !ok {
			at[a.Content] = i
		}
	}
	place := func(a addedToken) addedToken {
		id, ok := t.ids[a.Content]
		if !ok {
			top++
			id = top
		}
		a.ID = id
		at[a.Content] = len(t.added)
		t.added = append(t.added, a)
		return a
	}
	named, listed, roles := declaredTokens(t.words)
	where, list, err := t.addedList(func(content string) bool {
		return roles[content] || slices.ContainsFunc(listed, func(a addedToken) bool { return a.Content == content })
	})
	if err != nil {
		return err
	}
	if _, ok := t.words.Get("added_tokens_decoder"); !ok {
		for i, a := range t.added {
			t.added[i].Special = a.Special || roles[a.Content]
		}
	}
	for _, a := range list {
		a.Special = a.Special || roles[a.Content]
		if i, ok := at[a.Content]; ok {
			a.ID, a.Special = t.added[i].ID, a.Special || t.added[i].Special
			t.added[i] = a
			continue
		}
		_, known := t.ids[a.Content]
		if got := place(a); !known && got.ID != a.ID {
			return fmt.Errorf("%s: %q has id %d, by tokenizer.json its id is %d", where, clip(a.Content), a.ID, got.ID)
		}
	}
	var absent []addedToken // named, and nowhere so far
	for i, a := range append(slices.Clone(named), listed...) {
		_, known := t.ids[a.Content]
		_, placed := at[a.Content]
		switch {
		case placed:
		case known:
			place(a)
		case i < len(named):
			absent = append(absent, a)
		default:
			for _, b := range append(absent, a) {
				if _, placed := at[b.Content]; !placed {
					place(b)
				}
			}
			absent = nil
		}
	}
	return nil
}

// addedList is added_tokens_decoder or, without it, added_tokens.json in the order of its ids, without those that
// tokenizer.json has; of that file, special are those of which the function says so.
func (t *Tokenizer) addedList(special func(content string) bool) (where string, list []addedToken, err error) {
	if _, ok := t.words.Get("added_tokens_decoder"); ok {
		list, err = decoderOf(t.words)
		return "added_tokens_decoder", list, err
	}
	const name = "added_tokens.json"
	d, err := t.dict(name)
	if err != nil {
		return name, nil, err
	}
	for i := range d.Len() {
		key, v := d.At(i)
		id, ok := v.(int64)
		content, _ := key.(string)
		if !ok || content == "" || id < 0 || id > math.MaxInt32 {
			return name, nil, fmt.Errorf("%s: %q has %.20q, want an id", name, clip(content), fmt.Sprint(v))
		}
		if slices.ContainsFunc(t.added, func(a addedToken) bool { return a.ID == int32(id) }) {
			continue
		}
		s := special(content)
		list = append(list, addedToken{ID: int32(id), Content: content, Normalized: !s, Special: s})
	}
	sortByID(list)
	return name, list, nil
}

func sortByID(list []addedToken) {
	slices.SortStableFunc(list, func(a, b addedToken) int { return cmp.Compare(a.ID, b.ID) })
}

// decoderOf is added_tokens_decoder of a configuration in the order of its ids.
func decoderOf(config *jinja.Dict) ([]addedToken, error) {
	v, ok := config.Get("added_tokens_decoder")
	if !ok || v == nil {
		return nil, nil
	}
	d, ok := v.(*jinja.Dict)
	if !ok {
		return nil, fmt.Errorf("added_tokens_decoder is no object")
	}
	var out []addedToken
	for i := range d.Len() {
		key, v := d.At(i)
		id, err := strconv.ParseInt(fmt.Sprint(key), 10, 32)
		a, ok := token(v)
		if err != nil || !ok || id < 0 {
			return nil, fmt.Errorf("added_tokens_decoder: %v is no token with an id", clip(fmt.Sprint(key)))
		}
		a.ID = int32(id)
		out = append(out, a)
	}
	sortByID(out)
	return out, nil
}

// valuesOf are special tokens given as one, a list, or an object of names.
func valuesOf(v any) []any {
	d, ok := v.(*jinja.Dict)
	if _, one := d.Get("content"); !ok || one {
		return listOf(v)
	}
	var out []any
	for i := range d.Len() {
		_, e := d.At(i)
		out = append(out, e)
	}
	return out
}

// SpecialTexts are the special tokens by the names under which chat templates know them in Transformers: bos_token, pad_token,
// sep_token …, image_token and the like, and those of extra_special_tokens. A tokenizer of GGUF keys has none but those of its ids.
func (t *Tokenizer) SpecialTexts() map[string]string {
	out := map[string]string{}
	for i := range t.words.Len() {
		key, v := t.words.At(i)
		name, _ := key.(string)
		if name == "extra_special_tokens" {
			more, _ := v.(*jinja.Dict)
			for i := range more.Len() {
				key, v := more.At(i)
				name, _ := key.(string)
				if a, ok := token(v); ok && name != "" {
					out[name] = a.Content
				}
			}
		}
		if a, ok := token(v); ok && strings.HasSuffix(name, "_token") {
			out[name] = a.Content
		}
	}
	if t.config == nil {
		for key, id := range map[string]int32{"pad_token": t.pad, "unk_token": t.unk} {
			if s := t.Token(id); s != "" {
				out[key] = s
			}
		}
	}
	return out
}
