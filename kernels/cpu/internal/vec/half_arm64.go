package vec

var (
	widenHalves  = widenGeneric
	narrowHalves = narrowGeneric
)
