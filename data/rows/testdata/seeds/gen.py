# Small valid Parquet and Arrow files of pyarrow 26, of many codecs, encodings and types.
import pyarrow as pa, pyarrow.parquet as pq, datetime, decimal
out='data/rows/testdata/seeds/' # from the repository's root
msg=pa.struct([('role',pa.string()),('content',pa.string())])
text=pa.table({'text':['a b c','d',None]})
chat=pa.table({'messages':pa.array([[{'role':'user','content':'hi'},{'role':'assistant','content':'ho'}],[],None],pa.list_(msg))})
many=pa.table({'i':pa.array([1,-2,None],pa.int32()),'l':pa.array([1<<40,0,3],pa.int64()),'f':pa.array([.5,None,2.],pa.float64()),'b':pa.array([True,None,False]),
 'd':pa.array(['x','y','x']).dictionary_encode(),'t':pa.array([datetime.datetime(2024,1,2),None,None],pa.timestamp('us')),'n':pa.array([[[1],[2,3]],[],None],pa.list_(pa.list_(pa.int16())))})
def p(name,t,**k): pq.write_table(t,out+name+'.parquet',**k)
for c in ['none','snappy','gzip','zstd','lz4','brotli']:
    p('text-'+c,text,compression=c,use_dictionary=False,write_statistics=False)
p('text-dict',text,compression='none'); p('text-v2',text,compression='zstd',data_page_version='2.0',write_statistics=False)
p('text-delta',text,compression='none',use_dictionary=False,column_encoding={'text':'DELTA_BYTE_ARRAY'},write_statistics=False)
p('text-deltalength',text,compression='snappy',use_dictionary=False,column_encoding={'text':'DELTA_LENGTH_BYTE_ARRAY'},write_statistics=False)
p('chat',chat,compression='snappy',write_statistics=False); p('chat-v2',chat,compression='lz4',data_page_version='2.0',write_statistics=False)
p('many',many,compression='none',write_statistics=False); p('many-v2',many,compression='zstd',data_page_version='2.0',use_dictionary=False,write_statistics=False,row_group_size=2)
def a(name,t,stream=False,c=None):
    o=pa.ipc.IpcWriteOptions(compression=c)
    with pa.OSFile(out+name+'.arrow','wb') as f:
        with (pa.ipc.new_stream if stream else pa.ipc.new_file)(f,t.schema,options=o) as w: w.write_table(t,max_chunksize=2)
a('text',text); a('text-stream',text,True); a('text-lz4',text,c='lz4'); a('text-zstd',text,True,'zstd')
a('chat',chat); a('chat-stream',chat,True,'lz4'); a('many',many); a('many-stream',many,True,'zstd')
a('large',pa.table({'text':pa.array(['a','b',None],pa.large_string()),'x':pa.array([[1],[],None],pa.large_list(pa.int8()))}))
a('fixed',pa.table({'text':['a','b','c'],'x':pa.array([[1,2],[3,4],None],pa.list_(pa.int8(),2))}))
