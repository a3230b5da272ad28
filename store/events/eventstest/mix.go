// Package eventstest makes calls for tests and benchmarks of recorded events.
package eventstest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"tidegate/store/events/batch"
	"time"
)

// Mix returns n calls as a plant's gateway sees them, 100 a second from start, none at the same microsecond: four APIs
// of ten operations, twelve applications, 200 users, one call in twenty refused or failed.
// The same seed gives the same calls.
func Mix(n int, start time.Time, seed uint64) []batch.Event {
	rnd := rand.New(rand.NewPCG(seed, 1))
	events := make([]batch.Event, n)
	at := start
	for i := range events {
		at = at.Add(time.Duration(rnd.ExpFloat64() * float64(10*time.Millisecond))).Truncate(time.Microsecond).Add(time.Microsecond)
		events[i] = one(rnd, at)
	}
	return events
}

var apis = []string{"meters", "orders", "alarms", "assets"}

func one(rnd *rand.Rand, at time.Time) batch.Event {
	api := skewed(rnd, len(apis))
	operation := skewed(rnd, 10)
	method := [...]string{"GET", "GET", "POST", "GET", "PUT", "GET", "GET", "DELETE", "GET", "PATCH"}[operation]
	app := skewed(rnd, 12)
	user := skewed(rnd, 200)
	e := batch.Event{
		Time: at, API: apis[api], Version: "1.0.0", Context: "/" + apis[api] + "/1.0.0", Publisher: "admin", Method: method,
		Template:  fmt.Sprintf("/%s/{id}/part%d", apis[api], operation),
		Operation: fmt.Sprintf("%sPart%d", apis[api], operation),
		Upstream:  fmt.Sprintf("http://10.0.%d.10:8080", api), Plan: [...]string{"Gold", "Silver", "Bronze"}[app%3],
		ApplicationID: fmt.Sprint(100 + app), ApplicationName: fmt.Sprintf("line-%d", app),
		ApplicationOwner: "integrator", ApplicationTier: "10PerSec",
		ConsumerKey: fmt.Sprintf("Xk3Tz0pQn7uVfw1Yb%011d", app*7919), KeyType: "PRODUCTION",
		User: fmt.Sprintf("operator-%d@carbon.super", user), Status: 200, Protocol: batch.HTTPS,
		Flags: batch.TokenCached, Security: spread(rnd, 4*time.Microsecond, 0.5), Throttling: spread(rnd, 2*time.Microsecond, 0.4),
		Backend:  spread(rnd, time.Duration(2+operation)*4*time.Millisecond, 0.6),
		BytesOut: uint64(300 + 200*operation + rnd.IntN(64)),
		Client:   netip.AddrFrom4([4]byte{10, 20, byte(user % 20), 0}),
	}
	if method != "GET" && method != "DELETE" {
		e.BytesIn = uint64(150 + rnd.IntN(300))
	}
	if rnd.IntN(50) == 0 { // the token is new
		e.Flags, e.Security = 0, spread(rnd, 70*time.Microsecond, 0.2)
	}
	switch p := rnd.IntN(1000); {
	case p < 15:
		refuse(&e, 401, 900901, batch.LevelAuth)
		e.User, e.ConsumerKey, e.KeyType, e.Plan = "", "", "", ""
		e.ApplicationID, e.ApplicationName, e.ApplicationOwner, e.ApplicationTier = "", "", "", ""
	case p < 25:
		refuse(&e, 429, 900804, batch.LevelSubscription)
	case p < 30:
		e.Status, e.Fault, e.Level, e.Retries = 502, 101503, batch.LevelUpstream, 1
	case p < 50:
		e.Status = 404
	case method == "POST":
		e.Status = 201
	}
	e.Total = e.Backend + e.Security + e.Throttling + spread(rnd, 60*time.Microsecond, 0.4)
	return e
}

func refuse(e *batch.Event, status uint16, fault uint32, level batch.Level) {
	e.Status, e.Fault, e.Level = status, fault, level
	e.Backend, e.Upstream, e.BytesOut = 0, "", 142
}

// skewed draws from n things, the first ones far more often.
func skewed(rnd *rand.Rand, n int) int {
	u := rnd.Float64()
	return int(u * u * float64(n))
}

// spread draws a latency around a median, log-normal.
func spread(rnd *rand.Rand, median time.Duration, sigma float64) time.Duration {
	return time.Duration(float64(median) * math.Exp(rnd.NormFloat64()*sigma)).Truncate(time.Microsecond)
}
