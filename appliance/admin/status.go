package admin

import (
	"slices"
	"strings"
	"tidegate/platform/buildinfo"
	"tidegate/policy/changes"
	"tidegate/sync/bundle"
	"tidegate/sync/intake"
	"tidegate/sync/trust"
	"time"
)

// Status is what a device says of itself. Its JSON form is interface: fields are added,
// never renamed or removed.
type Status struct {
	Device  string         `json:"device"` // id, "" while the device has no keys
	Build   buildinfo.Info `json:"build"`
	Ready   bool           `json:"ready"`
	Since   time.Time      `json:"since"` // of the process, by the system clock
	Uptime  float64        `json:"uptime_seconds"`
	Mode    string         `json:"mode"` // normal, or why nothing is written
	Listen  Listen         `json:"listen"`
	Bundle  Bundles        `json:"bundle"`
	Trust   Trust          `json:"trust"`
	Clock   Clock          `json:"clock"`
	Events  Events         `json:"events"`
	Link    *Link          `json:"link,omitempty"` // nil: no broker is configured
	Limits  Counters       `json:"counters"`
	Calls   Calls          `json:"calls"`
	Alarms  []Alarm        `json:"alarms,omitempty"`
	Finds   []string       `json:"findings,omitempty"` // what went wrong at start
	Words   []string       `json:"warnings,omitempty"`
	Last    *Outcome       `json:"last,omitempty"` // newest outcome of a candidate or a trial
	Data    string         `json:"data"`
	Process Process        `json:"process"`
	Machine Machine        `json:"machine"`
}

// Listen are the bound addresses; "" for none.
type Listen struct {
	HTTP  string `json:"http"`
	HTTPS string `json:"https"`
	Admin string `json:"admin"`
}

// Bundles are the stored bundles by their place.
type Bundles struct {
	State    string  `json:"state"` // none, trial, confirmed, safe-mode
	Serving  *Bundle `json:"serving,omitempty"`
	Good     *Bundle `json:"last_known_good,omitempty"`
	Older    *Bundle `json:"older,omitempty"`
	Trial    *Bundle `json:"trial,omitempty"`
	ByHand   bool    `json:"waits_for_confirmation,omitempty"`
	Deadline float64 `json:"trial_seconds_left,omitempty"`
	Attempts int     `json:"trial_starts_left,omitempty"`
}

