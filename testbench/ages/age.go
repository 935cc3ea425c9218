package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-edge/sluice/crypto/signed"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/audit"
	"github.com/sluice-edge/sluice/gateway/journal"
	"github.com/sluice-edge/sluice/gateway/ship"
	"github.com/sluice-edge/sluice/testbench/collector"
)

const (
	name  = "vgw-0001"
	day   = 24 * time.Hour
	never = 36500
	steps = 8 // of the clock in a day
)

// age is one life of a journal.
type age struct {
	Rate      int           `json:"rate"` // messages a second
	Days      int           `json:"days"`
	MaxSize   int64         `json:"max_size"` // audit.max_size
	Collector bool          `json:"collector"`
	Personal  bool          `json:"personal"` // records are of the class provision
	PerDay    int           `json:"per_day"`  // messages really sent for a day
	Outage    int           `json:"outage"`   // days, from day 60 on, that the collector does not answer
	Full      bool          `json:"full"`     // it is expected to fill up
	Retention time.Duration `json:"-"`        // expected to bound it
}

func (a *age) k() int { return a.Rate * 86400 / a.PerDay }

func (a *age) name() string {
	how := "alone"
	if a.Collector {
		how = "collector"
	} else if a.Personal {
		how = "alone, personal"
	}
	if a.Outage > 0 {
		how += fmt.Sprintf(", %d days away", a.Outage)
	}
	return fmt.Sprintf("%d/s %s", a.Rate, how)
}

// ages lists what the bench goes through.
func ages(short bool) []age {
	if short {
		return []age{
			{Rate: 10, Days: 184, MaxSize: 4 << 30, Collector: true, PerDay: 100, Outage: 4},
			{Rate: 10, Days: 184, MaxSize: 4 << 30, PerDay: 200, Full: true},
			{Rate: 1, Days: 250, MaxSize: 4 << 30, PerDay: 40, Retention: 184 * day},
		}
	}
	return []age{
		{Rate: 10, Days: 184, MaxSize: 4 << 30, Collector: true, PerDay: 400, Outage: 14},
		{Rate: 10, Days: 1096, MaxSize: 4 << 30, Collector: true, PerDay: 400, Outage: 14},
		{Rate: 100, Days: 184, MaxSize: 4 << 30, Collector: true, PerDay: 2000, Outage: 2},
		{Rate: 100, Days: 1096, MaxSize: 4 << 30, Collector: true, PerDay: 2000, Outage: 2},
		{Rate: 10, Days: 184, MaxSize: 4 << 30, PerDay: 400, Full: true},
		{Rate: 100, Days: 184, MaxSize: 4 << 30, PerDay: 4000, Full: true},
		{Rate: 10, Days: 1096, MaxSize: 16 << 30, PerDay: 400, Retention: 184 * day},
		{Rate: 10, Days: 1300, MaxSize: 96 << 30, PerDay: 400, Personal: true, Retention: 1096 * day},
	}
}

// result is what an age came to. Sizes are as they would be at full rate.
type result struct {
	Age      age      `json:"age"`
	K        int      `json:"k"`
	Days     int      `json:"days"`
	Records  uint64   `json:"records"` // made here, a k-th of a box's
	Each     float64  `json:"bytes_each"`
	Largest  int64    `json:"largest"` // record bytes on the box
	Archives uint64   `json:"archives"`
	Shipped  uint64   `json:"shipped"`
	Trimmed  uint64   `json:"trimmed"`    // archives
	Kept     int64    `json:"kept_bytes"` // of what is kept of trimmed records, not multiplied
	Forecast float64  `json:"forecast"`   // the day on which it would be full, said when there was an archive to measure; 36500: never
	Lowest   float64  `json:"lowest"`     // of the days to full, later
	FullDay  float64  `json:"full_day"`   // 0: never
	Proofs   int      `json:"proofs"`
	Problems []string `json:"problems"`
	Took     float64  `json:"took_s"`
}

func (r *result) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// life is an age under way.
type life struct {
	age     age
	r       *result
	o       journal.Options
	j       *journal.Journal
	ship    *ship.Shipper
	c       *collector.Collector
	key     *signed.Verifier
	shipped string       // folder of the collector
	now     atomic.Int64 // nanoseconds since it began
	next    uint64       // archives that begin below it were seen
	ends    []uint64     // of the archives that were seen
}

