package vec

var tables = [...]*table{&generic, &generic, &generic, &generic}
