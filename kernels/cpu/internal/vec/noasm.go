//go:build !amd64

package vec

var tables = [...]*table{&generic, &generic, &generic, &generic}
