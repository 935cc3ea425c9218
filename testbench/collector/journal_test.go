package collector_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/crypto/signed"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/audit"
	"github.com/sluice-edge/sluice/gateway/journal"
	"github.com/sluice-edge/sluice/gateway/ship"
	"github.com/sluice-edge/sluice/testbench/collector"
)

const gatewayName = "vgw-0001"

// box is a journal whose archives go to a collector on loopback.
type box struct {
	o    journal.Options
	url  string
	kept string // the collector's folder for this gateway
	key  *signed.Verifier
	own  *signed.Verifier
	j    *journal.Journal
}

func newBox(t *testing.T) *box {
	t.Helper()
	signer := signerOf(t, "collector-1", 3)
	own := signerOf(t, gatewayName, 1)
	dir := t.TempDir()
	c, err := collector.New(collector.Options{Dir: dir, Signer: signer})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	b := &box{url: server.URL, kept: filepath.Join(dir, gatewayName), key: verifierOf(t, signer), own: verifierOf(t, own)}
	b.o = journal.Options{
		Dir: t.TempDir(), Keys: []journal.Key{{ID: 1, Secret: [32]byte{2}}}, MaxSize: 64 << 20, SegmentSize: 1 << 20, AuditMaxSize: 64 << 20,
		Sign: func(size uint64, root [32]byte, at time.Time) ([]byte, error) {
			return own.SignCheckpoint(signed.Checkpoint{Size: size, Root: root, At: at})
		},
		CheckpointCount: 100,
		Clock:           func() (time.Time, bool) { return time.UnixMilli(1_790_000_000_000), true },
		Receipt:         ship.Check(gatewayName, b.key),
	}
	return b
}

