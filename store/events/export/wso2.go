package export

import (
	"archive/zip"
	"bufio"
	"crypto/sha1" //nolint:gosec // UUID version 5 is defined with it (RFC 9562 §5.5)
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"tidegate/store/events/batch"
	"time"
)

// A StreamVersion is the version of WSO2's event streams.
type StreamVersion string

// The stream versions, by the product that reads them.
const (
	Stream300 StreamVersion = "3.0.0" // 2.6
	Stream310 StreamVersion = "3.1.0"
	Stream320 StreamVersion = "3.2.0"
)

// ParseStreamVersion reads a version; the empty text is Stream300.
func ParseStreamVersion(s string) (StreamVersion, error) {
	switch v := StreamVersion(s); v {
	case "":
		return Stream300, nil
	case Stream300, Stream310, Stream320:
		return v, nil
	}
	return "", fmt.Errorf("stream version %q: want 3.0.0, 3.1.0 or 3.2.0", s)
}

// WSO2 writes usage data as the WSO2 API Microgateway spools it: one zip per batch, with
// one entry.
type WSO2 struct {
	Device [16]byte
	Stream StreamVersion
	Host   string // name of this gateway
	Label  string // of the APIs
	// Create makes the file of the given name. An export that is repeated gives the same
	// names, and the receiver refuses a name it has seen.
	Create func(name string) (io.WriteCloser, error)
}

// usageFile is the entry of each zip.
const usageFile = "api-usage-data.dat"

// Export writes the batches with an event at or after since, each of them whole: a part of
// a batch under the batch's name would make the receiver refuse the rest. A batch without
// anything the format has a place for gives no file.
func (x *WSO2) Export(batches Batches, since time.Time) (Tally, error) {
	var tally Tally
	for b, err := range batches {
		if err != nil {
			return tally, fmt.Errorf("read events: %w", err)
		}
		if err := x.file(b, since, &tally); err != nil {
			return tally, fmt.Errorf("batch %d: %w", b.Seq, err)
		}
	}
	return tally, nil
}

