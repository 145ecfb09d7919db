"""Which characters Hugging Face's tokenizers 0.23.3 takes for what: a hash for each normalizer and class.

python make_unicode.py > unicode.json
"""
import hashlib
import json

from tokenizers import AddedToken, Regex, Tokenizer, models as M, normalizers as N, pre_tokenizers as P

CHARS = [chr(c) for c in [*range(0xD800), *range(0xE000, 0x20000), *range(0x2EB00, 0x2F000)]]
out = {}


def hashed(name, texts):
    out[name] = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


for name in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"]:
    n = getattr(N, name)()
    hashed(name, (n.normalize_str("a" + c + "\u0334") for c in CHARS))
for i, name in enumerate(["clean_text", "handle_chinese_chars", "strip_accents", "lowercase"]):
    n = N.BertNormalizer(*(i == k for k in range(4)))
    hashed(name, (n.normalize_str("a" + c) for c in CHARS))
pre = {"Whitespace": P.Whitespace(), "Punctuation": P.Punctuation(), "BertPreTokenizer": P.BertPreTokenizer(), "Digits": P.Digits(True)}
for p in [r"\p{L}", r"\p{N}", r"\p{M}", r"\p{P}", r"\p{S}", r"\p{Lu}", r"\p{Han}", r"\w", r"\W", r"\d", r"\s", r"[^\p{L}\d]", r"\P{L}", r"[\d-]", r"[-\w]"]:
    pre[p] = P.Split(Regex(p), "isolated")
for name, p in pre.items():
    hashed(name, ("|".join(s for s, _ in p.pre_tokenize_str("a" + c + "-")) for c in CHARS))
t = Tokenizer(M.WordLevel({"<unk>": 0}, unk_token="<unk>"))
t.add_tokens([AddedToken("X", single_word=True, normalized=False)])
hashed("single_word", (str(len(t.encode(c + "X").ids)) for c in CHARS))
print(json.dumps(out, indent=1))
