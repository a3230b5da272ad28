package intake

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"tidegate/policy/refusal"
	"tidegate/sync/bundle"
	"tidegate/sync/bundle/write"
	"tidegate/sync/trust"
)

// The model knows a bundle by a name such as "7b": its number and which of two contents.
type model struct {
	active, good, older, trial string
	attempts                   int
	confirmed                  int
	failed                     []string // oldest first
	words                      map[string]refusal.Word
	minimum                    int
	revoked                    []string
}

func number(name string) (n int) {
	_, _ = fmt.Sscanf(name, "%d", &n) //nolint:errcheck // names of ours
	return n
}

func (m model) clone() model {
	m.failed, m.revoked = slices.Clone(m.failed), slices.Clone(m.revoked)
	words := make(map[string]refusal.Word)
	for k, v := range m.words {
		words[k] = v
	}
	m.words = words
	return m
}

func (m model) String() string {
	failed := slices.Clone(m.failed)
	slices.Sort(failed)
	return fmt.Sprintf("active %s good %s older %s trial %s/%d confirmed %d failed %v", m.active, m.good, m.older, m.trial, m.attempts, m.confirmed, failed)
}

func (m model) allowed(name string) bool {
	return name != "" && number(name) >= m.minimum && !slices.Contains(m.revoked, name)
}

func (m *model) fail(name string, w refusal.Word) {
	m.failed = append(slices.DeleteFunc(m.failed, func(f string) bool { return f == name }), name)
	m.words[name] = w
}

func (m *model) forgive(name string) {
	m.failed = slices.DeleteFunc(m.failed, func(f string) bool { return f == name })
}

// offer is what the specification says about a bundle: the word, or none.
func (m *model) offer(name string, compiles, retry bool) refusal.Word {
	n := number(name)
	seen := append([]string{m.good, m.trial}, m.failed...)
	switch {
	case name == m.trial, name == m.active && m.trial == "" && !slices.Contains(m.failed, name):
		return ""
	case n < m.confirmed:
		return refusal.Rollback
	case slices.ContainsFunc(seen, func(s string) bool {
		return s != "" && number(s) == n && s != name && (s != m.good || n == m.confirmed) && !(retry && s == name)
	}):
		return refusal.Equivocation
	case n < m.minimum:
		return refusal.Rollback
	case slices.Contains(m.revoked, name):
		return refusal.Revoked
	case slices.Contains(m.failed, name) && !retry:
		return m.words[name]
	case m.trial != "":
		return refusal.Busy
	case !compiles:
		m.fail(name, refusal.Compile)
		return refusal.Compile
	}
	m.forgive(name)
	m.trial, m.attempts = name, 3
	return ""
}

func (m *model) confirm() {
	if m.trial == "" {
		return
	}
	if m.active != m.trial {
		m.older = m.active
	}
	m.forgive(m.trial)
	m.good, m.active, m.confirmed, m.trial, m.attempts = m.trial, m.trial, number(m.trial), "", 0
}

// back ends the trial; a healthy bundle stays when nothing else is allowed.
func (m *model) back(w refusal.Word, loaded bool) {
	m.fail(m.trial, w)
	old := m.trial
	m.trial, m.attempts = "", 0
	for _, to := range []string{m.active, m.good, m.older} {
		if to != old && m.allowed(to) {
			m.active = to
			return
		}
	}
	m.active = ""
	if loaded {
		m.active = old
	}
}

func (m *model) rollback() refusal.Word {
	switch {
	case m.trial != "":
		m.back(refusal.Health, true)
	case m.older == "" || m.older == m.active:
		return refusal.Rollback
	case number(m.older) < m.minimum:
		return refusal.Rollback
	case !m.allowed(m.older):
		return refusal.Revoked
	default:
		m.active = m.older
	}
	return ""
}

// root is what happens when the newest root brought the minimum and revocations.
func (m *model) root() {
	if m.trial != "" {
		if !m.allowed(m.trial) {
			w := refusal.Revoked
			if number(m.trial) < m.minimum {
				w = refusal.Rollback
			}
			m.back(w, true)
		}
		return
	}
	if m.active == "" || m.allowed(m.active) {
		return
	}
	for _, to := range []string{m.good, m.older} {
		if to != m.active && m.allowed(to) {
			m.active = to
			return
		}
	}
}

func (m *model) start() {
	if m.trial == "" {
		return
	}
	if m.attempts--; m.attempts == 0 {
		m.back(refusal.Health, false)
	}
}

// A player drives a device and the model together.
type player struct {
	*world
	random *rand.Rand
	m      model
	files  map[string][]byte
	names  map[trust.Digest]string
	log    []string
}

func (p *player) file(name string) []byte {
	if b := p.files[name]; b != nil {
		return b
	}
	b := p.bundle(uint64(number(name)), func(s *write.Spec) { //nolint:gosec // small
		s.Manifest.Version = name
	})
	p.files[name] = b
	p.names[digestOf(p.t, b)] = name
	return b
}

// device reads the model's view from the device.
func (p *player) device() string {
	c := p.desk.cur.Load()
	name := func(d [32]byte) string { return p.names[trust.Digest(d)] }
	m := model{active: name(c.ptr.Active), good: name(c.ptr.Good), older: name(c.ptr.Older), trial: name(c.ptr.Trial), attempts: int(c.ptr.Attempts)}
	if l, ok := c.state.Confirmed("gate", "stable"); ok {
		m.confirmed = int(l.Seq) //nolint:gosec // small
	}
	for d, n := range p.names {
		if _, failed := c.state.Failure(d); failed {
			m.failed = append(m.failed, n)
		}
	}
	return m.String()
}

