package throttle

import (
	"net/netip"
	"strings"
	"tidegate/policy"
)

// blocks are the block conditions that depend on the caller.
type blocks struct {
	users, applications map[string]struct{}
	addresses           policy.Networks
	outside             []policy.Networks // inverted: whoever is not inside is blocked
}

func (c *compiler) blocks(list []policy.Block) blocks {
	b := blocks{users: map[string]struct{}{}, applications: map[string]struct{}{}}
	var addresses []policy.Range
	for i := range list {
		switch k := &list[i]; k.Kind {
		case policy.BlockAPI: // compiled into the operations
		case policy.BlockApplication:
			b.applications[k.Value] = struct{}{}
		case policy.BlockUser:
			b.users[string(appendUser(nil, &policy.Principal{Subject: k.Value}))] = struct{}{}
		case policy.BlockIP:
			switch {
			case len(k.Ranges) == 0:
				c.fault("block condition %d: no addresses", i+1)
			case k.Invert:
				b.outside = append(b.outside, policy.NewNetworks(k.Ranges))
			default:
				addresses = append(addresses, k.Ranges...)
			}
		default:
			c.fault("block condition %d: unknown kind %d", i+1, k.Kind)
		}
	}
	b.addresses = policy.NewNetworks(addresses)
	return b
}

// apiBlocked reports whether an API as a whole is blocked, by its base path.
func (c *compiler) apiBlocked(list []policy.Block, api *policy.API) bool {
	for i := range list {
		if list[i].Kind == policy.BlockAPI && strings.TrimSuffix(list[i].Value, "/") == api.BasePath {
			return true
		}
	}
	return false
}

func (b *blocks) match(client netip.Addr, who *policy.Principal) bool {
	if b.addresses.Contain(client) {
		return true
	}
	for _, r := range b.outside {
		if !r.Contain(client) {
			return true
		}
	}
	if who == nil {
		return false
	}
	var buf [256]byte
	if len(b.users) > 0 {
		if _, ok := b.users[string(appendUser(buf[:0], who))]; ok {
			return true
		}
	}
	if len(b.applications) > 0 && who.ApplicationName != "" {
		id := append(append(append(buf[:0], who.ApplicationOwner...), ':'), who.ApplicationName...)
		if _, ok := b.applications[string(id)]; ok {
			return true
		}
	}
	return false
}
