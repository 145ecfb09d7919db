package arch

// RulesOf are the tensors of the model that a config.json describes.
func RulesOf(config []byte) ([]Rule, error) {
	c, err := parseConfig(config)
	if err != nil {
		return nil, err
	}
	a := byHF("", c.String("", "model_type"))
	s, err := a.Spec(c)
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return nil, err
	}
	return a.Rules(&s), nil
}

// FileShape is the shape of a piece of r in its file.
func (p *Piece) FileShape(r *Rule) []int64 { return p.fileShape(r) }
