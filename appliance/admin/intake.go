package admin

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"tidegate/sync/intake"
	"tidegate/sync/usbdrop/remote"
	"time"
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// candidate is the body of a request as something offered: it can be read once.
func candidate(r *http.Request) intake.Candidate {
	q := r.URL.Query()
	c := intake.Candidate{Source: "apply", Name: q.Get("name"), Retry: q.Get("retry") == "true"}
	if s, ok := strings.CutPrefix(source(r), "socket"); ok {
		c.Source += s // "apply uid 0 pid 7"
	} else {
		c.Source = source(r)
	}
	c.Open = func() (io.ReadCloser, error) { return io.NopCloser(r.Body), nil }
	return c
}

// refusedPatience is how long what is left of a file that was refused may take.
const refusedPatience = 30 * time.Second

// readOut takes in what the client still sends of a file that was refused: while it writes it
// does not read the answer, and a connection that is closed under it would hide the word.
func readOut(w http.ResponseWriter, r *http.Request, report intake.Report) {
	if report.Word == "" {
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(refusedPatience))
	_, _ = io.Copy(io.Discard, r.Body)
}

func (a *API) plan(w http.ResponseWriter, r *http.Request) error {
	report, err := a.d.Desk.Plan(r.Context(), candidate(r))
	readOut(w, r, report)
	if err != nil && report.Word == "" {
		return err
	}
	writeJSON(w, http.StatusOK, OutcomeOf(report))
	return nil
}

// apply answers with a line of JSON for each step that is worth a word: the state after
// the offer, and, if the caller waits, the verdict of the trial.
func (a *API) apply(w http.ResponseWriter, r *http.Request) error {
	report, err := a.d.Desk.Offer(r.Context(), candidate(r))
	readOut(w, r, report)
	if err != nil && report.Word == "" {
		return err
	}
	wait := r.URL.Query().Get("wait") == "true" && report.Phase == intake.OnTrial && !report.ByHand
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	line(w, report, !wait)
	if !wait {
		return nil
	}
	verdict, err := a.d.Desk.Wait(r.Context(), report.Digest)
	if err != nil {
		return nil //nolint:nilerr // the client is gone; the trial goes on without it
	}
	verdict.Object = report.Object
	line(w, verdict, true)
	return nil
}

func line(w http.ResponseWriter, r intake.Report, final bool) {
	o := OutcomeOf(r)
	o.Final = final
	_ = json.NewEncoder(w).Encode(o) // the client is gone
	_ = http.NewResponseController(w).Flush()
}

// stick turns the connection into the line of a helper that holds a stick.
func (a *API) stick(w http.ResponseWriter, r *http.Request) error {
	name := r.URL.Query().Get("name")
	if !stickName.MatchString(name) {
		return &badRequestError{fmt.Errorf("name %q: want one as sda1", name)}
	}
	if r.Header.Get("Upgrade") != StickProtocol {
		return &badRequestError{errors.New("want Upgrade: " + StickProtocol)}
	}
	c, b, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Time{})
	if _, err := io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+StickProtocol+"\r\n\r\n"); err != nil {
		return nil //nolint:nilerr // the helper is gone
	}
	if err := a.d.Stick(r.Context(), name, remote.NewLine(c, b.Reader)); err != nil {
		a.d.Log.Warn("stick", "name", name, "error", err)
	}
	return nil
}

// StickProtocol is what a helper that holds a stick upgrades its connection to.
const StickProtocol = "tide-stick"

var stickName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,64}$`)

func (a *API) confirm(w http.ResponseWriter, r *http.Request) error {
	return a.decide(w, r, a.d.Desk.Confirm)
}

func (a *API) rollback(w http.ResponseWriter, r *http.Request) error {
	return a.decide(w, r, a.d.Desk.Rollback)
}

func (a *API) decide(w http.ResponseWriter, r *http.Request, do func(context.Context, string) (intake.Report, error)) error {
	report, err := do(r.Context(), source(r))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, OutcomeOf(report))
	return nil
}
