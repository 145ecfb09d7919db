"""Small tokenizers, one for each corner of tokenizer.json, and what Hugging Face's tokenizers 0.23.3 make of texts.

python make_corners.py | gzip -9n > corners.jsonl.gz
"""
import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders as D, models as M, normalizers as N, pre_tokenizers as P, processors as T, trainers as R

TEXTS = ["", "aaaa bbbb abab  ab   abc    x", "It's 12 under_score, CamelCase 3½²", "İſ Ⅷ ₁२ é e\u0301 हिन्दी ไทย ‿ Ⓐ", "foo<s> foo foobar<s>x<s>y FOO [X]foo", " \u0301ab\u200d c", "🦙日本語\U00092765Q", "▁▁ab<mask> foo", "a\x00b\r\n\tc\u0085d", "a🄰b 🅐c-🅿d 🅰🆊"]
SMALL = {"show_progress": False, "special_tokens": ["<unk>"]}


def bpe(size=90, alphabet=(), **options):
    return M.BPE(unk_token="<unk>", **options), R.BpeTrainer(vocab_size=size, initial_alphabet=list(alphabet), **{k: options[k] for k in ("continuing_subword_prefix", "end_of_word_suffix") if k in options}, **SMALL)


def unigram():
    return M.Unigram(), R.UnigramTrainer(vocab_size=120, unk_token="<unk>", **SMALL)


def words():
    return M.WordPiece(unk_token="<unk>"), R.WordPieceTrainer(vocab_size=120, **SMALL)


def make(name, model, norm=None, pre=None, post=None, dec=None, added=(), change=lambda j: None):
    t = Tokenizer(model[0])
    if norm:
        t.normalizer = norm
    if pre:
        t.pre_tokenizer = pre
    if dec:
        t.decoder = dec
    t.train_from_iterator(TEXTS[:6], model[1])
    for content, special, flags in added:
        (t.add_special_tokens if special else t.add_tokens)([AddedToken(content, **{"normalized": False, **flags})])
    if post:
        t.post_processor = post(t)
    j = json.loads(t.to_str())
    change(j)
    t = Tokenizer.from_str(json.dumps(j))
    cases = []
    for text in TEXTS:
        ids, special = t.encode(text, add_special_tokens=False).ids, t.encode(text).ids
        cases.append({"text": text, "ids": ids, "ids_special": special, "decoded": t.decode(special, skip_special_tokens=False) if special else "",
                      "skipped": t.decode(special) if special else ""})
    print(json.dumps({"name": name, "tokenizer": j, "cases": cases}, ensure_ascii=False))


def bytes_of(j, fallback):
    """Byte tokens behind those of the vocabulary."""
    if fallback:
        for b in range(256):
            j["model"]["vocab"].setdefault(f"<0x{b:02X}>", len(j["model"]["vocab"]))


S, FOO, MASK = ("<s>", True, {}), ("foo", False, {"single_word": True}), ("<mask>", True, {"lstrip": True})
ALPHABET = P.ByteLevel.alphabet()
SPLIT, BYTES = P.Split(Regex(r"'s| ?\p{L}+|\s+"), "isolated"), P.ByteLevel(add_prefix_space=False, use_regex=False)
make("end of word", bpe(end_of_word_suffix="</w>"), N.Lowercase(), P.Whitespace(), dec=D.BPEDecoder("</w>"), added=[S])
make("end of word in bytes", bpe(320, ALPHABET, end_of_word_suffix="</w>"), None, P.Sequence([SPLIT, BYTES]), dec=D.ByteLevel(), added=[S])
make("subword prefix", bpe(continuing_subword_prefix="##"), None, P.WhitespaceSplit(), dec=D.WordPiece("##", False))
make("bytes amiss", bpe(), None, P.ByteLevel(False), dec=D.ByteLevel())
make("bytes amiss, fused", bpe(fuse_unk=True), None, P.ByteLevel(True), dec=D.ByteLevel())
make("bytes amiss, fallback", bpe(), None, P.ByteLevel(True), dec=D.ByteLevel(), change=lambda j: (bytes_of(j, True), j["model"].update(byte_fallback=True)))
make("nothing unknown", bpe(), N.Replace(" ", "▁"), None, dec=D.Metaspace(), change=lambda j: j["model"].update(unk_token=None))
make("whole words first", bpe(ignore_merges=True), N.Replace(" ", "▁"), P.Split("b", "removed"), dec=D.Fuse())
make("word level", (M.WordLevel(unk_token="<unk>"), R.WordLevelTrainer(vocab_size=30, **SMALL)), None, P.Whitespace(), added=[S, FOO])
make("unigram of bytes", unigram(), None, P.ByteLevel(True), dec=D.ByteLevel(), added=[S])
make("pieces of bytes", words(), None, BYTES, dec=D.CTC(), added=[S])
make("words behind bytes", bpe(320, ALPHABET), None, P.Sequence([BYTES, P.Split(Regex(r"Ġ|\d"), "isolated"), P.Punctuation()]), dec=D.ByteLevel())
make("bytes by normalizer", bpe(320, ALPHABET), N.Sequence([N.NFC(), N.ByteLevel()]), None, dec=D.ByteLevel(), added=[("é", False, {"normalized": True}), S])
make("equal lengths", bpe(), None, P.FixedLength(3), dec=D.CTC(cleanup=False))
make("added tokens are no pieces", words(), None, P.WhitespaceSplit(), dec=D.WordPiece(), added=[FOO, S, MASK])
make("spaces taken twice", bpe(), None, None, dec=D.Fuse(), added=[("<s>", True, {"rstrip": True}), ("foo", False, {"lstrip": True}), (" foo", False, {}), MASK])
make("tokens in lower case", bpe(), N.Lowercase(), P.Whitespace(), added=[("FOO", True, {"normalized": True}), ("[X]", False, {"normalized": True}), S])
make("marks", bpe(), N.Sequence([N.NFD(), N.StripAccents()]), P.WhitespaceSplit(), dec=D.Fuse())
make("Bert's marks", words(), N.BertNormalizer(), P.BertPreTokenizer(), dec=D.WordPiece())
make("word characters", bpe(), N.Replace(Regex(r"\b"), "|"), P.Split(Regex(r"\w+"), "contiguous"))
make("nothing replaced", bpe(), N.Replace(Regex("b*"), "-"), P.Split(Regex(r"(?=[A-Z])"), "merged_with_previous"))
make("first of a stripped text", unigram(), N.Strip(True, False), P.Metaspace(prepend_scheme="first"), dec=D.Metaspace(prepend_scheme="first"))
make("one template", bpe(), None, P.Whitespace(), lambda t: T.Sequence([T.ByteLevel(), T.TemplateProcessing("$A <s>:1", special_tokens=[("<s>", t.token_to_id("<s>"))])]), added=[S])
for seed in range(2):
    make(f"equal sums {seed}", (unigram()[0], R.UnigramTrainer(vocab_size=100 + seed, unk_token="<unk>", **SMALL)), N.Prepend("▁"), None, dec=D.Fuse())
