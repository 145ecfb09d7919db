# A unigram model with SentencePiece's nmt_nfkc rules, the ids that Hugging Face's
# tokenizers give for it where it is built as T5Tokenizer of Transformers builds it, and
# small tokenizers with WordPiece or compiled rules of their own (pieces.jsonl, in the
# form of ../pipelines.jsonl); run in this folder:
#   pip install tokenizers==0.23.3 sentencepiece==0.2.3 protobuf && python make_pieces.py ../../../../../shared/data/tinyshakespeare/input.txt
import base64, gzip, itertools, json, struct, sys
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import Tokenizer, AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

text = open(sys.argv[1]).read()[:200_000]
extra = ("ﬁve ½ ① Ｆｕｌｌ　ｗｉｄｔｈ e\u0301 é ñ n\u0303 Å A\u030a ㎏ … ™ ² \u00a0 x\u200by ｶﾞ 한국어 각 İstanbul ΟΔΟΣ naïve "
         "日本語 中文字 résumé don't can't .,!? 'tis ﷺ \u0915\u094d\u0937 ไทยำ \U0001f1e9\U0001f1ea \U0001f469\u200d\U0001f467 ok").split(" ")
open("/tmp/pieces-input.txt", "w").write(text + "\n" + "\n".join(" ".join(p) for p in itertools.islice(itertools.permutations(extra, 5), 0, 300000, 997)))
texts = [l for l in text.split("\n")[:400:13] if l] + extra + [
    " ".join(extra), "".join(extra), "", " ", "  two  spaces ", "a\tb\r\nc\u0085d\x0be", "Größe ☃ 漢字 🙂", "mark▁", "x" * 101, "y" * 100, "e\u0301\u0302 e\u0301\u0302\u0303\u0304", "\u0600a \u06dd",
    "a\u200db\u200cc\u200d", "\ufeffbom\ufffd\x00\x01", "<extra_id_0> and</s><unk>", "[MASK] it [CLS]", "I do not 've 're n't .", "\U00020000\U0002b820\U0002b920", "ß ẞ ǅ ﬀ", "\u1100\u1161\u11a8 \uac00\u11a8",
    "❤\ufe0f a\ufe0f ©\u200d®", "\u0e01\u0e33 \u0ea5\u0eb3", "क\u093f k\u093f", "\u2028line\u2029", "\u00ad\u061c",
]

def cases(tok, name, out):
    rows = []
    for t in texts:
        e = tok.encode(t)
        rows.append(dict(text=t, ids=tok.encode(t, add_special_tokens=False).ids, ids_special=e.ids, decoded=tok.decode(e.ids, skip_special_tokens=False), skipped=tok.decode(e.ids)))
    out.write(json.dumps(dict(name=name, tokenizer=json.loads(tok.to_str()), cases=rows), ensure_ascii=False) + "\n")

common = dict(input="/tmp/pieces-input.txt", vocab_size=700, character_coverage=0.999, minloglevel=2, num_threads=1, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
def built(path, extra_ids):
    m = pb.ModelProto(); m.ParseFromString(open(path, "rb").read())
    vocab = [(p.piece, p.score) for p in m.pieces] + [(f"<extra_id_{i}>", 0.0) for i in reversed(range(extra_ids))]
    tok = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=False))
    tok.normalizer = normalizers.Precompiled(m.normalizer_spec.precompiled_charsmap)
    meta = dict(replacement="▁", prepend_scheme="always", split=True)
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**meta)])
    tok.decoder = decoders.Metaspace(**meta)
    tok.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)])
    tok.add_special_tokens([AddedToken(s, normalized=False) for s in ["<pad>", "</s>", "<unk>"] + [f"<extra_id_{i}>" for i in reversed(range(extra_ids))]])
    return tok

spm.SentencePieceTrainer.train(model_prefix="/tmp/t5-nfkc", normalization_rule_name="nmt_nfkc", **common)
with gzip.GzipFile("t5-nfkc.model.gz", "wb", mtime=0) as f:
    f.write(open("/tmp/t5-nfkc.model", "rb").read())
tok = built("/tmp/t5-nfkc.model", 2)
with open("t5-nfkc.jsonl", "w") as out:
    for t in texts:
        ids = tok.encode(t, add_special_tokens=False).ids
        out.write(json.dumps({"text": t, "ids": ids, "decoded": tok.decode(ids, skip_special_tokens=False)}, ensure_ascii=False) + "\n")

open("/tmp/rules.tsv", "w").write("61\t78 79\n61 62\t7A\nE9\t65\n65 301\t65\n9\t20\nFB01\t66 69\n1F642\t3A 29\nAD\t\n")
spm.SentencePieceTrainer.train(model_prefix="/tmp/own", normalization_rule_tsv="/tmp/rules.tsv", **{**common, "vocab_size": 400})
with gzip.GzipFile("pieces.jsonl.gz", "wb", mtime=0) as raw:
    class Out:
        def write(self, s): raw.write(s.encode())
    out = Out()
    cases(built("/tmp/own.model", 1), "precompiled", out)
    t = built("/tmp/own.model", 0); t.normalizer = normalizers.Sequence([t.normalizer, normalizers.Strip(left=False, right=True), normalizers.Replace(__import__("tokenizers").Regex(" {2,}"), "▁")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    cases(t, "precompiled in a sequence", out)
    t = built("/tmp/own.model", 0); t.normalizer = normalizers.Nmt(); cases(t, "nmt", out)
    for name, norm, cleanup in [("bert uncased", {}, True), ("bert cased", dict(lowercase=False), True), ("bert accents", dict(strip_accents=False), False), ("bert bare", dict(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False), False)]:
        tok = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
        tok.normalizer = normalizers.BertNormalizer(**norm)
        tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tok.decoder = decoders.WordPiece(prefix="##", cleanup=cleanup)
        tok.train(["/tmp/pieces-input.txt"], trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False, limit_alphabet=150))
        cls, sep = tok.token_to_id("[CLS]"), tok.token_to_id("[SEP]")
        tok.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls)) if cleanup else processors.TemplateProcessing(single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)])
        cases(tok, name, out)
