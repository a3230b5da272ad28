package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"tidegate/sync/mqttsync/message"
	"tidegate/sync/mqttsync/ranges"
)

// maxAddress leaves room in an announcement.
const maxAddress = 700

// ServeFrom announces p with the address of the same file on a web server, after the server was
// asked for parts of it as a device will ask. An address that ends in a slash is that of the
// folder, name that of the file.
func (p *Published) ServeFrom(ctx context.Context, c *ranges.Client, address, name string) error {
	if p.Kind != message.BundleObject {
		return errors.New("only bundles are served from an address")
	}
	u, err := ranges.ParseURL(address)
	if err != nil {
		return err
	}
	if u.Path == "" || strings.HasSuffix(u.Path, "/") {
		u = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: path.Join("/", u.Path, filepath.Base(name)), RawQuery: u.RawQuery}
	}
	if len(u.String()) > maxAddress {
		return fmt.Errorf("address of %d bytes, at most %d go into an announcement", len(u.String()), maxAddress)
	}
	size := p.Manifest.Size(int64(len(p.head)))
	file := c.File(u, size)
	same := func(off int64, want []byte) error {
		var got []byte
		err := file.Read(ctx, off, int64(len(want)), func(b []byte) error {
			got = append(got, b...)
			return nil
		})
		if err == nil && !bytes.Equal(got, want) {
			err = errors.New("another file lies there")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", u, err)
		}
		return nil
	}
	if err := same(0, p.head); err != nil {
		return err
	}
	if n := len(p.chunks); n > 0 {
		last, _, err := p.read(uint64(n), p.chunks[n-1].Size, 0) //nolint:gosec // not negative
		if err != nil {
			return err
		}
		if err := same(p.at[n-1], last); err != nil {
			return err
		}
	}
	p.address = u.String()
	return nil
}
