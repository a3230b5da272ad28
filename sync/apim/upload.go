package apim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strings"
	"tidegate/policy/refusal"
	"time"
)

// duplicate is how the receiver says that it has a file already.
const duplicate = "A duplicate entry found for the file"

// An Uploader hands usage files to the receiver of API Manager's analytics. The receiver
// tells files apart by their names: a file that is sent again is counted once.
type Uploader struct {
	URL            string
	HTTP           *http.Client
	User, Password string
	Attempts       int // at least 1
	// Wait waits before attempt n, 2 and up; nil: 1 s, 2 s, 4 s … at most 30 s.
	Wait func(ctx context.Context, n int) error
}

// Send hands one file in and reports whether the receiver had it already. After nil the
// receiver has the file, and it may be deleted. A refused user is an error at once, anything
// else after the last attempt.
func (u *Uploader) Send(ctx context.Context, name string, body []byte) (had bool, err error) {
	for n := 1; ; n++ {
		had, again, err := u.once(ctx, name, body)
		if err == nil || !again || n >= u.Attempts || ctx.Err() != nil {
			return had, err
		}
		wait := u.Wait
		if wait == nil {
			wait = backOff
		}
		if werr := wait(ctx, n+1); werr != nil {
			return false, errors.Join(err, werr)
		}
	}
}

// backOff waits longer before each attempt.
func backOff(ctx context.Context, n int) error {
	t := time.NewTimer(min(time.Second<<min(n-2, 5), 30*time.Second))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (u *Uploader) once(ctx context.Context, name string, body []byte) (had, again bool, err error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	h := textproto.MIMEHeader{}
	h.Set("Content-Disposition", fmt.Sprintf(`form-data; name="file"; filename=%q`, name))
	h.Set("Content-Type", "application/zip")
	part, err := w.CreatePart(h)
	if err == nil {
		_, err = part.Write(body)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return false, false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.URL, &b)
	if err != nil {
		return false, false, err
	}
	req.Header.Set("Content-Type", w.FormDataContentType())
	req.Header.Set("Authorization", basic(u.User, u.Password))
	req.Header.Set("FileName", name)
	req.Header.Set("Accept", "application/json")
	resp, err := u.HTTP.Do(req)
	if err != nil {
		return false, true, connectError(ctx, u.URL, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	switch {
	case resp.StatusCode == http.StatusCreated:
		return false, false, nil // the file is theirs, whatever became of the words after the status
	case resp.StatusCode == http.StatusInternalServerError && err == nil && strings.Contains(string(text), duplicate):
		return true, false, nil
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return false, false, refusal.New("", "%s: invalid user credentials or the user may not upload", u.URL)
	}
	return false, true, &StatusError{Call: "upload " + name, Status: resp.StatusCode, Body: clip(string(text))}
}