// begun is when every life begins.
var begun = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// live runs one age from beginning to end and proves what is left.
func live(ctx context.Context, a age, dir string) (*result, error) {
	started := time.Now()
	dir, err := os.MkdirTemp(dir, "age-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	l := &life{age: a, r: &result{Age: a, K: a.k(), Problems: []string{}, Lowest: never, Forecast: never}, shipped: filepath.Join(dir, "collector", name)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := l.open(ctx, dir); err != nil {
		return nil, err
	}
	defer l.j.Close()
	if err := l.days(ctx); err != nil {
		return nil, err
	}
	l.measure()
	cancel()
	if err := l.prove(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	l.r.Took = time.Since(started).Seconds()
	return l.r, nil
}

// open makes keys, journal and collector. The collector ends with ctx.
func (l *life) open(ctx context.Context, dir string) error {
	signer, err := signed.NewSigner(name, [32]byte{1})
	if err != nil {
		return err
	}
	if l.key, err = signed.NewVerifier(signer.VerifierKey()); err != nil {
		return err
	}
	l.o = journal.Options{
		Dir: filepath.Join(dir, "data"), Keys: []journal.Key{{ID: 1, Secret: [32]byte{2}}},
		MaxSize: 64 << 20, SegmentSize: 1 << 20, AuditMaxSize: l.age.MaxSize / int64(l.r.K),
		Sign: func(size uint64, root [32]byte, at time.Time) ([]byte, error) {
			return signer.SignCheckpoint(signed.Checkpoint{Size: size, Root: root, At: at})
		},
		CheckpointEvery: time.Hour, CheckpointCount: uint64(l.age.PerDay),
		Clock:     func() (time.Time, bool) { return begun.Add(time.Duration(l.now.Load())), true },
		Uptime:    func() time.Duration { return time.Duration(l.now.Load()) },
		Retention: journal.Retention{Default: 184 * day, Provision: 1096 * day},
	}
	if !l.age.Collector {
		l.j, err = journal.Open(l.o)
		return err
	}
	receipts, err := signed.NewSigner("collector-1", [32]byte{3})
	if err != nil {
		return err
	}
	key, err := signed.NewVerifier(receipts.VerifierKey())
	if err != nil {
		return err
	}
	if l.c, err = collector.New(collector.Options{Dir: filepath.Dir(l.shipped), Signer: receipts, Clock: func() time.Time { t, _ := l.o.Clock(); return t }}); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	l.o.Receipt = ship.Check(name, key)
	if l.j, err = journal.Open(l.o); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if l.ship, err = ship.New(name, ship.Config{URL: "http://" + listener.Addr().String(), Every: time.Millisecond, Timeout: 10 * time.Second}, key, l.j, log); err != nil {
		return err
	}
	server := &http.Server{Handler: l.c, ReadHeaderTimeout: time.Second}
	var both sync.WaitGroup
	both.Go(func() { server.Serve(listener) })
	both.Go(func() { l.ship.Run(ctx) })
	go func() { // ends with ctx; live goes on when the files are at rest
		<-ctx.Done()
		server.Close()
		both.Wait()
	}()
	return nil
}

// days lets the days pass, or stops where the journal is full.
func (l *life) days(ctx context.Context) error {
	if _, err := l.j.Number("uplink", "tsp"); err != nil {
		return err
	}
	now, _ := l.o.Clock()
	change := gateway.Record{Kind: gateway.ChangeRecord, Time: now, Trusted: true, Set: 1, Detail: []byte(`{"set":1}`)}
	l.j.Append([]*gateway.Entry{{Record: gateway.AppendRecord(nil, &change)}}, func(uint64, error) {})
	batch := l.age.PerDay / steps
	forecast := false
	for d := range l.age.Days {
		if l.c != nil && l.age.Outage > 0 && d == 60 {
			l.c.SetFault(collector.Broken)
		} else if l.c != nil && d == 60+l.age.Outage {
			l.c.SetFault(collector.NoFault)
		}
		away := l.age.Outage > 0 && d >= 60 && d < 60+l.age.Outage
		for range steps {
			if l.j.Full() {
				l.r.FullDay = float64(l.now.Load()) / float64(day)
				l.r.Days = d
				return nil
			}
			if err := l.send(ctx, batch); err != nil {
				return err
			}
			l.now.Add(int64(day / steps))
		}
		if err := l.settle(ctx, away); err != nil {
			return fmt.Errorf("day %d: %w", d, err)
		}
		s := l.measure()
		days := s.DaysToFull(float64(l.age.PerDay), l.ship != nil && !away && l.ship.Status().Answering)
		if !forecast && d >= 5 && l.r.Archives > 0 {
			forecast, l.r.Forecast = true, min(never, float64(d+1)+days)
		} else if forecast {
			l.r.Lowest = min(l.r.Lowest, days)
		}
		l.r.Days = d + 1
	}
	return nil
}

// send commits n messages and delivers them.
func (l *life) send(ctx context.Context, n int) error {
	source, err := l.j.Number("source", "bench")
	if err != nil {
		return err
	}
	now, _ := l.o.Clock()
	var list []*gateway.Entry
	for range n {
		id := l.j.NextID()
		r := gateway.Record{Kind: gateway.DecisionRecord, Time: now, Trusted: true, ID: id, Set: 1, Source: uint16(source), Grade: gateway.General, Personal: l.age.Personal, Received: now,
			Findings: []gateway.Counted{{Category: 3, Action: gateway.Pass, Count: 4}, {Category: 17, Action: gateway.Generalize, Count: 2}, {Category: 21, Action: gateway.Remove, Count: 1}},
			Outcomes: []gateway.Outcome{{Uplink: 0, State: gateway.Waiting, Action: gateway.Pass, Reason: gateway.ReasonPolicy}}}
		rand.Read(r.Input[:])
		rand.Read(r.Outcomes[0].Left[:])
		list = append(list, &gateway.Entry{Record: gateway.AppendRecord(nil, &r), ID: id, Source: "bench", Grade: gateway.General, Waits: 1,
			Outlets: []gateway.Outlet{{Uplinks: 1, Topic: "v1/car/gnss", Payload: body[:]}}})
	}
	committed := make(chan error, 1)
	l.j.Append(list, func(_ uint64, err error) { committed <- err })
	if err := <-committed; err != nil {
		return err
	}
	for feed := l.j.Feed(0); ; {
		out, err := feed.Next(256, 1<<20, nil)
		if err != nil || len(out) == 0 {
			return err
		}
		if err := feed.Settle(ctx, out, gateway.Forwarded, ""); err != nil {
			return err
		}
	}
}

// body is that of every message: small, so that a segment of 1 MiB stands for hours, not months.
var body [1024]byte

// settle waits for what a real day leaves time for: archives are written, shipped and trimmed.
func (l *life) settle(ctx context.Context, away bool) error {
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Microsecond) {
		s := l.j.Stat()
		_, unshipped := l.j.Unshipped()
		room := s.RecordBytes < s.AuditMaxSize/2 || s.ShippedBytes == 0
		known := s.Archives == 0 || s.KeepDays > 0
		if s.StuckBytes == 0 && known && (l.c == nil || away || !unshipped && room) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(until) {
			return fmt.Errorf("the journal does not come to rest: %+v", s)
		}
	}
}

