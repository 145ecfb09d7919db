package engine

import "strings"

// stopper finds the first of some texts in a text that comes in pieces.
type stopper struct {
	texts []string
	held  string // the end of the text so far, with which one of texts may begin
	met   bool   // one of them has come
}

// push adds a piece and returns what can be shown of it and of what was held:
// what stands before the first of the texts, or all that cannot begin one.
func (s *stopper) push(piece string) (show string, met bool) {
	s.held += piece
	end := -1
	for _, t := range s.texts {
		if i := strings.Index(s.held, t); i >= 0 && (end < 0 || i < end) {
			end = i
		}
	}
	if s.met = end >= 0; !s.met {
		end = len(s.held) - s.begun()
	}
	show, s.held = s.held[:end], s.held[end:]
	return show, s.met
}

// begun is the length of the longest end of held that one of texts begins with.
func (s *stopper) begun() int {
	most := 0
	for _, t := range s.texts {
		for n := min(len(t)-1, len(s.held)); n > most; n-- {
			if strings.HasSuffix(s.held, t[:n]) {
				most = n
			}
		}
	}
	return most
}

// flush returns what is held when nothing more comes.
func (s *stopper) flush() string {
	show := s.held
	s.held = ""
	return show
}
