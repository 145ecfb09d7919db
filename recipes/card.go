package recipes

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/hub"
	"github.com/tunekit/tunekit/recipes/report"
)

// CardOptions is what a person says about a model that is to be published.
type CardOptions struct {
	Name      string   // of the repository: org/name
	BaseModel string   // id on the hub; "": found from the files
	Datasets  []string // ids on the hub
	License   string   // "": that of the base
}

// Card is what a published model says of itself.
type Card struct {
	Text    []byte            // a README.md
	Replace map[string][]byte // files of the folder that must say something else elsewhere
	Notes   []string          // what to know before publishing: terms of the licence, what is not known
}

// cardHead is the front matter of a model card, with the hub's names.
type cardHead struct {
	License     string      `yaml:"license,omitempty"`
	LicenseName string      `yaml:"license_name,omitempty"`
	LicenseLink string      `yaml:"license_link,omitempty"`
	BaseModel   string      `yaml:"base_model,omitempty"`
	Relation    string      `yaml:"base_model_relation,omitempty"`
	Datasets    []string    `yaml:"datasets,omitempty"`
	Library     string      `yaml:"library_name,omitempty"`
	Pipeline    string      `yaml:"pipeline_tag,omitempty"`
	Tags        []string    `yaml:"tags,omitempty"`
	Index       []cardIndex `yaml:"model-index,omitempty"`
}

type cardIndex struct {
	Name    string       `yaml:"name"`
	Results []cardResult `yaml:"results"`
}

type cardResult struct {
	Task    cardTask     `yaml:"task"`
	Dataset cardNamed    `yaml:"dataset"`
	Metrics []cardMetric `yaml:"metrics"`
}

type cardTask struct {
	Type string `yaml:"type"`
}

type cardNamed struct {
	Name string `yaml:"name"`
	Type string `yaml:"type"`
}

type cardMetric struct {
	Type  string  `yaml:"type"`
	Name  string  `yaml:"name"`
	Value float64 `yaml:"value"`
}

// origin is what a run folder says of where one of its models comes from.
type origin struct {
	base  string // a path or a reference
	data  []string
	kinds []string // of the stages up to the model's
	row   *report.Row
}

// CardOf makes the card of a folder or file that is to be published: what is in it, and
// where it lies in a run folder, what it was made of and what was measured.
func CardOf(path string, o CardOptions) (*Card, error) {
	from := originOf(path)
	c := &Card{Replace: map[string][]byte{}}
	h := cardHead{Pipeline: "text-generation", Datasets: o.Datasets}
	file, _ := os.Stat(path)
	dir := path
	if !file.IsDir() {
		dir = filepath.Dir(path)
	}
	adapter, _ := os.ReadFile(filepath.Join(dir, "adapter_config.json"))
	ggufs, _ := filepath.Glob(filepath.Join(path, "*.gguf"))
	config, _ := os.ReadFile(filepath.Join(dir, "config.json"))
	if bytes.Contains(config, []byte(`ForSequenceClassification"`)) || bytes.Contains(adapter, []byte(`"SEQ_CLS"`)) {
		h.Pipeline = "text-classification"
	}
	switch {
	case strings.HasSuffix(path, ".gguf") || len(ggufs) > 0:
		h.Library, h.Relation, h.Tags = "gguf", "quantized", []string{"gguf"}
	case file.IsDir() && adapter != nil:
		h.Library, h.Relation = "peft", "adapter"
		from.base = cmp.Or(adapterBase(adapter), from.base)
	case bytes.Contains(config, []byte(`"quantization_config"`)):
		h.Library, h.Relation = "transformers", "quantized"
	default:
		h.Library, h.Relation = "transformers", "finetune"
	}
	if slices.Contains(from.kinds, "train") && h.Relation == "quantized" {
		h.Relation = "finetune" // the model that was quantized is not on the hub
	}
	if slices.Contains(from.kinds, "merge_models") {
		h.Relation = "merge"
	}
	h.Tags = append(h.Tags, "tunekit")
	h.BaseModel = cmp.Or(o.BaseModel, hubID(from.base))
	if h.BaseModel == "" {
		h.Relation = ""
		c.Notes = append(c.Notes, "the card names no base model"+saidAs(from.base)+": --base-model org/name says which it is on the hub")
	}
	c.rename(adapter, h.BaseModel)
	c.licence(&h, o, path, from.base)
	h.results(o, from)
	c.Text = h.text(o, from)
	return c, nil
}

func saidAs(base string) string {
	if base == "" {
		return ""
	}
	return ", which is " + base + " here"
}

