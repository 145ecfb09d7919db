package rows

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// folderOf makes a folder of files; a name without text is empty.
func folderOf(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestFolders: of a folder the rows are read, not what describes them, and of
// splits train, with a word.
func TestFolders(t *testing.T) {
	const state = `{"_data_files": [{"filename": "data-00000-of-00002.arrow"}, {"filename": "data-00001-of-00002.arrow"}], "_split": null}`
	for _, c := range []struct {
		files       map[string]string
		split, want string
		noted       bool
	}{
		{map[string]string{"data-00000-of-00002.arrow": "", "data-00001-of-00002.arrow": "", "state.json": state, "dataset_info.json": "{}", "cache-12ab.arrow": ""}, "",
			"data-00000-of-00002.arrow data-00001-of-00002.arrow", false},
		{map[string]string{"train/data-00000-of-00002.arrow": "", "train/data-00001-of-00002.arrow": "", "train/state.json": state, "test/x.arrow": "",
			"test/state.json": `{"_data_files": [{"filename": "x.arrow"}]}`, "dataset_dict.json": `{"splits": ["train", "test"]}`}, "",
			"train/data-00000-of-00002.arrow train/data-00001-of-00002.arrow", true},
		{map[string]string{"train/x.arrow": "", "test/x.arrow": "", "dataset_dict.json": "{}"}, "test", "test/x.arrow", false},
		{map[string]string{"gsm-train.arrow": "", "gsm-test.arrow": "", "dataset_info.json": "{}"}, "", "gsm-train.arrow", true},
		{map[string]string{"train_sft-0.parquet": "", "test_sft-0.parquet": ""}, "", "train_sft-0.parquet", true},
		{map[string]string{"train.jsonl": "", "validation.jsonl": "", "README.md": "x", "LICENSE.txt": "x"}, "", "train.jsonl", true},
		{map[string]string{"train-0.jsonl": "", "train-1.jsonl": ""}, "", "train-0.jsonl train-1.jsonl", false},
		{map[string]string{"train.jsonl": "", "test.jsonl": "", "more.jsonl": ""}, "", "more.jsonl test.jsonl train.jsonl", false}, // no splits: all
		{map[string]string{"test.jsonl": ""}, "", "test.jsonl", false},
	} {
		dir := folderOf(t, c.files)
		files, note, err := Files(dir, c.split)
		for i := range files {
			files[i], _ = filepath.Rel(dir, files[i])
		}
		if got := filepath.ToSlash(strings.Join(files, " ")); err != nil || got != c.want || (note != "") != c.noted {
			t.Errorf("%v split %q: %s, note %q, error %v; want %s", c.files, c.split, got, note, err, c.want)
		}
	}
	for text, want := range map[string]string{
		`{"_data_files": [{"filename": "a.arrow"}], "_indices_data_files": [{"filename": "i.arrow"}]}`: "flatten_indices",
		`{"_data_files": [{"filename": "../a.arrow"}]}`:                                                "no file of this folder",
	} {
		_, _, err := Files(folderOf(t, map[string]string{"a.arrow": "", "state.json": text}), "")
		if err == nil || !strings.Contains(err.Error()+fail.Hint(err), want) {
			t.Errorf("%s: error %v", text, err)
		}
	}
	several := folderOf(t, map[string]string{"train-0.jsonl": "", "test-0.jsonl": ""})
	files, note, err := Files(filepath.Join(several, "*.jsonl"), "")
	if err != nil || len(files) != 2 || !strings.Contains(note, "several splits are all used") {
		t.Errorf("%v, %q, %v", files, note, err)
	}
	files, note, err = Files(filepath.Join(several, "train*.jsonl"), "")
	if err != nil || len(files) != 1 || note != "" {
		t.Errorf("%v, %q, %v", files, note, err)
	}
	root := folderOf(t, map[string]string{"test/data/train-0.parquet": "", "test/data/test-0.parquet": ""})
	files, _, err = Files(filepath.Join(root, "test", "data"), "test")
	if err != nil || len(files) != 1 || filepath.Base(files[0]) != "test-0.parquet" {
		t.Errorf("a folder above the one given counts as a split: %v, %v", files, err)
	}
}
