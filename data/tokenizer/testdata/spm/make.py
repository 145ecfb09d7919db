# Models trained by SentencePiece and the ids it gives, or for T5, which splits at white
# space first, those that T5Tokenizer of Transformers gives; run in this folder:
#   pip install transformers==5.24.0 protobuf sentencepiece==0.2.3 && python make.py ../../../../../shared/data/tinyshakespeare/input.txt
import json, os, sys
import sentencepiece as spm
from transformers import T5Tokenizer

text = open(sys.argv[1]).read()[:200_000]
open("/tmp/spm-input.txt", "w").write(text)
lines = text.split("\n")
texts = [l for l in lines[:400:9] if l] + [
    "", " ", "  two  spaces ", "a\tb\nc", "Größe ☃ 漢字 🙂", "mark▁", "x" * 40, "the <user><user>", " lead", "\n\n\n", "  ",
    "<user>the", "one <user>the king<user> <user>  of", "a<user", "<0x41>", "king<0x41><0x0A>the <0x4g> <0x", "<user><0xC3>",
]
common = dict(input="/tmp/spm-input.txt", vocab_size=600, character_coverage=0.999, normalization_rule_name="identity", minloglevel=2, num_threads=1)
for name, args in {
    "bpe": dict(model_type="bpe", byte_fallback=True, remove_extra_whitespaces=False, user_defined_symbols=["<user>"]),
    "bpe-spaces": dict(model_type="bpe", byte_fallback=True, remove_extra_whitespaces=True),
    "bpe-noprefix": dict(model_type="bpe", byte_fallback=True, remove_extra_whitespaces=False, add_dummy_prefix=False),
    "unigram": dict(model_type="unigram", byte_fallback=True, remove_extra_whitespaces=False),
    "unigram-user": dict(model_type="unigram", byte_fallback=True, remove_extra_whitespaces=False, vocab_size=400, user_defined_symbols=["<user>"]),
    "t5": dict(model_type="unigram", remove_extra_whitespaces=True, pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
}.items():
    spm.SentencePieceTrainer.train(model_prefix="/tmp/spm-" + name, **{**common, **args})
    raw = open(f"/tmp/spm-{name}.model", "rb").read()
    open(name + ".model", "wb").write(raw)
    if name == "t5":
        os.makedirs("/tmp/spm-t5", exist_ok=True)
        open("/tmp/spm-t5/tokenizer.model", "wb").write(raw)
        open("/tmp/spm-t5/tokenizer_config.json", "w").write('{"tokenizer_class": "T5Tokenizer", "extra_ids": 2}')
        tok = T5Tokenizer.from_pretrained("/tmp/spm-t5", vocab_file="/tmp/spm-t5/tokenizer.model")
        encode = lambda t: tok(t, add_special_tokens=False).input_ids
        decode = lambda ids: tok.decode(ids, clean_up_tokenization_spaces=False)
    else:
        sp = spm.SentencePieceProcessor(model_proto=raw)
        encode, decode = sp.encode, sp.decode
    with open(name + ".jsonl", "w") as out:
        for t in texts:
            ids = encode(t)
            out.write(json.dumps({"text": t, "ids": ids, "decoded": decode(ids)}, ensure_ascii=False) + "\n")