// step is one operation on both; the word is what the device should answer.
type step struct {
	name   string
	model  func(m *model) refusal.Word
	device func() error
}

func (p *player) choose() step {
	pick := func() string {
		n := max(p.m.confirmed+p.random.IntN(5)-2, 1)
		return fmt.Sprintf("%d%c", n, 'a'+rune(p.random.IntN(2)))
	}
	switch k := p.random.IntN(20); {
	case k < 9:
		name, compiles, retry := pick(), p.random.IntN(5) > 0, p.random.IntN(3) == 0
		file := p.file(name)
		return step{
			fmt.Sprintf("offer %s compiles %v retry %v", name, compiles, retry),
			func(m *model) refusal.Word { return m.offer(name, compiles, retry) },
			func() error {
				p.gate.set(func(g *fakeGate) {
					g.onCompile = func(b *bundle.Reader) {
						g.refuse = nil
						if b.Manifest().Version == name && !compiles {
							g.refuse = errBroken
						}
					}
				})
				c := candidate(file)
				c.Retry = retry
				_, err := p.desk.Offer(p.t.Context(), c)
				p.gate.set(func(g *fakeGate) { g.onCompile, g.refuse = nil, nil })
				return err
			},
		}
	case k < 13:
		return step{"confirm", func(m *model) refusal.Word { m.confirm(); return "" }, func() error {
			_, err := p.desk.Confirm(p.t.Context(), "test")
			return err
		}}
	case k < 15:
		return step{"rollback", (*model).rollback, func() error {
			_, err := p.desk.Rollback(p.t.Context(), "test")
			return err
		}}
	case k < 17:
		return step{"start", func(m *model) refusal.Word { m.start(); return "" }, func() error {
			p.restart()
			return p.store.Healthy() // or the store would think of a crash loop
		}}
	}
	return p.chooseRoot(pick())
}

// chooseRoot makes the next root: it raises the minimum, or revokes a bundle.
func (p *player) chooseRoot(name string) step {
	minimum, revoked := p.m.minimum, p.m.revoked
	what := "minimum"
	if p.random.IntN(2) == 0 {
		minimum = max(minimum, p.m.confirmed-p.random.IntN(2))
	} else if d := digestOf(p.t, p.file(name)); !slices.Contains(p.fleet.Root.Revoked, d) {
		revoked = append(slices.Clone(revoked), name)
		what = "revoke " + name
	}
	p.fleet.Rotate(p.t, func(r *trust.Root) {
		r.Minimums = []trust.Minimum{{Product: "gate", Channel: "stable", Epoch: 1, Seq: uint64(minimum)}} //nolint:gosec // not negative
		r.Revoked = nil
		for _, n := range revoked {
			r.Revoked = append(r.Revoked, digestOf(p.t, p.file(n)))
		}
	})
	file := p.fleet.RootFile(len(p.fleet.Roots))
	return step{
		fmt.Sprintf("root %d: minimum %d, %s", p.fleet.Root.Version, minimum, what),
		func(m *model) refusal.Word {
			m.minimum, m.revoked = minimum, revoked
			m.root()
			return ""
		},
		func() error { _, err := p.offer(file); return err },
	}
}

func (p *player) play() {
	s := p.choose()
	p.log = append(p.log, s.name)
	next := p.m.clone()
	want := s.model(&next)
	err := s.device()
	if got, _ := refusal.Of(err); got != want || err != nil && want == "" {
		p.fatalf("word %q (%v), the model says %q", got, err, want)
	}
	p.m = next
	if got := p.device(); got != p.m.String() {
		p.fatalf("device %s\nmodel  %s", got, p.m)
	}
	serves := p.m.active
	if p.m.trial != "" {
		serves = p.m.trial
	}
	if got := p.gate.serves(); serves != "" && got != policyOf(uint64(number(serves))) { //nolint:gosec // small
		p.fatalf("serves %q, the model says %s", got, serves)
	}
	if left := names(p.t, p.path("staging")); len(left) != 0 {
		p.fatalf("staging holds %v", left)
	}
}

func (p *player) fatalf(format string, args ...any) {
	p.t.Helper()
	p.t.Fatalf("after\n  %s\n%s\ndevice %s\nmodel before %s\nalarms %v", strings.Join(p.log, "\n  "), fmt.Sprintf(format, args...), p.device(), p.m, p.desk.Status().Alarms)
}

// Random operations on a device and on a model of the specification: they never disagree.
func TestTheDeviceDoesWhatTheModelDoes(t *testing.T) {
	games := 12
	if os.Getenv("TIDEGATE_GAMES") != "" {
		if _, err := fmt.Sscanf(os.Getenv("TIDEGATE_GAMES"), "%d", &games); err != nil {
			t.Fatal(err)
		}
	}
	for seed := range games {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t)
			p := &player{world: w, random: rand.New(rand.NewPCG(uint64(seed), 1)), files: make(map[string][]byte), names: make(map[trust.Digest]string)} //nolint:gosec // not negative
			p.m.words = make(map[string]refusal.Word)
			for range 40 {
				p.play()
			}
		})
	}
}
