# Near duplicates of real text by datasketch, for minhash_test.go:
#   pip install datasketch==2.0.0
#   python3 datasketch_golden.py ../../../../shared/data/wikitext-2/valid.txt golden.json.gz
# Paragraphs of WikiText-2, and copies in which a share of the words is replaced, words are
# moved to the end, or the beginning is missing. Of all pairs that share a shingle of five
# words: the exact Jaccard similarity, datasketch's estimate with 128 permutations, and
# whether its index finds the pair.
import gzip, itertools, json, random, re, sys
from datasketch import MinHash, MinHashLSH

THRESHOLD, NGRAM, PERM = 0.8, 5, 128
random.seed(1)
paragraphs = [l.strip() for l in open(sys.argv[1], encoding="utf-8") if 60 < len(l.split()) < 200 and l.isascii()][:80]
docs = []
for p in paragraphs:
    docs.append(p)
    words = p.split()
    for share in (0.005, 0.01, 0.02, 0.03, 0.05):
        docs.append(" ".join("changed" + str(random.randrange(1000)) if random.random() < share else w for w in words))
    k = random.randrange(len(words) // 2)
    docs.append(" ".join(words[k:] + words[:k]))
    docs.append(" ".join(words[random.randrange(len(words) // 3):]))

WORD = re.compile(r"""[a-z0-9]+|[^\sa-z0-9.,;:!?'"()\[\]{}]""")

def shingles(text):
    words = WORD.findall(text.lower())
    return {" ".join(words[i:i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))}

sets = [shingles(d) for d in docs]
hashes = []
for s in sets:
    m = MinHash(num_perm=PERM)
    for x in sorted(s):
        m.update(x.encode())
    hashes.append(m)
lsh = MinHashLSH(threshold=THRESHOLD, num_perm=PERM)
for i, m in enumerate(hashes):
    lsh.insert(i, m)
found = {(i, j) for i, m in enumerate(hashes) for j in lsh.query(m) if i < j}
pairs = []
for i, j in itertools.combinations(range(len(docs)), 2):
    shared = len(sets[i] & sets[j])
    if shared:
        pairs.append([i, j, shared, len(sets[i] | sets[j]), round(hashes[i].jaccard(hashes[j]), 6), int((i, j) in found)])
out = {"docs": docs, "pairs": pairs, "bands": lsh.b, "rows": lsh.r}
with open(sys.argv[2], "wb") as f, gzip.GzipFile("", "wb", mtime=0, fileobj=f) as g:
    g.write(json.dumps(out, separators=(",", ":")).encode())
true = {(p[0], p[1]) for p in pairs if p[2] >= THRESHOLD * p[3]}
print(len(docs), "texts,", len(pairs), "pairs,", len(true), "over", THRESHOLD, "bands", lsh.b, "x", lsh.r)
print("datasketch: recall %.4f precision %.4f" % (len(found & true) / len(true), len(found & true) / len(found)))
