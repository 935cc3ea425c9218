package ship

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-edge/sluice/crypto/signed"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
)

// Store is where archives come from and receipts go.
type Store interface {
	// Unshipped returns the oldest archive without a receipt; ok is false when there is none.
	Unshipped() (a gateway.Archive, ok bool)
	// Shipment says what is in its file, after reading it through, and opens it.
	Shipment(a gateway.Archive) (gateway.Shipment, io.ReadCloser, error)
	// Shipped keeps a receipt for it, durably, after checking it against file and tree.
	Shipped(a gateway.Archive, receipt []byte) error
}

// Bounds of the pause after a failure.
const (
	pauseFirst = time.Second
	pauseLast  = 10 * time.Minute
)

// Fields of the header of a request. Package doc, "Protocol".
const (
	HeaderRecords = "Sluice-Records"
	HeaderOf      = "Sluice-Records-Of"
)

// awaitContinue is for how long a collector may say nothing before the file is sent all the same.
const awaitContinue = 2 * time.Second

// ErrRefused reports an answer that is no receipt for the file that was sent.
var ErrRefused = errors.New("collector gave no receipt")

// Name returns the name of an archive at a collector.
func Name(gatewayName string, a gateway.Archive) string {
	return fmt.Sprintf("%s/%020d-%020d", gatewayName, a.First, a.Next)
}

// Check returns what reads a receipt that was signed for the gateway.
func Check(gatewayName string, key *signed.Verifier) func(text []byte) (gateway.Receipt, error) {
	return func(text []byte) (out gateway.Receipt, err error) {
		r, err := key.ParseVerifyReceipt(text)
		if err != nil {
			return out, err
		}
		if r.Gateway != gatewayName {
			return out, fmt.Errorf("%w: of another gateway", signed.ErrReceipt)
		}
		return gateway.Receipt{Archive: gateway.Archive{First: r.First, Next: r.Next, Bytes: int64(r.Bytes)}, SHA256: r.SHA256, Root: r.Root, By: key.Name()}, nil
	}
}

// answers reports whether a receipt answers a shipment: it is for its file or, unless the collector says that the file is
// fresh, for another one of its records or of a larger range that they were in.
func answers(r *gateway.Receipt, s *gateway.Shipment, fresh bool) bool {
	if r.First == s.First && r.Next == s.Next {
		same := r.Bytes == s.Bytes && r.SHA256 == s.SHA256
		if fresh && !same {
			return false
		}
		return r.Root == s.Root && (same || r.Root != [32]byte{}) || r.Root == [32]byte{} && same
	}
	return !fresh && slices.Contains(s.Was, gateway.RootedRange{First: r.First, Next: r.Next, Root: r.Root})
}

// Shipper sends the archives of one gateway to one collector. It is safe for concurrent use.
type Shipper struct {
	gateway string
	config  Config
	store   Store
	check   func(text []byte) (gateway.Receipt, error)
	client  *http.Client
	log     *slog.Logger
	pause   func(ctx context.Context, d time.Duration) // waits

	mu     sync.Mutex // guards status
	status Status
}

// Status is how shipping goes.
type Status struct {
	Answering bool      `json:"answering"` // the last archive was answered with a receipt, or there was nothing to send
	Last      time.Time `json:"last,omitzero"`
	Sent      uint64    `json:"sent"`   // archives since the start
	Bytes     uint64    `json:"bytes"`  // of these
	Failed    uint64    `json:"failed"` // attempts since the start
	Err       string    `json:"err,omitempty"`
}

// New prepares a shipper; it does not connect. Zero fields of c take their documented defaults, and c is expected to
// have passed Check of Config.
func New(gatewayName string, c Config, key *signed.Verifier, store Store, log *slog.Logger) (*Shipper, error) {
	config.Defaults(&c)
	t, err := clientTLS(&c.TLS)
	if err != nil {
		return nil, fmt.Errorf("open collector: %w", err)
	}
	return &Shipper{gateway: gatewayName, config: c, store: store, check: Check(gatewayName, key), log: log, pause: wait,
		client: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DialContext: (&net.Dialer{Timeout: 30 * time.Second}).DialContext, TLSClientConfig: t, TLSHandshakeTimeout: 30 * time.Second,
				MaxResponseHeaderBytes: 16 << 10, MaxIdleConns: 1, MaxConnsPerHost: 1, IdleConnTimeout: 90 * time.Second, DisableCompression: true, ExpectContinueTimeout: awaitContinue,
			},
		}}, nil
}

