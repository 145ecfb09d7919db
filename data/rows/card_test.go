package rows

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// TestCard: of a clone from the hub the files are read that its card lists, by its
// splits; configurations are not mixed.
func TestCard(t *testing.T) {
	card := func(configs string) string {
		return "---\nlicense: mit\nconfigs:\n" + configs + "---\n# Some data\n---\n"
	}
	gsm := map[string]string{"main/train-0.parquet": "", "main/test-0.parquet": "", "socratic/train-0.parquet": "", "data/extra.jsonl": ""}
	main := "- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n  - split: test\n    path: main/test-*\n"
	socratic := "- config_name: socratic\n  data_files:\n  - split: train\n    path: socratic/train-*\n"
	for _, c := range []struct{ card, split, want, bad string }{
		{card(main), "", "main/train-0.parquet", ""},
		{card(main), "test", "main/test-0.parquet", ""},
		{card(main + socratic), "", "", "README.md lists the configurations main, socratic and no default"},
		{card(main + "  default: true\n" + socratic), "", "main/train-0.parquet", ""},
		{card(strings.Replace(socratic, "socratic\n", "default\n", 1) + main), "", "socratic/train-0.parquet", ""},
		{card("- config_name: all\n  data_files: '**/*.parquet'\n"), "", "main/train-0.parquet socratic/train-0.parquet", ""},
		{card("- config_name: all\n  data_files: [data/*.jsonl, main/test-0.parquet]\n"), "", "data/extra.jsonl main/test-0.parquet", ""},
		{card("- config_name: all\n  data_files: {train: data/extra.jsonl, test_more: [main/*]}\n"), "", "data/extra.jsonl", ""},
		{card("- config_name: all\n  data_files: {train: data/extra.jsonl, test_more: [main/*]}\n"), "test", "main/test-0.parquet main/train-0.parquet", ""},
		{card("- config_name: all\n  data_files: ../*.parquet\n"), "", "", "no data file matches"},
		{card("- config_name: all\n  data_dir: socratic\n"), "", "socratic/train-0.parquet", ""},
		{card("- config_name: all\n  data_dir: main\n"), "test", "main/test-0.parquet", ""},
		{card("- config_name: all\n  data_dir: ./main\n  data_files: train-*\n"), "", "main/train-0.parquet", ""},
		{card("- config_name: a\n  data_dir: main\n- config_name: b\n  data_dir: socratic\n  default: true\n"), "", "socratic/train-0.parquet", ""},
		{card("- config_name: a\n  data_dir: main\n- config_name: b\n  data_dir: socratic\n"), "", "", "README.md lists the configurations a, b and no default"},
		{card("- config_name: a\n  data_files: [{files: x}]\n"), "", "", "data_files of configuration"},
		{card("- config_name: a\n  data_files:\n"), "", "data/extra.jsonl main/test-0.parquet main/train-0.parquet socratic/train-0.parquet", ""},
		{"no card", "", "data/extra.jsonl main/test-0.parquet main/train-0.parquet socratic/train-0.parquet", ""},
		{"---\nconfigs: [\n---\n", "", "data/extra.jsonl main/test-0.parquet main/train-0.parquet socratic/train-0.parquet", ""},
	} {
		files := map[string]string{"README.md": c.card, ".git/train.jsonl": ""}
		for name := range gsm {
			files[name] = ""
		}
		dir := folderOf(t, files)
		got, _, err := Files(dir, c.split)
		for i := range got {
			got[i], _ = filepath.Rel(dir, got[i])
		}
		switch names := filepath.ToSlash(strings.Join(got, " ")); {
		case c.bad != "":
			if fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%s: %v, want an error with %q", c.card, err, c.bad)
			}
		case err != nil || names != c.want:
			t.Errorf("%s split %q: %s, %v; want %s", c.card, c.split, names, err, c.want)
		}
	}
	for glob, want := range map[string]bool{"a/*.csv": false, "**/*.csv": true, "**": true, "a/**/c.csv": true, "**/c.csv": true, "a/b/c.csv": true, "a/**/b/c.csv": true,
		"b/**": false, "*": false, "a/[": false, strings.Repeat("**/x/", 500) + "**": false} {
		if matches(glob, "a/b/c.csv") != want {
			t.Errorf("%.30s: %v, want %v", glob, !want, want)
		}
	}
}

// FuzzCard: a card of any bytes gives files of its folder, or an error.
func FuzzCard(f *testing.F) {
	for _, s := range []string{"configs:\n- config_name: a\n  data_files:\n  - split: train\n    path: [a/*, '**/b.jsonl']\n", "configs: [{config_name: a, data_files: {train: x, test: [y]}, default: true}, {data_files: z}]\n",
		"x: &x [*.jsonl]\nconfigs: [{data_files: *x}]\n", "configs: 3\n"} {
		f.Add([]byte("---\n" + s + "---\n"))
	}
	dir := f.TempDir()
	for _, name := range []string{"b.jsonl", "train.csv"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, "README.md"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		files, _, err := Files(dir, "")
		if err == nil && (len(files) < 1 || len(files) > 2) {
			t.Errorf("%v", files)
		}
	})
}
