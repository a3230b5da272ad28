package throttle

import (
	"errors"
	"fmt"
	"strings"
	"tidegate/policy"
)

// A Limiter is the plans, block conditions and custom plans of one bundle, compiled. It
// is immutable; an edition owns one.
type Limiter struct {
	subscription, application map[string]*plan
	unauthenticated           *plan // nil: not limited
	custom                    []*custom
	blocks                    blocks
	operations                [][]Operation
	rules                     []*Rule
}

// UnknownPlanError says that a caller's credential names a plan that the bundle does not
// have. The call is refused: a limit that is not known is not "no limit".
type UnknownPlanError struct {
	Level policy.Level
	Name  string
}

// Error names the plan and its level.
func (e *UnknownPlanError) Error() string {
	return fmt.Sprintf("unknown %s plan %q", e.Level, e.Name)
}

// New compiles the plans of a valid set. Time zones of calendar windows are found as
// [time.LoadLocation] finds them. The error names every fault.
func New(set *policy.Set) (*Limiter, error) {
	var c compiler
	l := &Limiter{subscription: map[string]*plan{}, application: map[string]*plan{}}
	resource := map[string]*policy.Plan{}
	for i := range set.Plans {
		p := &set.Plans[i]
		switch p.Kind {
		case policy.ResourcePlan:
			resource[p.Name] = p
		case policy.SubscriptionPlan:
			if p.Name == policy.Unauthenticated {
				l.unauthenticated = c.plan(p, policy.LevelUnauthenticated)
			} else {
				l.subscription[p.Name] = c.plan(p, policy.LevelSubscription)
			}
		case policy.ApplicationPlan:
			l.application[p.Name] = c.plan(p, policy.LevelApplication)
		case policy.CustomPlan:
			l.custom = append(l.custom, c.custom(p))
		default:
			c.fault("plan %q: unknown kind %d", p.Name, p.Kind)
		}
	}
	l.compileOperations(&c, set, resource)
	l.blocks = c.blocks(set.Blocked)
	if n := l.most(); n > MaxClaims {
		c.fault("one call could meet %d limits: a device takes %d at most; use fewer groups or custom plans", n, MaxClaims)
	}
	l.rules = c.rules
	if err := errors.Join(c.faults...); err != nil {
		return nil, err
	}
	return l, nil
}

// Rules returns every rule of the bundle, for a counter to prepare.
func (l *Limiter) Rules() []*Rule { return l.rules }

// Operation returns an operation of the set by its place: Set.APIs[api].Operations[op].
func (l *Limiter) Operation(api, op int) *Operation { return &l.operations[api][op] }

// most returns the largest number of claims one call can make.
func (l *Limiter) most() int {
	subs, apps, ops := l.unauthenticated.most(), 0, 0
	for _, p := range l.subscription {
		subs = max(subs, p.most())
	}
	for _, p := range l.application {
		apps = max(apps, p.most())
	}
	for _, api := range l.operations {
		for i := range api {
			if l := api[i].limit; l != nil {
				ops = max(ops, l.plan.most())
			}
		}
	}
	n := subs + apps + ops
	for _, cu := range l.custom {
		n += cu.plan.most()
	}
	return n
}

func (l *Limiter) compileOperations(c *compiler, set *policy.Set, resource map[string]*policy.Plan) {
	compiled := map[string]*plan{} // by level and name: operations share rules
	find := func(level policy.Level, name, what string) *plan {
		if unlimited(name) {
			return nil
		}
		p := resource[name]
		if p == nil {
			c.fault("%s: unknown plan %q", what, name)
			return nil
		}
		id := level.String() + ":" + name
		if compiled[id] == nil {
			compiled[id] = c.plan(p, level)
		}
		return compiled[id]
	}
	l.operations = make([][]Operation, len(set.APIs))
	for i := range set.APIs {
		api := &set.APIs[i]
		what := fmt.Sprintf("api %q", api.Name)
		in := &area{
			limiter: l, base: api.BasePath, version: api.Version, tenant: tenantOf(api.Owner),
			scope: ":" + api.BasePath + ":" + api.Version, blocked: c.apiBlocked(set.Blocked, api),
		}
		whole := newLimit(find(policy.LevelAPI, api.Plan, what), in.scope[1:])
		l.operations[i] = make([]Operation, len(api.Operations))
		for j := range api.Operations {
			o := &l.operations[i][j]
			*o = Operation{area: in, op: &api.Operations[j], limit: whole}
			if whole == nil { // else one counter for all operations: an operation's own plan is ignored
				plan := find(policy.LevelOperation, o.op.Plan, what+": "+o.op.Method+" "+o.op.Template)
				o.limit = newLimit(plan, string(o.appendResource(nil)))
			}
		}
	}
}

// An area is what the operations of one API have in common.
type area struct {
	limiter               *Limiter
	base, version, tenant string
	scope                 string // ":base:version"
	blocked               bool
}

// A limit is the plan of an API or an operation with its counter.
type limit struct {
	plan    *plan
	subject string
	fixed   []Claim // of plan, when it has no groups
}

// newLimit returns nil when there is no plan.
func newLimit(p *plan, subject string) *limit {
	if p == nil {
		return nil
	}
	return &limit{plan: p, subject: subject, fixed: p.claims(nil, subject)}
}

// An Operation is what is limited at one operation. Its methods are safe for concurrent
// use and allocate nothing, unless dst is too small or a condition looks at the query.
type Operation struct {
	*area
	op    *policy.Operation
	limit *limit // nil: none
}

