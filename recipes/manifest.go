package recipes

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
)

// Manifest lists the hash of every input and output of a run. The same recipe,
// inputs, version and kernel level give the same bytes: it holds no times,
// hosts or absolute paths of its own.
type Manifest struct {
	Version string          `json:"version"`
	Go      string          `json:"go"`
	Recipe  string          `json:"recipe"` // the run's name
	Seed    uint64          `json:"seed"`
	Device  string          `json:"device"`
	Kernels string          `json:"kernels"`
	Hash    Digest          `json:"hash"`
	Stages  []ManifestStage `json:"stages"`
}

// ManifestStage is one finished stage.
type ManifestStage struct {
	Stage   string            `json:"stage"`
	Kind    string            `json:"kind"`
	Address Digest            `json:"address"`
	Inputs  map[string]Source `json:"inputs"`
	Outputs []FileHash        `json:"outputs"`
	Notes   []string          `json:"notes,omitempty"`
}

func (x *run) manifest() ([]byte, error) {
	m := Manifest{Version: Version, Go: runtime.Version(), Recipe: x.Name, Seed: *x.Seed, Device: x.dev.Info().Name, Kernels: x.dev.Info().Level, Hash: x.runHash(), Stages: []ManifestStage{}}
	for _, j := range x.jobs {
		if r := x.done[j.ID]; r != nil && r.Outputs != nil {
			m.Stages = append(m.Stages, ManifestStage{r.Stage, r.Kind, r.Address, r.Inputs, r.Outputs, r.Notes})
		}
	}
	raw, err := json.MarshalIndent(m, "", " ")
	return append(raw, '\n'), err
}

// runHash is over the addresses and outputs of the finished stages, in order.
func (x *run) runHash() Digest {
	w := sha256.New()
	for _, j := range x.jobs {
		r := x.done[j.ID]
		if r == nil {
			continue
		}
		fmt.Fprintf(w, "%s %s %s\n", r.Stage, r.Kind, r.Address)
		for _, f := range r.Outputs {
			fmt.Fprintf(w, " %s %s\n", f.SHA256, f.Path)
		}
	}
	return Digest(hex.EncodeToString(w.Sum(nil)))
}
