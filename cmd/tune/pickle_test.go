package main

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tunekit/tunekit/formats"
)

// writePickled makes the folder dir of another, with its safetensors as torch.save
// would write them.
func writePickled(dir, from, weights, pickled string) error {
	ts, _, err := formats.ReadSafetensors(filepath.Join(from, weights))
	if err != nil {
		return err
	}
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, weights)); err != nil {
		return err
	}
	var file bytes.Buffer
	z := zip.NewWriter(&file)
	add := func(name string, data []byte) {
		w, e := z.CreateHeader(&zip.FileHeader{Name: "archive/" + name, Method: zip.Store})
		if e == nil {
			_, e = w.Write(data)
		}
		err = cmp.Or(err, e)
	}
	pkl := []byte("\x80\x02}(")
	text := func(s string) { pkl = append(binary.LittleEndian.AppendUint32(append(pkl, 'X'), uint32(len(s))), s...) }
	number := func(n int64) { pkl = binary.LittleEndian.AppendUint32(append(pkl, 'J'), uint32(n)) }
	for i, t := range ts {
		text(t.Name)
		pkl = append(pkl, "ctorch._utils\n_rebuild_tensor_v2\n(("...)
		text("storage")
		pkl = append(pkl, "ctorch\nFloatStorage\n"...)
		text(fmt.Sprint(i))
		text("cpu")
		number(elements(t.Shape))
		pkl = append(pkl, "tQK\x00("...)
		for _, d := range t.Shape {
			number(d)
		}
		pkl = append(pkl, "t("...)
		for j := range t.Shape {
			number(elements(t.Shape[j+1:]))
		}
		pkl = append(pkl, "t\x89ccollections\nOrderedDict\n)RtR"...)
		add(fmt.Sprintf("data/%d", i), t.Data)
	}
	add("data.pkl", append(pkl, "u."...))
	add("byteorder", []byte("little"))
	if err := cmp.Or(err, z.Close()); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, pickled), file.Bytes(), 0o644)
}
