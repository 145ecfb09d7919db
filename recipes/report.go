package recipes

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"time"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

// report writes what the run left so far: report.html, summary.md,
// summary.json, manifest.json. It is called after every run, also after one
// that ended in an error, whose error it returns. The summary is nil after an
// error that is not a gate's.
func (x *run) report(took time.Duration, err error) (*Summary, error) {
	s := x.summary(took, err)
	if len(s.Results) == 0 && err != nil {
		return nil, err
	}
	if werr := x.writeReports(s, err); err == nil {
		err = werr
	}
	var e *fail.Error
	if err != nil && !(errors.As(err, &e) && e.Kind == fail.Gate) {
		return nil, err
	}
	return s, err
}

func (x *run) writeReports(s *Summary, failed error) error {
	raw, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	manifest, err := x.manifest()
	if err != nil {
		return err
	}
	page, err := x.html(s, failed)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{"summary.md", []byte(s.Markdown())}, {"summary.json", append(raw, '\n')}, {"manifest.json", manifest}, {"report.html", page}} {
		if err := atomic.WriteFile(filepath.Join(x.dir, f.name), f.data); err != nil {
			return err
		}
	}
	return x.writeTensorboard()
}

// contextOf is the context length to serve a model with.
func (x *run) contextOf(path string) int {
	src, err := arch.Open(path)
	if err != nil {
		return 4096
	}
	defer src.Close()
	return min(src.Spec.MaxPos, 8192)
}
