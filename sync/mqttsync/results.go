package mqttsync

import (
	"slices"
	"sync"
	"tidegate/sync/canon"
	"tidegate/sync/intake"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/trust"
)

const (
	resultsKey  = "results"
	tokensKey   = "tokens"
	mostResults = 16
	mostTokens  = 64
)

// A kept result waits to be acknowledged.
type keptResult struct {
	_                struct{} `cbor:",toarray"`
	Number           uint64
	Product, Channel string
	Digest           trust.Digest
	Phase            string
	Word, Detail     string
	Seq              uint64
}

type wireResults struct {
	_    struct{} `cbor:",toarray"`
	Last uint64
	All  []keptResult
}

// results are the outcomes that the fleet does not know yet. The oldest give way.
type results struct {
	memory Memory
	mu     sync.Mutex
	w      wireResults
}

func loadResults(m Memory) (*results, error) {
	r := &results{memory: m}
	v, err := m.Load(resultsKey)
	if err != nil || v == nil {
		return r, err
	}
	return r, canon.Unmarshal(v, &r.w, canon.Within(64<<10))
}

// add keeps an outcome. One that repeats the newest of its digest says nothing new.
func (r *results) add(rep intake.Report) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	phase := rep.Phase.String()
	for i := len(r.w.All) - 1; i >= 0; i-- {
		if old := &r.w.All[i]; old.Digest == rep.Digest {
			if old.Phase == phase && old.Word == string(rep.Word) {
				return nil
			}
			break
		}
	}
	next := wireResults{Last: r.w.Last + 1, All: append(slices.Clone(r.w.All), keptResult{
		Number: r.w.Last + 1, Product: rep.Product, Channel: rep.Channel, Digest: rep.Digest,
		Phase: phase, Word: string(rep.Word), Detail: cut(rep.Detail, 400), Seq: rep.Seq,
	})}
	if n := len(next.All); n > mostResults {
		next.All = next.All[n-mostResults:]
	}
	return r.put(next)
}

func (r *results) put(w wireResults) error {
	v, err := canon.Marshal(w)
	if err != nil {
		return err
	}
	if err := r.memory.Save(resultsKey, v); err != nil {
		return err
	}
	r.w = w
	return nil
}

// acked forgets what the fleet has stored.
func (r *results) acked(numbers []uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(r.w.All), func(k keptResult) bool { return slices.Contains(numbers, k.Number) })
	if len(all) == len(r.w.All) {
		return nil
	}
	return r.put(wireResults{Last: r.w.Last, All: all})
}

func (r *results) pending() []keptResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.w.All)
}

// cut shortens text to n bytes of valid UTF-8.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}

// tokens are the commands that were obeyed, the newest 64.
type tokens struct {
	memory Memory
	mu     sync.Mutex
	all    []message.Token
}

func loadTokens(m Memory) (*tokens, error) {
	t := &tokens{memory: m}
	v, err := m.Load(tokensKey)
	if err != nil || v == nil {
		return t, err
	}
	return t, canon.Unmarshal(v, &t.all, canon.Within(4<<10))
}

// take reports whether a token is new, and keeps it before it says so.
func (t *tokens) take(k message.Token) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.Contains(t.all, k) {
		return false, nil
	}
	all := append(slices.Clone(t.all), k)
	if len(all) > mostTokens {
		all = all[len(all)-mostTokens:]
	}
	v, err := canon.Marshal(all)
	if err != nil {
		return false, err
	}
	if err := t.memory.Save(tokensKey, v); err != nil {
		return false, err
	}
	t.all = all
	return true, nil
}
