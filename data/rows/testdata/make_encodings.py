"""encodings.parquet and encodings.arrow: columns as pyarrow 26 writes them that are rare elsewhere.

python make_encodings.py
"""
import pyarrow as pa
import pyarrow.parquet as pq

n = 40
runs = [None if i % 13 == 5 else i < 11 or i % 3 == 0 for i in range(n)]
table = pa.table({
    "runs": pa.array(runs),
    "sure": pa.array([i % 19 < 10 for i in range(n)]),
    "none": pa.array([None] * n, pa.bool_()),
    "small": pa.array([i * 100_003 - 7 for i in range(n)], pa.int32()),
    "large": pa.array([i << 40 for i in range(n)], pa.int64()),
    "double": pa.array([i / 8 for i in range(n)], pa.float64()),
    "half": pa.array([i / 4 for i in range(n)], pa.float16()),
    "most": pa.array([2**64 - 1 - i for i in range(n)], pa.uint64()),
    "fixed": pa.array([bytes([i, 255, 0]) for i in range(n)], pa.binary(3)),
})
split = dict.fromkeys(["small", "large", "double", "half", "fixed"], "BYTE_STREAM_SPLIT")
pq.write_table(table, "encodings.parquet", compression="NONE", use_dictionary=False, data_page_version="2.0", column_encoding={**split, "runs": "RLE", "sure": "RLE", "none": "RLE"},
               row_group_size=23, write_statistics=False, store_schema=False)
with pa.OSFile("encodings.arrow", "wb") as f, pa.ipc.new_file(f, table.schema) as w:
    w.write_table(table)