// hubID is the hub's name of a model that a reference or a path of its cache names.
func hubID(base string) string {
	if r, err := hub.Parse(base); err == nil {
		return r.Repo
	}
	if m := cached.FindStringSubmatch(filepath.ToSlash(base)); m != nil {
		return strings.ReplaceAll(m[1], "--", "/")
	}
	return ""
}

var cached = regexp.MustCompile(`(?:^|/)models--([^/]+--[^/]+)/snapshots/`)

func adapterBase(config []byte) string {
	var a struct {
		Base string `json:"base_model_name_or_path"`
	}
	_ = json.Unmarshal(config, &a)
	return a.Base
}

// rename writes the base's name on the hub into an adapter's configuration, where a
// path of this machine stands.
func (c *Card) rename(config []byte, id string) {
	old := adapterBase(config)
	if config == nil || old == id {
		return
	}
	if id == "" {
		c.Notes = append(c.Notes, "adapter_config.json names its base "+old+", which nobody else has: --base-model org/name writes its name on the hub")
		return
	}
	before, _ := json.Marshal(old)
	after, _ := json.Marshal(id)
	c.Replace["adapter_config.json"] = bytes.Replace(config, before, after, 1)
}

// originOf reads what the run folder around a path says; nothing where there is none.
func originOf(path string) (from origin) {
	path, err := filepath.Abs(path)
	if err != nil {
		return from
	}
	for dir := filepath.Dir(path); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
		if err != nil {
			continue
		}
		var m Manifest
		if json.Unmarshal(raw, &m) != nil || len(m.Stages) == 0 {
			return from
		}
		rel, _ := filepath.Rel(dir, path)
		stage, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
		for _, s := range m.Stages {
			from.kinds = append(from.kinds, s.Kind)
			for name, in := range s.Inputs {
				if in.Why == "base_model" {
					from.base = in.Ref
				}
				if s.Kind == "ingest" && strings.HasPrefix(name, "datasets[") {
					from.data = append(from.data, in.Ref)
				}
			}
			if s.Stage == stage {
				break
			}
		}
		slices.Sort(from.data)
		from.row = rowOf(dir, path)
		return from
	}
	return from
}

// rowOf is what a run measured of the model at a path.
func rowOf(dir, path string) *report.Row {
	raw, err := os.ReadFile(filepath.Join(dir, "summary.json"))
	var s report.Summary
	if err != nil || json.Unmarshal(raw, &s) != nil {
		return nil
	}
	for _, t := range s.Tables {
		for _, r := range t.Rows {
			// the run folder may have been moved: what follows its name counts
			if rel, err := filepath.Rel(s.Dir, r.Path); err == nil && filepath.IsLocal(rel) && filepath.Join(dir, rel) == path {
				return r
			}
		}
	}
	return nil
}

// licence takes over the base's licence, and says what its terms ask of the name and
// of those who publish.
func (c *Card) licence(h *cardHead, o CardOptions, path, base string) {
	h.License = o.License
	for _, p := range []string{path, base} {
		if h.License != "" || p == "" {
			break
		}
		p, err := ResolvePath(p)
		if err != nil {
			continue
		}
		r, err := formats.Open(p)
		if err != nil {
			continue
		}
		if h.License = LicenceOf(r); h.License == "other" {
			if readme, err := r.File("README.md"); err == nil {
				h.LicenseName, h.LicenseLink = frontMatter(string(readme), "license_name"), frontMatter(string(readme), "license_link")
			}
		}
		r.Close()
	}
	if h.License == "" {
		c.Notes = append(c.Notes, "the card states no licence: the base does not say it; --license does")
	}
	_, name, _ := strings.Cut(o.Name, "/")
	c.Notes = append(c.Notes, terms(cmp.Or(h.LicenseName, h.License), name)...)
}

// licenceTerms are what licences of models ask of who publishes a model made of one:
// by a pattern of their ids on the hub, in lower case.
var licenceTerms = []struct{ id, starts, note string }{
	{`^llama-?3$`, "Llama 3", `licence llama3: the name of the model begins with "Llama 3"`},
	{`^llama-?(3\.\d|4)`, "Llama", `licence llama3.1 and later: the name of the model begins with "Llama"`},
	{`^llama-?(3|4)`, "", `licence of Llama: show "Built with Llama" on the model's page, and pass on a copy of the licence and its notice`},
	{`^llama-?2`, "", "licence llama2: pass on a copy of the licence and its notice; what the model answers may not improve other language models"},
	{`^gemma`, "", "licence gemma: pass on the Gemma Terms of Use with their restrictions, and say that the files were changed"},
	{`-nc(-|$)|non-?commercial|research|^mnpl|^mrl`, "", "the licence allows no commercial use, or research only; that holds for what is made of the model, too"},
	{`openrail`, "", "licence OpenRAIL: its restrictions of use go on to who gets the model"},
}

