package admin

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"tidegate/platform/durable"
	"tidegate/policy/auth"
	"time"

	"golang.org/x/crypto/argon2"
)

// A Level is what somebody may do on the page.
type Level string

// The levels.
const (
	Viewer   Level = "viewer" // look
	Operator Level = "admin"  // look and change
)

// AccountsFile is the name of the file of accounts in the data folder.
const AccountsFile = "admins.json"

// Bounds of accounts.
const (
	MaxAccounts = 32
	MinPassword = 10  // characters
	MaxPassword = 256 // bytes
	maxName     = 32
)

// The cost of a password, RFC 9106: as little memory as a device with 256 MiB can lend,
// and more passes instead.
const (
	passes  = 4
	lanes   = 1
	saltLen = 16
	hashLen = 32
)

// An Account is somebody who may sign in. Its password is kept as an Argon2id hash.
type Account struct {
	Name    string    `json:"name"`
	Level   Level     `json:"role"`
	Changed time.Time `json:"changed"` // by the device's clock

	secret
}

type secret struct {
	Salt   []byte `json:"salt"`
	Hash   []byte `json:"argon2id"`
	Passes uint32 `json:"passes"`
	KiB    uint32 `json:"kib"`
	Lanes  uint8  `json:"lanes"`
}

// Accounts are the local accounts of a device. Methods are safe for concurrent use.
type Accounts struct {
	path   string
	memory auth.Memory

	mu   sync.Mutex
	list []Account // sorted by name; never changed in place
}

// accountsFile is the form on disk.
type accountsFile struct {
	Format   int       `json:"format"`
	Accounts []Account `json:"accounts"`
}

// OpenAccounts reads the accounts kept at path. memory lends what hashing takes. A file
// that cannot be read is an error beside usable Accounts, which are empty: nobody can sign
// in until somebody at the device sets a password.
func OpenAccounts(path string, memory auth.Memory) (*Accounts, error) {
	a := &Accounts{path: path, memory: memory}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	var f accountsFile
	if err := json.Unmarshal(b, &f); err != nil {
		return a, fmt.Errorf("%s: %w", path, err)
	}
	if f.Format != 1 || len(f.Accounts) > MaxAccounts {
		return a, fmt.Errorf("%s: format %d with %d accounts", path, f.Format, len(f.Accounts))
	}
	for _, x := range f.Accounts {
		if err := x.check(); err != nil {
			return a, fmt.Errorf("%s: %w", path, err)
		}
	}
	a.list = f.Accounts
	return a, nil
}

func (x *Account) check() error {
	switch {
	case !validName(x.Name):
		return fmt.Errorf("account %q: not a name", x.Name)
	case x.Level != Viewer && x.Level != Operator:
		return fmt.Errorf("account %s: unknown role %q", x.Name, x.Level)
	case len(x.Salt) < 8 || len(x.Hash) != hashLen || x.Passes < 1 || x.Passes > 64 || x.Lanes < 1 || x.Lanes > 4 ||
		x.KiB < 8*uint32(x.Lanes) || int64(x.KiB)<<10 > auth.MaxLogin:
		return fmt.Errorf("account %s: hash out of bounds", x.Name)
	}
	return nil
}

// validName reports whether s is 1 to 32 of a-z 0-9 . _ -, beginning with a letter.
func validName(s string) bool {
	if s == "" || len(s) > maxName || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// Any reports whether there is an account at all.
func (a *Accounts) Any() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.list) > 0
}

// Names returns the accounts without their secrets.
func (a *Accounts) Names() []Account {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := slices.Clone(a.list)
	for i := range out {
		out[i].secret = secret{}
	}
	return out
}

// Set makes an account or replaces its password and level. It returns when the change is on disk.
func (a *Accounts) Set(ctx context.Context, name string, level Level, password string, now time.Time) error {
	switch {
	case !validName(name):
		return fmt.Errorf("name %q: want 1 to %d of a-z 0-9 . _ -, beginning with a letter", name, maxName)
	case level != Viewer && level != Operator:
		return fmt.Errorf("role %q is not one of admin, viewer", level)
	case len([]rune(password)) < MinPassword:
		return fmt.Errorf("the password has fewer than %d characters", MinPassword)
	case len(password) > MaxPassword:
		return fmt.Errorf("the password has more than %d bytes", MaxPassword)
	}
	x := Account{Name: name, Level: level, Changed: now.UTC().Truncate(time.Second)}
	x.Salt, x.Passes, x.KiB, x.Lanes = make([]byte, saltLen), passes, auth.LoginMemory>>10, lanes
	if _, err := rand.Read(x.Salt); err != nil {
		return err
	}
	h, err := a.hash(ctx, &x.secret, password)
	if err != nil {
		return err
	}
	x.Hash = h
	a.mu.Lock()
	defer a.mu.Unlock()
	i, found := a.at(name)
	next := slices.Clone(a.list)
	switch {
	case found:
		next[i] = x
	case len(next) >= MaxAccounts:
		return fmt.Errorf("there are %d accounts already; remove one first", MaxAccounts)
	default:
		next = slices.Insert(next, i, x)
	}
	return a.put(next)
}

// Remove deletes an account, on disk when it returns.
func (a *Accounts) Remove(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, found := a.at(name)
	if !found {
		return fmt.Errorf("no account %q", name)
	}
	return a.put(slices.Delete(slices.Clone(a.list), i, i+1))
}

func (a *Accounts) at(name string) (int, bool) {
	return slices.BinarySearchFunc(a.list, name, func(x Account, n string) int { return strings.Compare(x.Name, n) })
}

func (a *Accounts) put(list []Account) error {
	b, err := json.MarshalIndent(accountsFile{Format: 1, Accounts: list}, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(a.path, append(b, '\n'), 0o600); err != nil {
		return err
	}
	a.list = list
	return nil
}

// errBusy says that there is no memory for a login just now.
var errBusy = errors.New("too many sign-ins at a time; try again in a moment")

// loginWait is how long a login waits for memory.
const loginWait = 2 * time.Second

// Login returns the account if the password is right. A name that does not exist takes as
// long as one that does.
func (a *Accounts) Login(ctx context.Context, name, password string) (Account, bool, error) {
	a.mu.Lock()
	x := Account{secret: secret{Salt: make([]byte, saltLen), Hash: make([]byte, hashLen), Passes: passes, KiB: auth.LoginMemory >> 10, Lanes: lanes}}
	i, found := a.at(name)
	if found {
		x = a.list[i]
	}
	a.mu.Unlock()
	if len(password) > MaxPassword {
		found, password = false, ""
	}
	h, err := a.hash(ctx, &x.secret, password)
	if err != nil {
		return Account{}, false, err
	}
	right := subtle.ConstantTimeCompare(h, x.Hash) == 1 && found
	x.secret = secret{}
	return x, right, nil
}

// still reports whether an account has not changed since a session began.
func (a *Accounts) still(x *Account) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, found := a.at(x.Name)
	return found && a.list[i].Level == x.Level && a.list[i].Changed.Equal(x.Changed)
}

func (a *Accounts) hash(ctx context.Context, s *secret, password string) ([]byte, error) {
	n := int64(s.KiB) << 10
	ctx, cancel := context.WithTimeout(ctx, loginWait)
	defer cancel()
	if err := a.memory.Acquire(ctx, n); err != nil {
		return nil, errBusy
	}
	defer a.memory.Release(n)
	return argon2.IDKey([]byte(password), s.Salt, s.Passes, s.KiB, s.Lanes, hashLen), nil
}
