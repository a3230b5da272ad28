package mqttsync

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"tidegate/policy/refusal"
	"tidegate/sync/mqttsync/ranges"
)

// A bundle is announced over the broker and its signed head comes that way. Where the
// announcement also names an address, the content is fetched from there by range requests, and
// over the broker what the server there does not give. The address is a hint like all of an
// announcement: only hosts of the device's own configuration are asked, and every chunk is
// judged by its signed digest.

// directTries is how often a server may fail without giving a byte.
const directTries = 3

// source returns where the content of a bundle may be fetched directly, nil if nowhere.
func (s *session) source(f *fetch) *url.URL {
	if f.address == "" || f.overBroker {
		return nil
	}
	u, err := ranges.ParseURL(f.address)
	if err == nil {
		if slices.Contains(s.c.o.Hosts, ranges.HostOf(u)) {
			return u
		}
		err = errors.New("its host is not in mqtt.https_hosts")
	}
	f.overBroker = true
	s.c.drop("https-host")
	s.c.log.Info("address of a bundle not asked", "address", cut(f.address, 200), "err", err)
	return nil
}

// fetchDirect fetches what is missing from the address of the bundle. It returns nil when
// nothing is missing any more, and when the rest is to come over the broker.
func (s *session) fetchDirect(ctx context.Context, f *fetch) error {
	u := s.source(f)
	if u == nil {
		return nil
	}
	if s.web == nil {
		s.web = ranges.NewClient(ranges.Options{TLS: s.c.o.HostTLS, Dial: s.pipe.DialBeside, Rate: s.c.o.Down})
	}
	s.c.set(func(l *Link) {
		if l.Fetching != nil {
			l.Fetching.From = u.Hostname()
		}
	})
	s.c.log.Info("bundle fetched directly", "digest", f.offer.Digest.String(), "host", u.Host)
	_, size := f.transfer.Offsets()
	file := s.web.File(u, size)
	tries := 0
	for {
		missing, err := f.transfer.Missing()
		if err != nil || len(missing) == 0 {
			return err
		}
		before := f.have
		err = s.fetchRun(ctx, f, file, missing)
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil || s.pipe.Err() != nil:
			return err // it goes on with the next connection
		}
		var e *ranges.Error
		isServer := errors.As(err, &e)
		switch {
		case refusal.Is(err, refusal.Digest):
			s.c.drop("https-content")
		case !isServer:
			return err // the desk will have no more of it
		default:
			s.c.drop("https-" + string(e.Reason))
		}
		if tries++; f.have > before {
			tries = 0
		}
		if isServer && (e.Reason == ranges.Broken && tries < directTries) && sleep(ctx, retryFirst) {
			continue
		}
		f.overBroker = true
		s.c.log.Warn("bundle not fetched directly; the rest comes over the broker", "host", u.Host, "err", err)
		return ctx.Err()
	}
}

// fetchRun fetches the first run of missing chunks, which lie side by side in the file.
func (s *session) fetchRun(ctx context.Context, f *fetch, file *ranges.File, missing []int) error {
	at, _ := f.transfer.Offsets()
	chunks := f.transfer.Chunks()
	first := missing[0]
	last := first
	for _, i := range missing[1:] {
		if i != last+1 {
			break
		}
		last = i
	}
	end := func(i int) int64 { return at[i] + int64(chunks[i].Size) } //nolint:gosec // at most 1 MiB
	from := at[first] + int64(f.direct[first])
	pos, i := from, first
	return file.Read(ctx, from, end(last)-from, func(b []byte) error {
		for len(b) > 0 {
			switch {
			case pos < at[i]: // the head of the chunk
				n := min(at[i]-pos, int64(len(b)))
				pos, b = pos+n, b[n:]
				continue
			case pos == end(i):
				i++
				continue
			}
			n := min(end(i)-pos, int64(len(b)))
			if _, err := f.transfer.PutPiece(i, int(pos-at[i]), b[:n]); err != nil {
				if refusal.Is(err, refusal.Digest) {
					f.have -= int64(f.direct[i])
					delete(f.direct, i)
				}
				return err
			}
			f.direct[i] += int(n)
			f.have += n
			pos, b = pos+n, b[n:]
			s.c.progress(f.have)
		}
		return nil
	})
}

// count says how much of the bundle is here, and returns which chunks are not.
func (f *fetch) count() (missing []int, err error) {
	if missing, err = f.transfer.Missing(); err != nil {
		return nil, err
	}
	chunks := f.transfer.Chunks()
	f.have = int64(len(f.head))
	for _, c := range chunks {
		f.have += int64(c.Size) //nolint:gosec // at most 1 MiB
	}
	for _, i := range missing {
		f.have -= int64(chunks[i].Size) //nolint:gosec // at most 1 MiB
	}
	return missing, nil
}

// wantRest tells the getter what is missing. Of a chunk that is not complete it asks for all.
func (f *fetch) wantRest() error {
	missing, err := f.count()
	if err != nil {
		return err
	}
	for _, i := range missing {
		f.getter.want(i+1, int(f.transfer.Chunks()[i].Size)) //nolint:gosec // at most 1 MiB
	}
	f.wanted = true
	return nil
}
