package tokenizer

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/tunekit/tunekit/data/jinja"
)

// specialKeys name a special token each in tokenizer_config.json.
var specialKeys = []string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}

// declaringKeys are those, and those that name several.
var declaringKeys = append(slices.Clone(specialKeys), "additional_special_tokens", "extra_special_tokens")

// declared takes over what tokenizer_config.json says of added tokens, as Transformers does, whose word goes before
// tokenizer.json's: the flags in added_tokens_decoder, tokens that only stand there, and special tokens that
// tokenizer.json has as ordinary ones or, of the lists, not at all. Those get the next ids, and before
// them, since Transformers counts so, named tokens that are nowhere; without such lists those are none. What is special
// anywhere stays so. top is the largest id so far.
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
	named := map[string]bool{}
	for _, key := range specialKeys {
		v, _ := t.config.Get(key)
		if a, ok := token(v); ok {
			named[a.Content] = true
		}
	}
	list, err := decoderOf(t.config)
	if err != nil {
		return err
	}
	for _, a := range list {
		a.Special = a.Special || named[a.Content]
		if i, ok := at[a.Content]; ok {
			a.ID, a.Special = t.added[i].ID, a.Special || t.added[i].Special
			t.added[i] = a
			continue
		}
		_, known := t.ids[a.Content]
		if got := place(a); !known && got.ID != a.ID {
			return fmt.Errorf("added_tokens_decoder: %q has id %d, by tokenizer.json its id is %d", clip(a.Content), a.ID, got.ID)
		}
	}
	var absent []addedToken // named, and nowhere so far
	for _, key := range declaringKeys {
		v, _ := t.config.Get(key)
		for _, e := range valuesOf(v) {
			a, ok := token(e)
			a.Special = true
			_, known := t.ids[a.Content]
			_, placed := at[a.Content]
			switch {
			case !ok || placed:
			case known:
				place(a)
			case slices.Contains(specialKeys, key):
				absent = append(absent, a)
			default:
				for _, b := range absent {
					if _, placed := at[b.Content]; !placed {
						place(b)
					}
				}
				absent = nil
				if _, placed := at[a.Content]; !placed {
					place(a)
				}
			}
		}
	}
	return nil
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
	slices.SortStableFunc(out, func(a, b addedToken) int { return cmp.Compare(a.ID, b.ID) })
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
// sep_token …, and those of extra_special_tokens. A tokenizer of GGUF keys has none but those of its ids.
func (t *Tokenizer) SpecialTexts() map[string]string {
	out := map[string]string{}
	special, _ := t.dict("special_tokens_map.json")
	for _, d := range []*jinja.Dict{special, t.config} {
		extra, _ := d.Get("extra_special_tokens")
		more, _ := extra.(*jinja.Dict)
		for i := range more.Len() {
			key, v := more.At(i)
			name, _ := key.(string)
			if a, ok := token(v); ok && name != "" {
				out[name] = a.Content
			}
		}
		for _, key := range specialKeys {
			v, _ := d.Get(key)
			if a, ok := token(v); ok {
				out[key] = a.Content
			}
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
