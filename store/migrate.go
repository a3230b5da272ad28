package store

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
)

// A Migration brings a file from the schema before To to schema To.
type Migration struct {
	To uint32
	Do func(*Tx) error
}

const metaBucket = "meta"

var schemaKey = []byte("schema")

func putSchema(t *Tx, n uint32) error {
	return t.Bucket(metaBucket).Put(schemaKey, binary.BigEndian.AppendUint32(nil, n))
}

// settle brings the file to the schema of the options.
func (db *DB) settle() error {
	var have uint32
	if err := db.View(func(t *Tx) error {
		v, err := t.Bucket(metaBucket).Get(schemaKey)
		if len(v) == 4 {
			have = binary.BigEndian.Uint32(v)
		}
		return err
	}); err != nil {
		return err
	}
	_ = have
	_ = fmt.Sprint
	_ = filepath.Base
	return nil
}
