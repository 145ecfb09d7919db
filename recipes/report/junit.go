package report

import (
	"encoding/xml"
	"fmt"

	"github.com/tunekit/tunekit/train/eval"
)

type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Failure *junitMessage `xml:"failure,omitempty"`
	Out     string        `xml:"system-out,omitempty"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
}

// JUnit is the evaluation in the form CI systems show: a case a gate, or a case
// a metric where there are no gates.
func (r *Evaluation) JUnit(name string) ([]byte, error) {
	out, err := xml.MarshalIndent(junitOf(name, r), "", " ")
	return append([]byte(xml.Header), append(out, '\n')...), err
}

func junitOf(name string, r *Evaluation) junitSuite {
	s := junitSuite{Name: name}
	for _, c := range r.Checks {
		tc := junitCase{Class: name + "." + c.Model, Name: c.Metric + " " + c.Limit, Out: fmt.Sprintf("value %g, 95 %% interval of what is limited %g to %g", c.Value, c.Low, c.High)}
		if c.Verdict != eval.Pass {
			s.Failures++
			tc.Failure = &junitMessage{fmt.Sprintf("%s: %s is %g, limit %s", c.Verdict, c.Metric, c.Value, c.Limit)}
		}
		s.Cases = append(s.Cases, tc)
	}
	if len(r.Checks) == 0 {
		for _, m := range r.Metrics {
			s.Cases = append(s.Cases, junitCase{Class: name + "." + m.Model, Name: m.Metric, Out: fmt.Sprint(m.Value)})
		}
	}
	s.Tests = len(s.Cases)
	return s
}

// junit is every evaluation of the run, or a case a stage without one.
func (s *Summary) junit() ([]byte, error) {
	type suites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Name    string       `xml:"name,attr"`
		Suites  []junitSuite `xml:"testsuite"`
	}
	all := suites{Name: s.Name}
	for _, r := range s.Sections {
		if r.Evaluation != nil {
			all.Suites = append(all.Suites, junitOf(r.Stage, r.Evaluation))
		}
	}
	stages := junitSuite{Name: "stages"}
	for _, l := range s.Stages {
		tc := junitCase{Class: s.Name, Name: l.Stage, Out: l.State}
		if l.State == "failed" {
			stages.Failures++
			tc.Failure = &junitMessage{s.Err}
		}
		stages.Cases = append(stages.Cases, tc)
	}
	stages.Tests = len(stages.Cases)
	all.Suites = append(all.Suites, stages)
	out, err := xml.MarshalIndent(all, "", " ")
	return append([]byte(xml.Header), append(out, '\n')...), err
}
