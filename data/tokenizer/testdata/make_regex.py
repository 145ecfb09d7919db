# Makes regex.json: how Split of Hugging Face's tokenizers (0.23.3) cuts texts by regular
# expressions that other engines read otherwise.  python make_regex.py > regex.json
import json
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

PATTERNS = [r"^", r"^\s+|x", r"\P{N}+^", r"$", r"\A.|.\Z", r"(?m).", r"(?m:.+)", r"a(?m:.)b", r"(?-m:.)", r"a++b", r"\s*+\S", r"(?>\w+)\d", r"\w{1,2}?", r"(?i)a|b",
    r"x|(?i)a|b", r"(?i:'s|'t)", r"(?i)k", r"[\D]+", r"[^\D]+", r"[\P{L}]", r"[^\P{L}]", r"[^\P{L}\d]+", r"[\S]+", r"[^\S]", r"[^\S\n]+", r"[\S\p{Z}]", r"[\W]+", r"[^\W]+",
    r"[^\W_]+", r"[\W_]", r"[^\W\d_]+", r"[\P{Lu}a]+", r"[^\P{Nd}]+", r"[a\D-]+", r"[-\Wb]", r"[\W-]", r"[\W^]", r"[^\S^]", r"[^^]", r"(?<=[\W])\w", r"(?<![^\D])\w+", r"\p{Letter}+", r"\p{LC}",
    r"[\p{Lowercase_Letter}]", r"[\w-]+", r"[\d-]+", r"[^\w]", r"\w+", r"\W", r"\b\w", r"(?<=\s)\w", r"(?=\d)", r"\x{41}", r"\R", r"[\n-\r]", r"(?#c)a"]
TEXTS = ["a\n", "\n\na b", "it's 'S x'T", "aab aB AB-C_d", "K k \u212a ^K", "a1 12\u00b2 1-2", "\u00bd\u00b9x\u2167\u0663", "\u1c89\u1c8a \ua7cb", "\U00010d40\U00010d41a-", "\u4e2d \u3000\u00a0.\u0085_\u2028", "z-\\\r\n\t ", "\u24d0\u0301\u0302b", ""]

print(json.dumps({"texts": TEXTS, "pieces": {p: [[s for s, _ in Split(Regex(p), "isolated").pre_tokenize_str(t) if s] for t in TEXTS] for p in PATTERNS}}, separators=(",", ":")))