func signerOf(t *testing.T, name string, seed byte) *signed.Signer {
	t.Helper()
	s, err := signed.NewSigner(name, [32]byte{seed})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func verifierOf(t *testing.T, s *signed.Signer) *signed.Verifier {
	t.Helper()
	v, err := signed.NewVerifier(s.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (b *box) open(t *testing.T) {
	t.Helper()
	var err error
	if b.j, err = journal.Open(b.o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.j.Close() })
	if _, err := b.j.Number("uplink", "tsp"); err != nil {
		t.Fatal(err)
	}
}

func (b *box) close(t *testing.T) {
	t.Helper()
	if err := b.j.Close(); err != nil {
		t.Fatal(err)
	}
}

// send commits and delivers n messages.
func (b *box) send(t *testing.T, n int) {
	t.Helper()
	source, err := b.j.Number("source", "bench")
	if err != nil {
		t.Fatal(err)
	}
	now, _ := b.o.Clock()
	for ; n > 0; n -= 50 {
		var list []*gateway.Entry
		if b.j.Size() < 10 {
			change := gateway.Record{Kind: gateway.ChangeRecord, Time: now, Trusted: true, Set: 1, Detail: []byte(`{"set":1}`)}
			list = append(list, &gateway.Entry{Record: gateway.AppendRecord(nil, &change)})
		}
		for range 50 {
			id := b.j.NextID()
			r := gateway.Record{Kind: gateway.DecisionRecord, Time: now, Trusted: true, ID: id, Set: 1, Source: uint16(source), Grade: gateway.General, Received: now,
				Outcomes: []gateway.Outcome{{Uplink: 0, State: gateway.Waiting, Action: gateway.Pass, Reason: gateway.ReasonPolicy}}}
			rand.Read(r.Input[:])
			rand.Read(r.Outcomes[0].Left[:])
			list = append(list, &gateway.Entry{Record: gateway.AppendRecord(nil, &r), ID: id, Source: "bench", Grade: gateway.General, Waits: 1,
				Outlets: []gateway.Outlet{{Uplinks: 1, Topic: "v1/car/gnss", Payload: make([]byte, 1024)}}})
		}
		committed := make(chan error, 1)
		b.j.Append(list, func(_ uint64, err error) { committed <- err })
		if err := <-committed; err != nil {
			t.Fatal(err)
		}
		feed := b.j.Feed(0)
		for {
			out, err := feed.Next(256, 1<<20, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(out) == 0 {
				break
			}
			if err := feed.Settle(t.Context(), out, gateway.Forwarded, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// archived sends messages until there are n archives.
func (b *box) archived(t *testing.T, n int) {
	t.Helper()
	for until := time.Now().Add(60 * time.Second); len(b.j.Archives()) < n; {
		if time.Now().After(until) {
			t.Fatalf("%d archives", len(b.j.Archives()))
		}
		b.send(t, 100)
	}
}

// ship ships until done, or in vain for a while, and returns how it went.
func (b *box) ship(t *testing.T, done func() bool) (ship.Status, bool) {
	t.Helper()
	s, err := ship.New(gatewayName, ship.Config{URL: b.url, Every: time.Millisecond}, b.key, b.j, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ended := make(chan struct{})
	go func() { s.Run(ctx); close(ended) }()
	ok := done()
	for ; !ok && s.Status().Failed < 3 && ctx.Err() == nil; ok = done() {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-ended
	return s.Status(), ok
}

// allShipped reports whether nothing is left to ship.
func (b *box) allShipped() bool { _, left := b.j.Unshipped(); return !left }

// prove checks the closed journal, and the log from record 0 out of what the collector has.
func (b *box) prove(t *testing.T) *audit.Report {
	t.Helper()
	verify := func(text []byte) (uint64, [32]byte, error) {
		c, err := b.own.ParseVerify(text)
		return c.Size, c.Root, err
	}
	if r, err := journal.Check(t.Context(), b.o.Dir, b.o.Keys, verify, nil); err != nil || !r.OK {
		t.Fatalf("check: %v, %q", err, r.Problems)
	}
	j, err := journal.OpenReadOnly(b.o.Dir, b.o.Keys)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	rest, err := audit.Verify(t.Context(), j, b.own)
	if err != nil || len(rest.Errors) > 0 {
		t.Fatalf("verify: %v, %q", err, rest.Errors)
	}
	log, err := journal.OpenShipped(b.kept, b.o.Dir, b.o.Keys)
	if err != nil {
		t.Fatal(err)
	}
	part, root, err := audit.VerifyTo(t.Context(), log, rest.Trimmed, rest.Stated, b.own)
	if err != nil || len(part.Errors) > 0 || root != rest.TrimmedRoot {
		t.Fatalf("shipped: %v, %q, the roots are equal: %v", err, part.Errors, root == rest.TrimmedRoot)
	}
	return part
}

// blocks returns where the blocks of an archive stand: block i from blocks[i] up to blocks[i+1].
func blocks(b []byte) (at []int) {
	for n := 48; ; n += 16 + int(binary.BigEndian.Uint32(b[n+12:])) {
		if at = append(at, n); n == len(b) {
			return at
		}
	}
}

func TestAnArchiveDamagedAfterItWasShippedHoldsNothingUp(t *testing.T) {
	lose := func(b []byte, block int) []byte {
		at := blocks(b)
		block = (block + len(at) - 1) % (len(at) - 1)
		rand.Read(b[at[block]+16 : at[block+1]])
		return b
	}
	for name, damage := range map[string]func(b []byte) []byte{
		"one bit, which is set right":   func(b []byte) []byte { at := blocks(b); b[at[1]+40] ^= 4; return b },
		"the first block":               func(b []byte) []byte { return lose(b, 0) },
		"a block in the middle":         func(b []byte) []byte { return lose(b, 1) },
		"the last block of records":     func(b []byte) []byte { return lose(b, -2) },
		"the checkpoints":               func(b []byte) []byte { return lose(b, -1) },
		"the first and the last block":  func(b []byte) []byte { return lose(lose(b, 0), -2) },
		"everything behind its header":  func(b []byte) []byte { rand.Read(b[48:]); return b },
		"everything but its first bits": func(b []byte) []byte { return b[:20] },
	} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, receipt lost %v", name, lost), func(t *testing.T) {
				t.Parallel()
				b := newBox(t)
				b.open(t)
				b.archived(t, 3)
				if s, ok := b.ship(t, b.allShipped); !ok {
					t.Fatalf("%+v", s)
				}
				hit := b.j.Archives()[1]
				b.close(t)
				file := filepath.Join(b.o.Dir, "archive", fmt.Sprintf("archive-%020d.slr", hit.First))
				text, err := os.ReadFile(file)
				if err == nil {
					err = os.WriteFile(file, damage(bytes.Clone(text)), 0o600)
				}
				if err == nil && lost {
					err = os.Remove(strings.TrimSuffix(file, ".slr") + ".receipt")
				}
				if err != nil {
					t.Fatal(err)
				}
				if r, err := journal.Repair(b.o); err != nil || r.Whole {
					t.Fatalf("repair: %+v, %v", r, err)
				}
				b.o.AuditMaxSize = 200 << 10
				b.open(t)
				for range 40 {
					s, ok := b.ship(t, b.allShipped)
					if !ok {
						t.Fatalf("shipping: %+v", s)
					}
					if b.j.Trimmed() > hit.Next {
						break
					}
					b.send(t, 100)
				}
				if b.j.Trimmed() <= hit.Next {
					t.Fatalf("trimmed to %d, the damaged archive is %+v", b.j.Trimmed(), hit)
				}
				b.close(t)
				if _, err := os.Stat(filepath.Join(b.o.Dir, "archive", fmt.Sprintf("archive-%020d.receipt", hit.First))); err == nil {
					t.Fatal("the receipt outlives what it is for")
				}
				if part := b.prove(t); part.TreeSize < hit.Next || part.Lost != 0 {
					t.Fatalf("%+v", part)
				}
			})
		}
	}
}

// TestACopyOfABoxIsNoticed: it goes on with other records under the same seqs.
func TestACopyOfABoxIsNoticed(t *testing.T) {
	b := newBox(t)
	b.open(t)
	b.archived(t, 1)
	both := b.j.Size()
	b.close(t)
	fork := *b
	fork.o.Dir = filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(fork.o.Dir, os.DirFS(b.o.Dir)); err != nil {
		t.Fatal(err)
	}
	b.open(t)
	b.archived(t, 3)
	if s, ok := b.ship(t, b.allShipped); !ok {
		t.Fatalf("%+v", s)
	}
	b.close(t)
	fork.open(t)
	fork.archived(t, 3)
	if s, ok := fork.ship(t, fork.allShipped); ok || s.Sent == 0 || !strings.Contains(s.Err, "409") {
		t.Fatalf("%+v", s)
	}
	if a, _ := fork.j.Unshipped(); a.Next <= both {
		t.Fatalf("what both have ends at %d, stopped at %+v", both, a)
	}
}

// TestWhatIsDamagedBeforeItIsShippedIsNotShipped: a collector would keep the damage and sign for it.
func TestWhatIsDamagedBeforeItIsShippedIsNotShipped(t *testing.T) {
	b := newBox(t)
	b.open(t)
	b.archived(t, 3)
	hit := b.j.Archives()[1]
	file := filepath.Join(b.o.Dir, "archive", fmt.Sprintf("archive-%020d.slr", hit.First))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text[blocks(text)[1]+40] ^= 4
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	b.ship(t, b.allShipped)
	kept := filepath.Join(b.kept, fmt.Sprintf("%020d-%020d", hit.First, hit.Next))
	files, err := filepath.Glob(filepath.Join(b.kept, "0*"))
	if _, statErr := os.Stat(kept); err != nil || len(files) < 2 || statErr == nil {
		t.Fatalf("the collector has %q", files)
	}
	b.close(t)
	b.open(t) // which repairs it: the bit is set right
	if s, ok := b.ship(t, b.allShipped); !ok {
		t.Fatalf("%+v", s)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Fatal(err)
	}
	b.close(t)
}

func TestAnAlteredFileOfTheCollectorIsNotSignedForAgain(t *testing.T) {
	b := newBox(t)
	b.open(t)
	b.archived(t, 2)
	if s, ok := b.ship(t, b.allShipped); !ok {
		t.Fatalf("%+v", s)
	}
	a := b.j.Archives()[0]
	b.close(t)
	kept := filepath.Join(b.kept, fmt.Sprintf("%020d-%020d", a.First, a.Next))
	text, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(kept, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(b.o.Dir, "archive", fmt.Sprintf("archive-%020d.receipt", a.First))); err != nil {
		t.Fatal(err)
	}
	b.open(t)
	if s, ok := b.ship(t, b.allShipped); ok || !strings.Contains(s.Err, "500") {
		t.Fatalf("%+v", s)
	}
}