// appendResource appends the name of the operation: base path, template, method.
func (o *Operation) appendResource(b []byte) []byte {
	b = append(b, o.base...)
	b = append(b, o.op.Template...)
	b = append(b, ':')
	return append(b, o.op.Method...)
}

// Blocked reports whether a block condition refuses the call. It comes before every
// limit; who is nil for an unsecured operation.
func (o *Operation) Blocked(call policy.Call, who *policy.Principal) bool {
	return o.blocked || o.limiter.blocks.match(call.Client(), who)
}

// Claims appends the claims of a call to dst, in the order of the levels. who is nil or
// zero for an unsecured operation. A claim of kind [Bytes] already holds the length of
// the request body where the request states it: charge what is beyond.
//
// The error is an [UnknownPlanError] when the caller's credential names a plan that the
// bundle does not have.
func (o *Operation) Claims(dst []Claim, call policy.Call, who *policy.Principal) ([]Claim, error) {
	first := len(dst)
	var buf [512]byte
	if l := o.limit; l != nil {
		if len(l.plan.groups) == 0 {
			dst = append(dst, l.fixed...)
		} else {
			dst = l.plan.appendClaims(dst, append(buf[:0], l.subject...), call, who)
		}
	}
	dst, err := o.subscription(dst, buf[:0], call, who)
	if err != nil {
		return dst[:first], err
	}
	if who != nil && !unlimited(who.ApplicationPlan) {
		p := o.limiter.application[who.ApplicationPlan]
		if p == nil {
			return dst[:first], &UnknownPlanError{policy.LevelApplication, who.ApplicationPlan}
		}
		b := append(buf[:0], who.ApplicationID...)
		b = append(b, ':')
		dst = p.appendClaims(dst, appendUser(b, who), call, who)
	}
	for _, c := range o.limiter.custom {
		if c.applies(o, call, who) {
			dst = c.plan.appendClaims(dst, c.template.fill(buf[:0], o, call, who), call, who)
		}
	}
	for i := first; i < len(dst); i++ {
		if dst[i].Rule.Kind == Bytes {
			dst[i].N = contentLength(call.Header("Content-Length"))
		}
	}
	return dst, nil
}

// Static reports whether the claims of a caller are the same for each of its calls, so
// that they may be kept beside a verified token: no condition, custom plan, address or
// body length decides them.
func (o *Operation) Static(who *policy.Principal) bool {
	if who == nil || who.Kind == 0 || len(o.limiter.custom) > 0 || o.limit != nil && !o.limit.plan.static() {
		return false
	}
	if who.SubscriptionPlan == policy.Unauthenticated {
		return o.limiter.unauthenticated.static() && (who.ConsumerKey != "" || who.Subject != "")
	}
	return o.limiter.subscription[who.SubscriptionPlan].static() && o.limiter.application[who.ApplicationPlan].static()
}

// subscription appends the claims of level 4, or 4′ without a subscription.
func (o *Operation) subscription(dst []Claim, b []byte, call policy.Call, who *policy.Principal) ([]Claim, error) {
	name := policy.Unauthenticated
	if who != nil && who.Kind != 0 {
		name = who.SubscriptionPlan
	}
	switch {
	case unlimited(name):
		return dst, nil
	case name == policy.Unauthenticated:
		p := o.limiter.unauthenticated
		if p == nil {
			return dst, nil
		}
		switch {
		case who != nil && who.ConsumerKey != "":
			b = append(b, who.ConsumerKey...)
		case who != nil && who.Subject != "":
			b = append(b, who.Subject...)
		default:
			b = appendClient(b, call.Client())
		}
		return p.appendClaims(dst, append(b, o.scope...), call, who), nil
	}
	p := o.limiter.subscription[name]
	switch {
	case p == nil && name == policy.DefaultPlan:
		return dst, nil
	case p == nil:
		return dst, &UnknownPlanError{policy.LevelSubscription, name}
	}
	switch {
	case who.ApplicationID != "":
		b = append(b, who.ApplicationID...)
	case who.ConsumerKey != "":
		b = append(b, who.ConsumerKey...)
	default: // a basic user has no application
		b = appendUser(b, who)
	}
	return p.appendClaims(dst, append(b, o.scope...), call, who), nil
}

// unlimited reports whether a plan's name means that nothing is counted.
func unlimited(name string) bool {
	return name == "" || len(name) == len(policy.Unlimited) && strings.EqualFold(name, policy.Unlimited)
}

// appendUser appends the user with its tenant, as [policy.Principal.UserID].
func appendUser(b []byte, who *policy.Principal) []byte {
	if who == nil || who.Subject == "" {
		return b
	}
	b = append(b, who.Subject...)
	if strings.IndexByte(who.Subject, '@') >= 0 {
		return b
	}
	b = append(b, '@')
	if who.Tenant == "" {
		return append(b, superTenant...)
	}
	return append(b, who.Tenant...)
}

const superTenant = "carbon.super"

// tenantOf returns the tenant in a user's name.
func tenantOf(user string) string {
	if i := strings.LastIndexByte(user, '@'); i >= 0 {
		return user[i+1:]
	}
	return superTenant
}

// contentLength reads a length that the engine has checked; 0 when there is none.
func contentLength(s string) (n int64) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' || n > MaxLimit {
			return 0
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n
}
