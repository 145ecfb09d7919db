package recipes

// Version of the program; part of every stage's content address, since a new
// version may compute other bits.
const Version = "0.1.0"
