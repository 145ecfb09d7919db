package recipes

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/recipes/report"
	"github.com/tunekit/tunekit/recipes/schema"
)

// StagePlan is what one stage would do.
type StagePlan struct {
	Stage   string           `json:"stage"`
	Kind    string           `json:"kind"`
	Cached  bool             `json:"cached,omitempty"` // done before with the same inputs
	GoesOn  bool             `json:"goes_on,omitempty"`
	Skipped bool             `json:"skipped,omitempty"` // by --only or --from
	Does    string           `json:"does"`
	Seconds float64          `json:"seconds,omitempty"` // estimated
	Peak    int64            `json:"peak_bytes,omitempty"`
	Memory  map[string]int64 `json:"memory,omitempty"`     // bytes by purpose, at each one's own peak
	Disk    int64            `json:"disk_bytes,omitempty"` // of the artifact
	Temp    int64            `json:"temporary_disk_bytes,omitempty"`
	Notes   []string         `json:"notes,omitempty"`
	Inputs  []PlanInput      `json:"inputs,omitempty"`

	Counted bool `json:"-"` // Peak was counted by the stage's own code, not estimated
}

// PlanInput is a reference of a stage and how it was found.
type PlanInput struct {
	Name string `json:"name"`
	Ref  string `json:"ref"`
	Why  string `json:"why"`
}

// Plan is what a run would do.
type Plan struct {
	Name     string           `json:"name"`
	Dir      string           `json:"dir"`
	Machine  string           `json:"machine"`
	Stages   []StagePlan      `json:"stages"`
	Seconds  float64          `json:"seconds"`
	Peak     int64            `json:"peak_bytes"`
	Limit    int64            `json:"memory_limit_bytes"`
	Disk     int64            `json:"disk_bytes"`
	DiskFree uint64           `json:"disk_free_bytes"`
	Sampled  int              `json:"sampled_rows,omitempty"` // rows that counts were estimated from
	Recipe   string           `json:"recipe"`                 // resolved, as YAML
	Defaults []schema.Default `json:"defaults"`
}

// Note adds a line to what the plan says of the stage.
func (s *StagePlan) Note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// CountMemory takes over what a dry backend counted, where it is more.
func (s *StagePlan) CountMemory(peak int64, m kernels.MemStats) {
	if peak <= s.Peak {
		return
	}
	s.Peak, s.Memory, s.Counted = peak, map[string]int64{}, true
	for i, n := range m.Peak {
		if n > 0 {
			s.Memory[kernels.Purpose(i).String()] = n
		}
	}
}

// Print writes the plan for a person; full adds the resolved recipe.
func (p *Plan) Print(w io.Writer, full bool) {
	if p.Machine != "" {
		fmt.Fprintf(w, "machine: %s\n", p.Machine)
	}
	rows := [][]string{{"stage", "does", "time", "peak", "disk", "note"}}
	var cached, more []string
	for _, s := range p.Stages {
		row := []string{s.Stage, s.Does, About(s.Seconds), report.Memory(s.Peak), report.Size(s.Disk + s.Temp), ""}
		if s.Cached {
			cached = append(cached, s.Stage)
		}
		for i, n := range s.Notes {
			if i == 0 {
				row[5] = n
			} else {
				more = append(more, s.Stage+": "+n)
			}
		}
		rows = append(rows, row)
	}
	report.Aligned(w, rows, []bool{false, false, true, true, true, false})
	if cached == nil {
		cached = []string{"none"}
	}
	fmt.Fprintf(w, "total   %s · %s of %s · %s of %s   cached: %s   times ±30 %%%s\n", About(p.Seconds), ibytesOr(p.Peak, "little memory"), ibytesOr(p.Limit, "no limit"),
		sizedOr(p.Disk, "no disk"), humanize.Bytes(p.DiskFree), strings.Join(cached, ", "), p.estimated())
	for _, m := range more {
		fmt.Fprintln(w, m)
	}
	p.printInputs(w)
	if full {
		fmt.Fprintf(w, "\n%s", p.Recipe)
	}
}

func (p *Plan) estimated() string {
	if p.Sampled == 0 {
		return ""
	}
	return fmt.Sprintf(" (counts estimated from %s rows)", humanize.Comma(int64(p.Sampled)))
}

// printInputs lists references that the recipe did not name.
func (p *Plan) printInputs(w io.Writer) {
	for _, s := range p.Stages {
		var parts []string
		names := map[PlanInput][]string{}
		for _, in := range s.Inputs {
			if in.Why == "given" || in.Why == "" {
				continue
			}
			k := PlanInput{Ref: in.Ref, Why: in.Why}
			if names[k] == nil {
				parts = append(parts, "")
			}
			names[k] = append(names[k], in.Name)
			parts[slices.Index(keyOrder(s.Inputs), k)] = fmt.Sprintf("%s = %s (%s)", strings.Join(names[k], ", "), in.Ref, in.Why)
		}
		if len(parts) > 0 {
			fmt.Fprintf(w, "%s reads %s\n", s.Stage, strings.Join(parts, "; "))
		}
	}
}

// keyOrder lists the references that the recipe did not name, each once.
func keyOrder(inputs []PlanInput) (out []PlanInput) {
	for _, in := range inputs {
		k := PlanInput{Ref: in.Ref, Why: in.Why}
		if in.Why != "given" && in.Why != "" && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

// About is a time in words, "" for none.
func About(sec float64) string {
	if sec <= 0 {
		return ""
	}
	return report.Duration(max(sec, 0.1))
}

func ibytesOr(n int64, none string) string {
	if n <= 0 {
		return none
	}
	return report.Memory(n)
}

func sizedOr(n int64, none string) string {
	if n <= 0 {
		return none
	}
	return report.Size(n)
}
