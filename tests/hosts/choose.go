// go-sqlite3: a database that says so, with a library that does not become the default. Prints "auto".

package main

import (
	"database/sql"
	"fmt"
	"log"

	"github.com/mattn/go-sqlite3"
)

func mode(db *sql.DB) string {
	mode := "stock"
	err := db.QueryRow("PRAGMA parallel_wal_mode").Scan(&mode)
	if err != nil && err != sql.ErrNoRows {
		log.Fatal(err)
	}
	return mode
}

func open(driver, name string) *sql.DB {
	db, err := sql.Open(driver, name)
	if err != nil {
		log.Fatal(err)
	}
	return db
}

func main() {
	load := func(connection *sqlite3.SQLiteConn) error {
		return connection.LoadExtension("./libpwal", "sqlite3_pwalvfs_init")
	}
	sql.Register("pwal", &sqlite3.SQLiteDriver{ConnectHook: load})
	loader := open("pwal", ":memory:")
	if err := loader.Ping(); err != nil {
		log.Fatal(err)
	}
	loader.Close()

	if stock := open("sqlite3", "go-stock.db"); mode(stock) != "stock" {
		log.Fatal("the second entry point is not the default")
	}
	db := open("sqlite3", "file:go-chosen.db?vfs=pwal&_journal_mode=WAL")
	defer db.Close()
	fmt.Println(mode(db))
}
