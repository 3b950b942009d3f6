// Go with go-sqlite3 (cgo), beside libpwal.so: the README shows its lines about pwal.

package main

import (
	"database/sql"
	"fmt"
	"log"

	"github.com/mattn/go-sqlite3"
)

func main() {
	sql.Register("pwal", &sqlite3.SQLiteDriver{Extensions: []string{"./libpwal"}})
	loader, err := sql.Open("pwal", ":memory:")
	must(err)
	must(loader.Ping()) // for every database that this process opens from here on
	must(loader.Close())

	db, err := sql.Open("sqlite3", "file:app.db?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=10000")
	must(err)
	_, err = db.Exec("CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, text)")
	must(err)
	_, err = db.Exec("INSERT INTO note(text) VALUES('from Go')") // durable when it returns
	must(err)
	var mode string
	must(db.QueryRow("PRAGMA parallel_wal_mode").Scan(&mode))
	fmt.Println(mode) // auto
	must(db.Close())
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