// terms are those of a licence that matter when a model of that name is published.
func terms(licence, name string) (out []string) {
	plain := func(s string) string {
		return strings.ToLower(strings.NewReplacer("-", "", "_", "", " ", "").Replace(s))
	}
	for _, t := range licenceTerms {
		if !regexp.MustCompile(t.id).MatchString(strings.ToLower(licence)) {
			continue
		}
		if t.starts != "" && strings.HasPrefix(plain(name), plain(t.starts)) {
			continue
		}
		out = append(out, t.note)
	}
	return out
}

// metrics are what a model's row says, with the hub's names.
func metrics(r *report.Row) (out []cardMetric) {
	add := func(kind, name string, m *report.Measured) {
		if m != nil {
			v, _ := strconv.ParseFloat(strconv.FormatFloat(m.Value, 'g', 5, 64), 64)
			out = append(out, cardMetric{kind, name, v})
		}
	}
	if r == nil {
		return nil
	}
	add("perplexity", "Perplexity", r.PPL)
	add("exact_match", "Exact match", r.Exact)
	add("kl_divergence", "KL to "+cmp.Or(r.Reference, "its origin"), r.KL)
	return out
}

func (h *cardHead) results(o CardOptions, from origin) {
	m := metrics(from.row)
	if len(m) == 0 {
		return
	}
	_, name, _ := strings.Cut(o.Name, "/")
	set := cardNamed{"rows held back", "held-back"}
	if len(o.Datasets) > 0 {
		set = cardNamed{"rows held back of " + o.Datasets[0], o.Datasets[0]}
	}
	h.Index = []cardIndex{{name, []cardResult{{cardTask{h.Pipeline}, set, m}}}}
}

// text is the card: front matter, then what a reader wants first.
func (h *cardHead) text(o CardOptions, from origin) []byte {
	var b bytes.Buffer
	head, err := yaml.Marshal(h)
	if err != nil {
		panic(err) // plain values only
	}
	_, name, _ := strings.Cut(o.Name, "/")
	fmt.Fprintf(&b, "---\n%s---\n\n# %s\n\n", head, name)
	what := map[string]string{"adapter": "An adapter for", "quantized": "A quantized form of", "merge": "A merge with", "finetune": "A fine-tuned form of"}[h.Relation]
	if h.BaseModel != "" {
		fmt.Fprintf(&b, "%s [%s](https://huggingface.co/%[2]s), made with tunekit.\n", what, h.BaseModel)
	} else {
		b.WriteString("Made with tunekit.\n")
	}
	if len(from.data) > 0 && slices.Contains(from.kinds, "train") { // else they calibrate or measure
		names := make([]string, len(from.data))
		for i, d := range from.data {
			names[i] = "`" + filepath.Base(d) + "`"
		}
		fmt.Fprintf(&b, "\nTrained on rows of %s.\n", strings.Join(names, ", "))
	}
	if m := metrics(from.row); len(m) > 0 {
		b.WriteString("\nMeasured on rows that were held back:\n\n| | |\n|---|---|\n")
		for _, x := range m {
			fmt.Fprintf(&b, "| %s | %g |\n", x.Name, x.Value)
		}
	}
	if h.License != "" {
		fmt.Fprintf(&b, "\nLicence: %s.\n", cmp.Or(h.LicenseName, h.License))
	}
	return b.Bytes()
}

// madeCard finds a README.md that training wrote, which says less than CardOf.
var madeCard = regexp.MustCompile(`^---\nbase_model: .*\nbase_model_relation: adapter\nlibrary_name: peft\npipeline_tag: [a-z-]+\ntags:\n- [a-z0-9]+\n---\n\n# .* adapter\n\n[^\n]*\n$`)

// OwnCard tells whether a folder has a card of its user's, and what of it the hub
// will not take.
func OwnCard(path string) (own bool, note string) {
	raw, err := os.ReadFile(filepath.Join(path, "README.md"))
	if err != nil || madeCard.Match(raw) {
		return false, ""
	}
	if base := frontMatter(string(raw), "base_model"); strings.HasPrefix(base, "/") || strings.HasPrefix(base, ".") || strings.Count(base, "/") > 1 || strings.HasPrefix(base, hub.Scheme) {
		note = "README.md: base_model " + base + " is no name of the hub, which may refuse it: write org/name"
	}
	return true, note
}
