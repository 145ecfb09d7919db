package fail

import (
	"encoding/json"
	"fmt"
	"testing"
)

// TestJSONWords: a message says what was found and expected of which key, in JSON's words.
func TestJSONWords(t *testing.T) {
	type Part struct {
		Rank int `json:"rank"`
	}
	var v struct {
		Part
		On   *bool              `json:"on"`
		List []string           `json:"list"`
		Map  map[string]float64 `json:"map"`
		N    uint8              `json:"n"`
	}
	for text, want := range map[string]string{
		`{"rank":"8"}`:      "rank: found string, expected a whole number",
		`{"rank":1e30}`:     "rank: found 1e30, expected a whole number",
		`{"on":1}`:          "on: found number, expected true or false",
		`{"list":["a",{}]}`: "list: found object, expected text",
		`{"map":{"a":[]}}`:  "map: found array, expected a number",
		`{"map":3}`:         "map: found number, expected an object",
		`{"n":-1}`:          "n: found -1, expected a whole number from 0",
		`[]`:                "found array, expected an object",
	} {
		err := json.Unmarshal([]byte(text), &v)
		if got := Inputf("a.json", "", "bad: %w", fmt.Errorf("in: %w", err)).Error(); got != "a.json: bad: in: "+want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