// measure takes the journal's sizes down.
func (l *life) measure() journal.Stat {
	s := l.j.Stat()
	l.r.Records = s.Records
	l.r.Largest = max(l.r.Largest, s.RecordBytes*int64(l.r.K))
	if s.ArchiveRecords > 0 {
		l.r.Each = float64(s.ArchiveBytes) / float64(s.ArchiveRecords)
	}
	for _, a := range l.j.Archives() {
		if a.First >= l.next {
			l.next = a.Next
			l.ends = append(l.ends, a.Next)
		}
	}
	l.r.Archives, l.r.Trimmed = uint64(len(l.ends)), 0
	for _, end := range l.ends {
		if end <= s.Trimmed {
			l.r.Trimmed++
		}
	}
	if l.ship != nil {
		l.r.Shipped = l.ship.Status().Sent
	}
	return s
}

// prove checks everything that docs/retention.md says can be checked, from the files.
func (l *life) prove(ctx context.Context) error {
	if err := l.j.Close(); err != nil {
		return err
	}
	checked, err := journal.Check(ctx, l.o.Dir, l.o.Keys, func(text []byte) (uint64, [32]byte, error) {
		c, err := l.key.ParseVerify(text)
		return c.Size, c.Root, err
	}, nil)
	if err != nil {
		return err
	}
	for _, p := range checked.Problems {
		l.r.problem("check: %s", p)
	}
	j, err := journal.OpenReadOnly(l.o.Dir, l.o.Keys)
	if err != nil {
		return err
	}
	defer j.Close()
	rest, err := audit.Verify(ctx, j, l.key)
	if err != nil {
		return err
	}
	for _, e := range rest.Errors {
		l.r.problem("verify: %s", e)
	}
	l.expect(rest)
	if err := l.sample(j, rest); err != nil {
		return err
	}
	if st, err := os.Stat(filepath.Join(l.o.Dir, "archive", "trimmed")); err == nil {
		l.r.Kept = st.Size()
	}
	if !l.age.Collector || rest.Trimmed == 0 {
		return nil
	}
	log, err := journal.OpenShipped(l.shipped, l.o.Dir, l.o.Keys)
	if err != nil {
		return err
	}
	part, root, err := audit.VerifyTo(ctx, log, rest.Trimmed, rest.Stated, l.key)
	if err != nil {
		return err
	}
	for _, e := range part.Errors {
		if e != "" {
			l.r.problem("shipped: %s", e)
		}
	}
	if root != rest.TrimmedRoot || part.Records+rest.Records != checked.Totals.Received {
		l.r.problem("shipped: %d decisions and %d here are not the %d received, or the roots differ", part.Records, rest.Records, checked.Totals.Received)
	}
	return nil
}

