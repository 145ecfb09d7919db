package cpu

func levelName() string { return "generic" }

func fastBF16() bool { return false }
