package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"tidegate/policy"
	"time"
)

// maxRevocations bounds the body of one request: 100,000 of the longest usual names.
const maxRevocations = 16 << 20

// Revocations is the body of POST /v1/revocations. Each entry names a credential by one of
// policy.RevocationWords, and until when; no time: for ever.
type Revocations struct {
	Revocations []Revocation `json:"revocations"`
}

// A Revocation names one credential.
type Revocation map[string]string

// until is the member of a Revocation that names no credential.
const until = "until"

// RevokedView says how many revocations are in force beside those of the bundle.
type RevokedView struct {
	Added   int            `json:"added"`
	Entries int            `json:"entries"`
	Most    int            `json:"most"`
	Kinds   map[string]int `json:"kinds"`
}

// kindNames are the kinds of RevokedView.
var kindNames = map[policy.RevocationKind]string{
	policy.RevokedID: "jti", policy.RevokedSignature: "signature", policy.RevokedKey: "api_key",
	policy.RevokedConsumer: "consumer_key", policy.RevokedApplication: "application", policy.RevokedUser: "user",
}

// A Revoker keeps revocations and records that they came.
type Revoker interface {
	// Revoke takes rs in: in force and on disk when it returns nil, with an entry of the audit log
	// that holds source and detail. It returns how many were new.
	Revoke(rs []policy.Revocation, source, detail string) (int, error)
	// Revoked returns how many there are, by kind, and how many there may be.
	Revoked() (kinds map[policy.RevocationKind]int, most int)
}

func (a *API) revocations(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, a.revokedView(0))
	return nil
}

func (a *API) revokedView(added int) RevokedView {
	kinds, most := a.d.Revoker.Revoked()
	v := RevokedView{Added: added, Most: most, Kinds: map[string]int{}}
	for k, n := range kinds {
		v.Kinds[kindNames[k]] = n
		v.Entries += n
	}
	return v
}

// revoke takes revocations in, all of a request or none.
func (a *API) revoke(w http.ResponseWriter, r *http.Request) error {
	var body Revocations
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRevocations))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		return &badRequestError{fmt.Errorf("revocations: %w", err)}
	}
	if _, err := d.Token(); err != io.EOF {
		return &badRequestError{errors.New("revocations: something stands behind the object")}
	}
	if len(body.Revocations) == 0 {
		return &badRequestError{errors.New("revocations: the list is empty")}
	}
	var rs []policy.Revocation
	words := map[string]int{}
	var errs []error
	for i, one := range body.Revocations {
		word, list, err := one.read()
		if err != nil {
			if errs = append(errs, fmt.Errorf("revocation %d: %w", i+1, err)); len(errs) == 20 {
				break
			}
			continue
		}
		words[word]++
		rs = append(rs, list...)
	}
	if len(errs) > 0 {
		return &badRequestError{errors.Join(errs...)}
	}
	var detail []string
	for word, n := range words {
		detail = append(detail, fmt.Sprintf("%d by %s", n, word))
	}
	slices.Sort(detail)
	added, err := a.d.Revoker.Revoke(rs, source(r), "revoked: "+strings.Join(detail, ", "))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, a.revokedView(added))
	return nil
}

// read returns what one entry names.
func (r Revocation) read() (word string, list []policy.Revocation, err error) {
	var end uint64
	for name, value := range r {
		switch {
		case name == until:
			t, err := time.Parse(time.RFC3339, value)
			if err != nil || t.Unix() <= 0 {
				return "", nil, fmt.Errorf("until %q: want RFC 3339, like 2030-01-01T00:00:00Z", value)
			}
			end = uint64(t.Unix())
		case word != "":
			return "", nil, fmt.Errorf("%s and %s: want one of them", min(word, name), max(word, name))
		default:
			word = name
		}
	}
	if word == "" {
		return "", nil, errors.New("names no credential: want one of " + strings.Join(policy.RevocationWords[:], ", "))
	}
	list, err = policy.Revoke(word, r[word], end)
	return word, list, err
}
