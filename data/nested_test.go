package data

import (
	"path/filepath"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/tunekit/tunekit/data/chat"
)

// Columns within structures of Parquet are named by their paths; a row whose structure
// is null is a bad row, also where it is the first.
func TestNestedColumns(t *testing.T) {
	type message struct {
		From string `parquet:"from"`
		Text string `parquet:"text"`
	}
	type inner struct {
		Conv []message `parquet:"conv,list"`
		Lang string    `parquet:"lang"`
	}
	type row struct {
		ID   int64  `parquet:"id"`
		Data *inner `parquet:"data,optional"`
	}
	path := filepath.Join(t.TempDir(), "nested.parquet")
	talk := &inner{Conv: []message{{"human", "q"}, {"gpt", "a"}}, Lang: "en"}
	if err := parquet.WriteFile(path, []row{{1, nil}, {2, talk}, {3, &inner{Conv: []message{{"human", "only"}}}}, {4, talk}}); err != nil {
		t.Fatal(err)
	}
	tok := sharedTokenizer(t, "qwen3")
	text, _ := chat.Builtin("chatml")
	tmpl, err := chat.Parse(text, chat.Options{EOS: "<|im_end|>"})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Datasets: []Source{{Path: path, Columns: map[string]string{"messages": "data.conv", "content": "text"}}}, BadRows: "drop", ValSetSize: "0"}
	d, r := ingestOne(t, o, tok, tmpl)
	if d.Train.Len() != 2 || r.Duplicates != 1 || len(r.Bad) != 2 || r.Bad[0].Column != "data.conv" || r.Bad[1].Row != 3 {
		t.Errorf("%d samples, %+v", d.Train.Len(), r)
	}
}
