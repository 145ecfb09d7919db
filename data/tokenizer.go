package data

// Tokenizer turns text into token ids and back, as the model's own tokenizer
// does. It may be used by several goroutines.
type Tokenizer struct{}

// ParseTokenizer reads a Hugging Face tokenizer.json and, where there is one,
// tokenizer_config.json (config may be nil). Anything in it that this package
// does not know is an error that names it, never ignored.
func ParseTokenizer(json, config []byte) (*Tokenizer, error) { return nil, nil }

// Encode returns the ids of text. Added tokens (such as <|im_start|>) are
// recognised in it; special adds what the tokenizer puts around a text, such as
// a BOS. Text is taken as UTF-8; a byte that is not becomes U+FFFD.
func (t *Tokenizer) Encode(text string, special bool) []int32 { return nil }

// EncodePlain is Encode for text that is data: special tokens written in it
// are text, and nothing is put around it.
func (t *Tokenizer) EncodePlain(text string) []int32 { return nil }

// Decode returns the text of ids; skipSpecial leaves special tokens out. Bytes
// that are no UTF-8 become U+FFFD.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string { return "" }

// BOS is the id that begins a text, or -1.
func (t *Tokenizer) BOS() int32 { return -1 }

// EOS is the id that ends a text, or -1.
func (t *Tokenizer) EOS() int32 { return -1 }

// PAD is the padding id, or -1.
func (t *Tokenizer) PAD() int32 { return -1 }

// EOSIDs are all ids that end a text or a turn, in ascending order.
func (t *Tokenizer) EOSIDs() []int32 { return nil }

// Token is the vocabulary's own spelling of an id, "" outside the vocabulary.
func (t *Tokenizer) Token(id int32) string { return "" }

// ID is the id of a token in the vocabulary's own spelling.
func (t *Tokenizer) ID(token string) (int32, bool) { return 0, false }

// Size is one more than the largest id.
func (t *Tokenizer) Size() int { return 0 }

// Hash is the SHA-256, in hex, of everything that shapes the ids.
func (t *Tokenizer) Hash() string { return "" }

// ChatTemplate is the template that came with the tokenizer, or "".
func (t *Tokenizer) ChatTemplate() string { return "" }
