package fleet

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"strings"

	_ "modernc.org/sqlite" // driver "sqlite"
)

// OpenStore opens the database at a place: "postgres://…" is a PostgreSQL server that several
// collectors can share, anything else is a file of SQLite, made if it is absent.
func OpenStore(ctx context.Context, place string, rows Rows) (Store, error) {
	s := &database{rows: rows}
	if strings.HasPrefix(place, "postgres://") || strings.HasPrefix(place, "postgresql://") {
		s.d = dialect{blob: "BYTEA", lock: " FOR UPDATE", numbered: true}
		s.db = &postgres{place: place}
	} else {
		db, err := sql.Open("sqlite", sqliteName(place))
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(1) // there is one writer
		s.d, s.db = dialect{blob: "BLOB"}, standard{db}
	}
	if err := s.begin(ctx); err != nil {
		_ = s.db.Close()
		return nil, fmt.Errorf("%s: %w", redact(place), err)
	}
	return s, nil
}

// sqliteName turns on what makes a commit durable: WAL, synced at each.
func sqliteName(file string) string {
	q := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)"}, "_txlock": {"immediate"}}
	return "file:" + strings.ReplaceAll(url.PathEscape(file), "%2F", "/") + "?" + q.Encode()
}

// redact leaves the password out.
func redact(place string) string {
	if u, err := url.Parse(place); err == nil && u.User != nil {
		return u.Redacted()
	}
	return place
}
