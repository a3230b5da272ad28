package store_test

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"tidegate/store"
)

func BenchmarkGet(b *testing.B) {
	db, err := store.Open(filepath.Join(b.TempDir(), "x.db"), small())
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if err := update(db, "k", strings.Repeat("v", 200)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := db.View(func(tx *store.Tx) error {
			_, err := tx.Bucket("b").Get([]byte("k"))
			return err
		}); err != nil {
			b.Fatal(err)
		}
	}
}

// What one transaction costs; device bytes are measured by the power cut kit.
func BenchmarkUpdate(b *testing.B) {
	for _, records := range []int{1, 100} {
		b.Run(fmt.Sprintf("%d records of 208 B", records), func(b *testing.B) {
			db, err := store.Open(filepath.Join(b.TempDir(), "x.db"), small())
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			value := make([]byte, 200)
			b.ReportAllocs()
			for n := uint64(0); b.Loop(); n++ {
				if err := db.Update(func(tx *store.Tx) error {
					for i := range records {
						if err := tx.Bucket("b").Put(binary.BigEndian.AppendUint64(nil, (n*31+uint64(i))%1000), value); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(db.Stats().WrittenBytes)/float64(b.N), "page-B/op")
		})
	}
}
