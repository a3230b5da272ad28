package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"tidegate/platform/host"
	"time"
)

type peerKey struct{}

// ConnContext notes who opened a connection of the unix socket (http.Server.ConnContext).
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if p, ok := host.Peer(c); ok {
		ctx = context.WithValue(ctx, peerKey{}, p)
		ctx = WithSource(ctx, fmt.Sprintf("socket uid %d pid %d", p.UID, p.PID))
	}
	return ctx
}

// atTheDevice refuses who is not root or the device's own user: setting a password is the
// way back in for who has lost it, and asks for presence at the device.
func atTheDevice(r *http.Request) error {
	p, ok := r.Context().Value(peerKey{}).(host.Credentials)
	if !ok {
		return forbidden("only over the unix socket", "at the device: tidegate admin passwd")
	}
	if p.UID != 0 && p.UID != os.Geteuid() {
		return forbidden(fmt.Sprintf("user %d may not change accounts", p.UID), "as root: tidegate admin passwd")
	}
	return nil
}

// AccountView is one account without its secret.
type AccountView struct {
	Name    string    `json:"name"`
	Role    Level     `json:"role"`
	Changed time.Time `json:"changed"`
}

func (a *API) admins(w http.ResponseWriter, _ *http.Request) error {
	out := []AccountView{}
	for _, x := range a.d.Accounts.Names() {
		out = append(out, AccountView{x.Name, x.Level, x.Changed})
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// AccountChange is the body that makes an account or replaces its password.
type AccountChange struct {
	Name     string `json:"name"`
	Role     Level  `json:"role"`
	Password string `json:"password"`
}

func (a *API) setAdmin(w http.ResponseWriter, r *http.Request) error {
	if err := atTheDevice(r); err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, 4<<10))
	if err != nil {
		return err
	}
	var in AccountChange
	if json.Unmarshal(b, &in) != nil {
		return &badRequestError{errors.New("the body is not name, role and password")}
	}
	now := a.d.Status().Clock.Estimate
	if err := a.d.Accounts.Set(r.Context(), in.Name, in.Role, in.Password, now); err != nil {
		if errors.Is(err, errBusy) {
			return &statusError{status: http.StatusServiceUnavailable, after: time.Second, text: err.Error()}
		}
		return &badRequestError{err}
	}
	a.note(source(r), fmt.Sprintf("password of %s (%s) set", in.Name, in.Role))
	writeJSON(w, http.StatusOK, AccountView{in.Name, in.Role, now.UTC().Truncate(time.Second)})
	return nil
}

func (a *API) removeAdmin(w http.ResponseWriter, r *http.Request) error {
	if err := atTheDevice(r); err != nil {
		return err
	}
	name := r.PathValue("name")
	if err := a.d.Accounts.Remove(name); err != nil {
		return &statusError{status: http.StatusNotFound, text: err.Error(), hint: "tidegate admin list shows the accounts"}
	}
	a.note(source(r), "account "+clip(name)+" removed")
	writeJSON(w, http.StatusOK, AccountView{Name: name})
	return nil
}