// expect compares what happened with what was to happen.
func (l *life) expect(rest *audit.Report) {
	r, a := l.r, &l.age
	switch {
	case a.Full && r.FullDay == 0:
		r.problem("never full")
	case a.Full && (r.Forecast < 0.85*r.FullDay || r.Forecast > 1.15*r.FullDay):
		r.problem("full on day %.1f, forecast %.1f", r.FullDay, r.Forecast)
	case !a.Full && r.FullDay > 0:
		r.problem("full on day %.1f", r.FullDay)
	case !a.Full && r.Forecast < never:
		r.problem("never full, forecast for day %.1f", r.Forecast)
	case a.Collector && r.Largest > a.MaxSize:
		r.problem("larger than audit.max_size")
	case a.Outage > 0 && r.Lowest >= never:
		r.problem("nobody was warned while the collector was away")
	case !a.Full && rest.Trimmed == 0:
		r.problem("nothing was trimmed")
	}
	if a.Retention > 0 {
		var first gateway.Record
		stop := errors.New("stop")
		j, err := journal.OpenReadOnly(l.o.Dir, l.o.Keys)
		if err != nil {
			r.problem("%v", err)
			return
		}
		defer j.Close()
		j.Records(rest.Trimmed, func(_ uint64, record []byte) error {
			if err := gateway.DecodeRecord(record, &first); err != nil {
				r.problem("%v", err)
			}
			return stop
		})
		now, _ := l.o.Clock()
		if old := now.Sub(first.Time); old < a.Retention-5*day || old > a.Retention+40*day {
			r.problem("the oldest record is of %.0f days ago", old.Hours()/24)
		}
	}
}

// sample proves records from the whole of what is here against the newest checkpoint.
func (l *life) sample(j *journal.Journal, rest *audit.Report) error {
	signedSize := rest.TreeSize - rest.Unsigned
	for i := range uint64(50) {
		seq := rest.Trimmed + i*(signedSize-rest.Trimmed)/50
		p, err := audit.Prove(j, seq)
		if err != nil {
			return err
		}
		if _, err := audit.CheckProof(p, l.key); err != nil {
			l.r.problem("record %d: %v", seq, err)
		}
		l.r.Proofs++
	}
	return nil
}