func (x *WSO2) file(b *batch.Batch, since time.Time, tally *Tally) error {
	var lines strings.Builder
	var latest time.Time
	index, placed := 0, 0
	for e, err := range b.Events() {
		if err != nil {
			return err
		}
		if line, ok := x.line(&entry{Event: e, batch: &b.Header, index: index}); ok {
			lines.WriteString(line)
			placed++
		}
		if e.Time.After(latest) {
			latest = e.Time
		}
		index++
	}
	if latest.Before(since) {
		tally.Earlier += index
		return nil
	}
	tally.Events += placed
	tally.Refused += index - placed
	if placed == 0 {
		return nil
	}
	f, err := x.Create(x.name(&b.Header))
	if err != nil {
		return err
	}
	if err := writeZip(f, b.Start.Unix, lines.String()); err != nil {
		_ = f.Close() // the error of writing says more
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	tally.Files++
	return nil
}

func writeZip(w io.Writer, at time.Time, content string) error {
	buffered := bufio.NewWriter(w)
	z := zip.NewWriter(buffered)
	f, err := z.CreateHeader(&zip.FileHeader{Name: usageFile, Method: zip.Deflate, Modified: at.UTC()})
	if err != nil {
		return err
	}
	if _, err := io.WriteString(f, content); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

// name is the name of a batch's file.
func (x *WSO2) name(h *batch.Header) string {
	return fmt.Sprintf("%s.%d.%s.zip", usageFile, h.Start.Unix.UnixMilli(), uuid(x.batchID(h)))
}

// usageNamespace is the name space of our version 5 UUIDs.
var usageNamespace = [16]byte{0x74, 0x69, 0x64, 0x65, 0x67, 0x61, 0x54, 0x65, 0xa0, 0x75, 0x73, 0x61, 0x67, 0x65, 0x00, 0x01}

func (x *WSO2) batchID(h *batch.Header) [16]byte {
	name := append(x.Device[:], h.Epoch[:]...)
	return version5(usageNamespace, binary.BigEndian.AppendUint64(name, h.Seq))
}

// version5 is a name-based UUID (RFC 9562 §5.5).
func version5(space [16]byte, name []byte) (u [16]byte) {
	sum := sha1.Sum(append(space[:], name...)) //nolint:gosec // see the import
	copy(u[:], sum[:])
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return u
}

func uuid(u [16]byte) string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// line returns the line of an event, and false when the format has no place for it.
func (x *WSO2) line(e *entry) (string, bool) {
	switch {
	case e.Status == 429 && e.Fault != 0:
		return x.format(e, "throttle", "keyType", x.throttle(e)), true
	case e.Status >= 502 && e.Status <= 504 && e.Fault != 0:
		return x.format(e, "fault", "keyType", x.fault(e)), true
	case e.Fault != 0 || e.Level != batch.LevelNone:
		return "", false
	}
	return x.format(e, "request", "clientType", x.request(e)), true
}

func (x *WSO2) format(e *entry, stream, keyName string, payload []string) string {
	correlation := e.RequestID
	if correlation == [16]byte{} {
		correlation = version5(x.batchID(e.batch), binary.BigEndian.AppendUint64(nil, uint64(e.index)))
	}
	metadata := fmt.Sprintf(`{"%s":%s,"correlationID":"%s"}`, keyName, quoted(known(e.KeyType)), uuid(correlation))
	for i := range payload {
		payload[i] = escape(payload[i])
	}
	return "streamId-KS-org.wso2.apimgt.statistics." + stream + ":" + string(x.Stream) +
		"-ES-timestamp-KS-" + millis(e.Time) +
		"-ES-metadata-KS-" + escape(metadata) +
		"-ES-correlationData-KS-null" +
		"-ES-payLoadData-KS-" + strings.Join(payload, "-OS-") + "\n"
}

func (x *WSO2) request(e *entry) []string {
	own := max(e.Total-e.Backend, 0)
	other := max(own-e.Security-e.Throttling, 0)
	p := []string{
		known(e.ConsumerKey), known(e.ApplicationName), known(e.ApplicationID), known(e.ApplicationOwner),
		known(e.Context), known(e.API), known(e.Version), known(e.Template), known(e.Template), known(e.Method),
		known(e.Publisher), tenant(e.Publisher), known(e.Plan), known(x.Host), user(e.User), tenant(e.User),
		address(e.Client), known(e.UserAgent), millis(e.Time),
		strconv.FormatBool(e.Flags&batch.OverQuota != 0), ms(e.Total), ms(own), ms(e.Backend),
		strconv.FormatBool(e.Flags&batch.ResponseCached != 0), strconv.FormatUint(e.BytesOut, 10), e.Protocol.String(),
		strconv.Itoa(int(e.Status)), known(e.Upstream), ms(e.Security), ms(e.Throttling), "0", "0", ms(e.Backend), ms(other),
		"MICRO", known(x.Label),
	}
	return x.properties(p)
}

func (x *WSO2) throttle(e *entry) []string {
	p := []string{
		user(e.User), tenant(e.User), known(e.API), known(e.Version), known(e.Context), known(e.Publisher), tenant(e.Publisher),
	}
	if x.Stream == Stream320 {
		p = append(p, known(e.Template), known(e.Method))
	}
	p = append(p, known(e.ApplicationID), known(e.ApplicationName), known(e.ApplicationOwner), reason(e.Level), "MICRO",
		millis(e.Time), known(x.Host))
	return x.properties(p)
}

func (x *WSO2) fault(e *entry) []string {
	p := []string{known(e.ConsumerKey), known(e.API), known(e.Version), known(e.Context), known(e.Template)}
	if x.Stream == Stream320 {
		p = append(p, known(e.Template))
	}
	p = append(p, known(e.Method), known(e.Publisher), user(e.User), tenant(e.User), tenant(e.Publisher), known(x.Host),
		known(e.ApplicationID), known(e.ApplicationName))
	if x.Stream == Stream320 {
		p = append(p, known(e.ApplicationOwner))
	}
	p = append(p, e.Protocol.String(), strconv.FormatUint(uint64(e.Fault), 10), faultMessage(e.Status), millis(e.Time))
	return x.properties(p)
}

// properties adds the field that came with 3.1: a JSON object, of which we have nothing.
func (x *WSO2) properties(p []string) []string {
	if x.Stream == Stream300 {
		return p
	}
	return append(p, "{}")
}

func faultMessage(status uint16) string {
	switch status {
	case 502:
		return "Error connecting to the back end"
	case 504:
		return "Connection timed out"
	}
	return "No backend is available"
}

func reason(l batch.Level) string {
	switch l {
	case batch.LevelApplication:
		return "APPLICATION_LIMIT_EXCEEDED"
	case batch.LevelAPI:
		return "API_LIMIT_EXCEEDED"
	case batch.LevelOperation:
		return "RESOURCE_LIMIT_EXCEEDED"
	case batch.LevelCustom:
		return "CUSTOM_POLICY_LIMIT_EXCEED"
	}
	return "SUBSCRIPTION_LIMIT_EXCEEDED"
}

func known(s string) string {
	if s == "" {
		return "__unknown__"
	}
	return s
}

func user(s string) string {
	if s == "" {
		return "anonymous"
	}
	return s
}

// tenant is the domain of a user name, the super tenant when it has none.
func tenant(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 && i < len(s)-1 {
		return s[i+1:]
	}
	return "carbon.super"
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return known("")
	}
	return a.String()
}

func ms(d time.Duration) string { return strconv.FormatInt(max(d, 0).Milliseconds(), 10) }
func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }
func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil { // cannot happen for a string
		return `""`
	}
	return string(b)
}

// escape takes the separators of the format out of a value, and line ends. What looks like a
// part of a separator at either end of a value would make one with its neighbours.
func escape(s string) string {
	if strings.ContainsAny(s, "\r\n") {
		s = strings.NewReplacer("\r", "%0D", "\n", "%0A").Replace(s)
	}
	for _, letters := range []string{"KS", "ES", "OS"} {
		if !strings.Contains(s, letters) {
			continue
		}
		if s == letters {
			return fmt.Sprintf("%%%02X", s[0]) + s[1:]
		}
		s = strings.ReplaceAll(s, "-"+letters+"-", "%2D"+letters+"%2D")
		if rest, ok := strings.CutSuffix(s, "-"+letters); ok {
			s = rest + "%2D" + letters
		}
		if rest, ok := strings.CutPrefix(s, letters+"-"); ok {
			s = letters + "%2D" + rest
		}
	}
	return s
}
