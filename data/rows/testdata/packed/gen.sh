#!/bin/sh
# The files of this folder, by gzip 1.12, bzip2 1.0.8, zstd 1.5 and xz 5.4: the rows in one stream, in two, in blocks, and behind a filter.
for i in $(seq 0 39); do echo "{\"a\": $i, \"text\": \"row $i of the same text\"}"; done > rows.jsonl
gzip -k rows.jsonl; bzip2 -k rows.jsonl; zstd -q -k rows.jsonl; xz -k rows.jsonl
xz --block-size=512 --check=sha256 -c rows.jsonl > blocks.jsonl.xz
xz --x86 --lzma2 -c rows.jsonl > filter.jsonl.xz
for z in gzip bzip2 zstd; do
	(head -20 rows.jsonl | $z -c; tail -20 rows.jsonl | $z -c) > streams.jsonl.$(echo $z | sed s/gzip/gz/\;s/bzip2/bz2/\;s/zstd/zst/)
done
(head -20 rows.jsonl | xz --check=crc32 -c; printf '\0\0\0\0'; tail -20 rows.jsonl | xz --check=none -c) > streams.jsonl.xz
