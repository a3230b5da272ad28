package fleet

import (
	"context"
	"database/sql"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5"
)

// A conn runs statements, in a transaction or outside of one.
type conn interface {
	exec(ctx context.Context, query string, args ...any) (int64, error)
	query(ctx context.Context, query string, args ...any) (rows, error)
}

// rows are the result of a query.
type rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close() error
}

// An engine is a database.
type engine interface {
	conn
	in(ctx context.Context, fn func(conn) error) error
	Close() error
}

// one reads the only row of a query.
func one(ctx context.Context, c conn, query string, args []any, dest ...any) error {
	r, err := c.query(ctx, query, args...)
	if err != nil {
		return err
	}
	if !r.Next() {
		return errors.Join(r.Err(), r.Close(), sql.ErrNoRows)
	}
	return errors.Join(r.Scan(dest...), r.Close())
}

// standard is an engine over database/sql.
type standard struct{ db *sql.DB }

type statements interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

type standardConn struct{ s statements }

func (c standardConn) exec(ctx context.Context, query string, args ...any) (int64, error) {
	r, err := c.s.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

func (c standardConn) query(ctx context.Context, query string, args ...any) (rows, error) {
	r, err := c.s.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (e standard) exec(ctx context.Context, query string, args ...any) (int64, error) {
	return standardConn{e.db}.exec(ctx, query, args...)
}

func (e standard) query(ctx context.Context, query string, args ...any) (rows, error) {
	return standardConn{e.db}.query(ctx, query, args...)
}

func (e standard) in(ctx context.Context, fn func(conn) error) error {
	tx, err := e.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(standardConn{tx}); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (e standard) Close() error { return e.db.Close() }

// postgres is one connection to a PostgreSQL server, made again when it was lost. Callers take
// turns.
type postgres struct {
	place string
	turn  sync.Mutex
	c     *pgx.Conn
}

// connect returns the connection. The caller holds turn.
func (e *postgres) connect(ctx context.Context) (*pgx.Conn, error) {
	if e.c != nil && !e.c.IsClosed() {
		return e.c, nil
	}
	c, err := pgx.Connect(ctx, e.place)
	if err != nil {
		return nil, err
	}
	e.c = c
	return c, nil
}

type pgxStatements interface {
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
}

type pgxConn struct{ s pgxStatements }

// exec goes through Query, which both a connection and a transaction have in one form.
func (c pgxConn) exec(ctx context.Context, query string, args ...any) (int64, error) {
	r, err := c.s.Query(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	r.Close()
	return r.CommandTag().RowsAffected(), r.Err()
}

func (c pgxConn) query(ctx context.Context, query string, args ...any) (rows, error) {
	r, err := c.s.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgxRows{r, func() {}}, nil
}

type pgxRows struct {
	pgx.Rows
	done func()
}

// Close ends the query.
func (r pgxRows) Close() error {
	r.Rows.Close()
	r.done()
	return r.Rows.Err()
}

func (e *postgres) exec(ctx context.Context, query string, args ...any) (int64, error) {
	e.turn.Lock()
	defer e.turn.Unlock()
	c, err := e.connect(ctx)
	if err != nil {
		return 0, err
	}
	return pgxConn{c}.exec(ctx, query, args...)
}

// query holds the connection until its rows are closed.
func (e *postgres) query(ctx context.Context, query string, args ...any) (rows, error) {
	e.turn.Lock()
	c, err := e.connect(ctx)
	if err != nil {
		e.turn.Unlock()
		return nil, err
	}
	r, err := c.Query(ctx, query, args...)
	if err != nil {
		e.turn.Unlock()
		return nil, err
	}
	return pgxRows{r, sync.OnceFunc(e.turn.Unlock)}, nil
}

func (e *postgres) in(ctx context.Context, fn func(conn) error) error {
	e.turn.Lock()
	defer e.turn.Unlock()
	c, err := e.connect(ctx)
	if err != nil {
		return err
	}
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	if err := fn(pgxConn{tx}); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	return tx.Commit(ctx)
}

// Close ends the connection.
func (e *postgres) Close() error {
	e.turn.Lock()
	defer e.turn.Unlock()
	if e.c == nil {
		return nil
	}
	return e.c.Close(context.Background())
}
