package admin

import (
	"errors"
	"net/http"
	"tidegate/sync/mqttsync"
	"time"
)

// Link is the connection to the fleet.
type Link struct {
	State     string            `json:"state"` // waiting, connecting, connected, unanswered, stopped
	Broker    string            `json:"broker,omitempty"`
	Since     time.Time         `json:"since"`
	Contact   *time.Time        `json:"last_contact,omitempty"` // when somebody answered last, by the system clock; none: not since the start
	Next      float64           `json:"next_try_seconds,omitempty"`
	Error     string            `json:"error,omitempty"` // why the last connection ended
	Hint      string            `json:"hint,omitempty"`
	Publisher bool              `json:"publisher_answers"`
	Collector bool              `json:"collector_answers"`
	Fetching  *Fetching         `json:"fetching,omitempty"`
	Dropped   map[string]uint64 `json:"dropped,omitempty"` // messages, by reason
	Sent      uint64            `json:"batches_sent"`
	Repeated  uint64            `json:"batches_repeated"`
	Acked     uint64            `json:"batches_acknowledged"`
	Unacked   int               `json:"batches_in_flight"`
	BadAcks   uint64            `json:"acknowledgements_refused"`
	Today     int64             `json:"bytes_today"`
}

// Fetching is a bundle on its way in.
type Fetching struct {
	Digest string `json:"digest"`
	Have   int64  `json:"bytes"`
	Total  int64  `json:"of_bytes"`
	From   string `json:"from,omitempty"` // a web server; none: over the broker
}

// sync opens the link now, whatever its mode, and answers with how it is, when all is done if
// the caller waits.
func (a *API) sync(w http.ResponseWriter, r *http.Request) error {
	if a.d.Status().Link == nil {
		return &statusError{status: http.StatusConflict, text: "this device has no link to a fleet", hint: "set mqtt.brokers and mqtt.fleet"}
	}
	now, err := a.d.Sync(r.Context(), r.URL.Query().Get("wait") == "true")
	var link *mqttsync.LinkError
	switch {
	case errors.As(err, &link):
		return &statusError{status: http.StatusBadGateway, text: link.Error(), hint: link.Hint}
	case err != nil:
		return err
	}
	writeJSON(w, http.StatusOK, now)
	return nil
}