// Bundle names one bundle.
type Bundle struct {
	Digest  string     `json:"digest"`
	Product string     `json:"product,omitempty"`
	Channel string     `json:"channel,omitempty"`
	Name    string     `json:"name,omitempty"`
	Version string     `json:"version,omitempty"`
	Epoch   uint64     `json:"epoch,omitempty"`
	Seq     uint64     `json:"seq,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	Damaged bool       `json:"damaged,omitempty"`
}

// Trust is the root that the device believes.
type Trust struct {
	Root    uint64   `json:"root_version"` // 0: none installed
	Domain  string   `json:"trust_domain,omitempty"`
	Product string   `json:"product,omitempty"`
	Channel string   `json:"channel,omitempty"`
	Labels  []string `json:"labels,omitempty"`
	Locked  string   `json:"locked,omitempty"` // why updates are refused as a whole
	Roles   []Role   `json:"roles,omitempty"`
}

// Role is one role of the root.
type Role struct {
	Name      string   `json:"name"`
	Epoch     uint64   `json:"epoch"`
	Threshold int      `json:"threshold"`
	Keys      []string `json:"keys"` // names and ids
}

// Clock is what the device knows of the time.
type Clock struct {
	State    string    `json:"state"` // SYNCED, HOLDOVER, UNSYNCED
	Floor    time.Time `json:"floor"`
	Source   string    `json:"source"`
	Estimate time.Time `json:"estimate"`
	Wall     time.Time `json:"system"`
	Doubt    string    `json:"doubt,omitempty"`
}

// Events is the queue of recorded calls.
type Events struct {
	Waiting int               `json:"in_memory"`
	Batches int               `json:"batches"`
	Calls   uint64            `json:"calls"`
	Bytes   int64             `json:"bytes"`
	Cap     int64             `json:"cap_bytes"`
	Oldest  *time.Time        `json:"oldest,omitempty"`
	Lost    map[string]uint64 `json:"lost"`
	Error   string            `json:"error,omitempty"`
}

// Counters is the ledger of limits.
type Counters struct {
	Keys     int     `json:"keys"`
	Capacity int     `json:"capacity"`
	Shared   int64   `json:"calls_on_shared_counters"`
	Stalls   int64   `json:"stalls"`
	Written  int64   `json:"written_bytes"`
	Period   float64 `json:"flush_seconds"`
	Error    string  `json:"error,omitempty"`
}

// Calls are the answers since the start.
type Calls struct {
	Answered uint64 `json:"answered"`
	Failed   uint64 `json:"failed"` // 5xx
	InFlight int64  `json:"in_flight"`
	Refused  int64  `json:"refused_by_engine"`
	Open     int64  `json:"connections"`
}

// Alarm is a red lamp.
type Alarm struct {
	Word   string `json:"code"`
	Detail string `json:"detail"`
}

// Process is what the machine gives us.
type Process struct {
	PID        int   `json:"pid"`
	Goroutines int   `json:"goroutines"`
	Heap       int64 `json:"heap_bytes"`
	Limit      int64 `json:"memory_limit_bytes,omitempty"`
}

// Machine is what the device runs on.
type Machine struct {
	Kernel        string `json:"kernel,omitempty"`
	FileSystem    string `json:"file_system,omitempty"` // of the data folder
	DiskTotal     int64  `json:"disk_bytes"`
	DiskFree      int64  `json:"disk_free_bytes"`
	Written       int64  `json:"written_bytes"` // to block devices, by this process since its start
	WrittenPerDay int64  `json:"written_bytes_per_day"`
	WornPercent   int    `json:"worn_percent"` // of the flash's life; -1: it does not say
	Resident      int64  `json:"resident_bytes"`
	AccessLost    uint64 `json:"access_log_lost,omitempty"`
}

// Outcome is a report of the intake desk.
type Outcome struct {
	Kind     string   `json:"kind,omitempty"`
	Source   string   `json:"source,omitempty"`
	Object   string   `json:"object,omitempty"`
	Phase    string   `json:"phase"`
	Already  bool     `json:"already,omitempty"`
	Digest   string   `json:"digest,omitempty"`
	Product  string   `json:"product,omitempty"`
	Channel  string   `json:"channel,omitempty"`
	Name     string   `json:"name,omitempty"`
	Version  string   `json:"version,omitempty"`
	Epoch    uint64   `json:"epoch,omitempty"`
	Seq      uint64   `json:"seq,omitempty"`
	ByHand   bool     `json:"waits_for_confirmation,omitempty"`
	Deadline float64  `json:"trial_seconds_left,omitempty"`
	Roots    int      `json:"roots_accepted,omitempty"`
	Code     string   `json:"code,omitempty"` // of a refusal
	Detail   string   `json:"detail,omitempty"`
	Hint     string   `json:"hint,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Changes  *Changes `json:"changes,omitempty"`
	Exit     int      `json:"exit"`
	Final    bool     `json:"final"` // false: more will follow
}

// Changes is what a bundle changes against the one that serves.
type Changes struct {
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
	Changed []string `json:"changed,omitempty"`
	Fields  []string `json:"fields,omitempty"`
	Bytes   uint64   `json:"new_bytes"`

	Rules []changes.Change `json:"rules,omitempty"`      // of a plan: APIs, operations, limits, callers
	More  int              `json:"rules_more,omitempty"` // changes that are not in Rules
}

// maxRules bounds the changes that an answer lists; tidectl bundle diff lists all.
const maxRules = 2000

// OutcomeOf describes a report.
func OutcomeOf(r intake.Report) Outcome {
	o := Outcome{
		Kind: string(r.Kind), Source: r.Source, Object: r.Object, Phase: r.Phase.String(), Already: r.Already,
		Product: r.Product, Channel: r.Channel, Name: r.Name, Version: r.Label, Epoch: r.Epoch, Seq: r.Seq,
		ByHand: r.ByHand, Deadline: r.Deadline.Seconds(), Roots: r.Roots,
		Code: string(r.Word), Detail: r.Detail, Hint: r.Hint, Exit: r.ExitCode(), Final: true,
	}
	if r.Digest != (bundle.Digest{}) {
		o.Digest = r.Digest.String()
	}
	for _, w := range r.Warnings {
		o.Warnings = append(o.Warnings, string(w.Word)+": "+w.Error())
	}
	if r.Changes != nil {
		c := r.Changes
		listed := min(len(r.Rules), maxRules)
		o.Changes = &Changes{Added: c.Added, Removed: c.Removed, Changed: c.Changed, Fields: c.Fields, Bytes: c.StoredBytes, Rules: r.Rules[:listed], More: len(r.Rules) - listed}
	}
	return o
}

// Roles describes the roles of a root, by name.
func Roles(r *trust.Root) []Role {
	if r == nil {
		return nil
	}
	var out []Role
	for n, role := range r.Roles {
		v := Role{Name: n.String(), Epoch: role.Epoch, Threshold: role.Threshold}
		for _, k := range role.Keys {
			v.Keys = append(v.Keys, k.Name+" "+k.Public.ID().String()[:16])
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(x, y Role) int { return strings.Compare(x.Name, y.Name) })
	return out
}
