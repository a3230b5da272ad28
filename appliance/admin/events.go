package admin

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"tidegate/platform/identity"
	"tidegate/store/events"
	"tidegate/store/events/batch"
	"tidegate/store/events/export"
	"time"
)

// readBatches is how many batches are read at a time: each is at most 60 KiB.
const readBatches = 32

// events streams the recorded calls. Everything recorded before the request is in it.
func (a *API) events(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	var since time.Time
	if s := q.Get("since"); s != "" {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return &badRequestError{fmt.Errorf("since %q is not a time as 2026-11-25T00:00:00Z", s)}
		}
		since = t
	}
	select {
	case <-a.d.EventsOpen:
	case <-r.Context().Done():
		return r.Context().Err()
	}
	if err := a.d.Events.Flush(r.Context()); err != nil {
		a.d.Log.Warn("export: what is in memory is left out", "error", err)
	}
	switch q.Get("format") {
	case "", "ndjson":
		losses, err := a.losses()
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, err = export.NDJSON(w, losses, a.batches, since)
		return err
	case "csv":
		w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present")
		_, err := export.CSV(w, a.batches, since)
		return err
	case "wso2":
		return a.usage(w, r, since)
	default:
		return &badRequestError{fmt.Errorf("format %q is not one of ndjson, csv, wso2", q.Get("format"))}
	}
}

// batches yields every detail batch of the queue, oldest first.
func (a *API) batches(yield func(*batch.Batch, error) bool) {
	at := events.Cursor{Class: batch.Detail}
	for {
		list, err := a.d.Events.Read(at, readBatches)
		if err != nil {
			yield(nil, err)
			return
		}
		for i := range list {
			if !yield(&list[i], nil) {
				return
			}
			at = events.After(&list[i])
		}
		if len(list) < readBatches {
			return
		}
	}
}

// losses returns what is declared lost and not yet acknowledged.
func (a *API) losses() ([]batch.Loss, error) {
	var all []batch.Loss
	var after uint64
	for {
		list, err := a.d.Events.Losses(after, 256)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
		if len(list) < 256 {
			return all, nil
		}
		after = list[len(list)-1].Number
	}
}

// usage answers with one zip that holds the zips of WSO2's format: a client unpacks them.
func (a *API) usage(w http.ResponseWriter, r *http.Request, since time.Time) error {
	version, err := export.ParseStreamVersion(r.URL.Query().Get("stream-version"))
	if err != nil {
		return &badRequestError{err}
	}
	id, err := identity.ParseID(a.d.Status().Device)
	if err != nil {
		return errors.New("the device has no id, which names the files of this format")
	}
	w.Header().Set("Content-Type", "application/zip")
	z := zip.NewWriter(w)
	x := &export.WSO2{Device: id, Stream: version, Host: id.String(), Create: func(name string) (io.WriteCloser, error) {
		f, err := z.CreateHeader(&zip.FileHeader{Name: path.Base(name), Method: zip.Store})
		return keepOpen{f}, err
	}}
	tally, err := x.Export(a.batches, since)
	if err != nil {
		return err
	}
	if err := z.SetComment(fmt.Sprintf("%d events, %d refused before a plan or a backend, %d files", tally.Events, tally.Refused, tally.Files)); err != nil {
		return err
	}
	return z.Close()
}

// keepOpen is a part of a zip, which ends when the next begins.
type keepOpen struct{ io.Writer }

// Close does nothing.
func (keepOpen) Close() error { return nil }