// Status returns how shipping goes.
func (s *Shipper) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Run ships every archive that there is, and those to come, until ctx ends.
func (s *Shipper) Run(ctx context.Context) {
	defer s.client.CloseIdleConnections()
	pause := pauseFirst
	for ctx.Err() == nil {
		a, ok := s.store.Unshipped()
		if !ok {
			s.note(nil, false)
			s.pause(ctx, jitter(s.config.Every))
			continue
		}
		err := s.ship(ctx, a)
		if ctx.Err() != nil {
			return
		}
		s.note(err, true)
		if err == nil {
			pause = pauseFirst
			continue
		}
		s.pause(ctx, jitter(pause))
		pause = min(2*pause, pauseLast)
	}
}

// note keeps the status and logs when it changes.
func (s *Shipper) note(err error, sent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.status
	switch {
	case err != nil:
		s.status.Answering, s.status.Err = false, err.Error()
		s.status.Failed++
		if was.Answering || was.Err != s.status.Err && was.Failed == 0 {
			s.log.Error("archive is not shipped", slog.Any("err", err))
		}
	case sent:
		s.status.Answering, s.status.Err, s.status.Last = true, "", time.Now().UTC()
		s.status.Sent++
		if !was.Answering {
			s.log.Info("collector takes archives")
		}
	default:
		s.status.Answering = was.Err == ""
	}
}

// ship sends one archive and hands its receipt in.
func (s *Shipper) ship(ctx context.Context, a gateway.Archive) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	out, f, err := s.store.Shipment(a)
	if err != nil {
		return fmt.Errorf("ship archive: %w", err)
	}
	defer f.Close()
	receipt, fresh, err := s.put(ctx, &out, f)
	if err != nil {
		return fmt.Errorf("ship archive: %w", err)
	}
	r, err := s.check(receipt)
	if err == nil && !answers(&r, &out, fresh) {
		err = fmt.Errorf("%w: of another file", signed.ErrReceipt)
	}
	if err != nil {
		return fmt.Errorf("ship archive: %w", err)
	}
	if err := s.store.Shipped(a, receipt); err != nil {
		return err
	}
	s.mu.Lock()
	s.status.Bytes += uint64(out.Bytes)
	s.mu.Unlock()
	return nil
}

// put sends the file of an archive and returns the answer, which may be anything of up to signed.MaxReceipt bytes, and
// whether the file is kept since now.
func (s *Shipper) put(ctx context.Context, a *gateway.Shipment, file io.Reader) (answer []byte, fresh bool, err error) {
	url := strings.TrimSuffix(s.config.URL, "/") + "/" + Name(s.gateway, a.Archive)
	body := io.NopCloser(io.LimitReader(file, a.Bytes)) // the file is closed by its owner
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, body)
	if err != nil {
		return nil, false, err
	}
	req.ContentLength = a.Bytes
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Expect", "100-continue") // a collector that has the records answers before they are sent
	req.Header.Set("Content-Digest", digestField(a.SHA256))
	if a.Root != ([32]byte{}) {
		req.Header.Set(HeaderRecords, digestField(a.Root))
	}
	for _, r := range a.Was {
		req.Header.Add(HeaderOf, fmt.Sprintf("%020d-%020d %s", r.First, r.Next, digestField(r.Root)))
	}
	if s.config.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.config.Token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, false, fmt.Errorf("reach collector: %w", errors.Unwrap(err)) // without the address, which may be a secret of its operator
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return nil, false, fmt.Errorf("%w: status %d", ErrRefused, resp.StatusCode)
	}
	answer, err = io.ReadAll(io.LimitReader(resp.Body, signed.MaxReceipt+1))
	if err != nil {
		return nil, false, fmt.Errorf("read receipt: %w", err)
	}
	if len(answer) > signed.MaxReceipt {
		return nil, false, fmt.Errorf("%w: the answer is too long", ErrRefused)
	}
	return answer, resp.StatusCode == http.StatusCreated, nil
}

// digestField is a SHA-256 as a field of the header. [RFC 9530 §2]
func digestField(sum [32]byte) string {
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

// jitter returns a time between half of d and d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// wait waits for d or the end of ctx.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
