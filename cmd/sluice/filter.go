package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// filterLine is one line of filter, in and out. Uplink, id and retain are written, client is read.
type filterLine struct {
	Source  string `json:"source,omitempty"`
	Client  string `json:"client,omitempty"`
	Uplink  string `json:"uplink,omitempty"`
	ID      string `json:"id,omitempty"`
	Topic   string `json:"topic"`
	Retain  bool   `json:"retain,omitempty"`
	Payload string `json:"payload_base64"`
}

// maxFilterLine bounds one line of input: the largest body in base64 and its topic.
const maxFilterLine = 8 << 20

// filterBatch bounds what one commit waits for.
const filterBatch = 256

func filterVerb(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("filter", "[-c FILE] < MESSAGES")
	file := fs.String("c", defaultConfigFile, "configuration `file`")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if len(rest) > 0 {
		return usage(stderr, fmt.Errorf("filter: unexpected argument %q", rest[0]), "messages are read from standard input: sluice filter -c sluice.yaml < messages.ndjson")
	}
	cfg, status := configured(*file, stderr)
	if cfg == nil {
		return status
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	harden(log)
	tuneMemory()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := &lineWriter{w: bufio.NewWriter(stdout)}
	in := &lineSource{cfg: cfg, in: bufio.NewReaderSize(stdin, 1<<20), log: log}
	a, err := assemble(cfg, log, parts{
		uplink: func(name string, _ *UplinkConfig) (gateway.Uplink, error) {
			return &lineUplink{name: name, out: out}, nil
		},
		source: func(*SourceConfig, *slog.Logger) (runner, error) { return nil, nil },
		extra:  in,
	})
	if err != nil {
		return fail(stderr, err, hintFor(err)...)
	}
	in.drained = func() bool { return a.journal.Totals().Waiting == 0 || out.broken() }
	if err := a.Run(ctx); err != nil {
		return fail(stderr, err)
	}
	if err := out.err; err != nil {
		return fail(stderr, fmt.Errorf("write decided messages: %w", err), "what was not written waits in the journal and is written by the next run")
	}
	if in.bad > 0 {
		return fail(stderr, fmt.Errorf("%d lines were refused", in.bad), `a line is {"source":"NAME","topic":"…","payload_base64":"…"} with a configured source and an allowed topic`)
	}
	return exitGood
}

// lineSource is standard input as a source.
type lineSource struct {
	cfg     *Config
	in      *bufio.Reader
	log     *slog.Logger
	drained func() bool
	bad     int
}

// Listening implements runner.
func (s *lineSource) Listening() bool { return true }

// Reload implements runner.
func (s *lineSource) Reload() error { return nil }

// Run admits every line, then waits until all of it is written.
func (s *lineSource) Run(ctx context.Context, g gateway.Gate) error {
	tickets := make(chan gateway.Ticket, 64)
	var waiter sync.WaitGroup
	waiter.Go(func() {
		for t := range tickets {
			t.Wait(ctx)
		}
	})
	err := s.read(ctx, g, tickets)
	close(tickets)
	waiter.Wait()
	for ctx.Err() == nil && err == nil && !s.drained() {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return err
}

func (s *lineSource) read(ctx context.Context, g gateway.Gate, tickets chan<- gateway.Ticket) error {
	for more := true; more && ctx.Err() == nil; {
		var batch []*gateway.Message
		for len(batch) < filterBatch {
			var line []byte
			line, more = s.line()
			if m := s.message(g, line); m != nil {
				batch = append(batch, m)
			}
			if !more || s.in.Buffered() == 0 {
				break
			}
		}
		if len(batch) == 0 {
			continue
		}
		t, err := g.Admit(ctx, batch)
		if err != nil {
			return err
		}
		tickets <- t
	}
	return nil
}

// line reads one line of bounded length; the rest of a longer one is skipped and the line comes back empty but counted.
func (s *lineSource) line() (line []byte, more bool) {
	for {
		part, err := s.in.ReadSlice('\n')
		if len(line)+len(part) > maxFilterLine {
			line = append(line[:0], '?') // no JSON: refused below
		} else {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSpace(line), err == nil
		}
	}
}

// message makes a message of a line; nil when the line is empty or refused.
func (s *lineSource) message(g gateway.Gate, line []byte) *gateway.Message {
	if len(line) == 0 {
		return nil
	}
	refuse := func(source string, why gateway.Refusal) *gateway.Message {
		s.bad++
		if source != "" {
			g.Refuse(source, why, 1)
		}
		return nil
	}
	var l filterLine
	if json.Unmarshal(line, &l) != nil {
		return refuse("", gateway.RefusedMalformed)
	}
	payload, err := base64.StdEncoding.DecodeString(l.Payload)
	known := false
	for _, c := range s.cfg.Sources {
		known = known || c.Name == l.Source
	}
	if err != nil || !known {
		return refuse("", gateway.RefusedMalformed)
	}
	m := &gateway.Message{Source: l.Source, Protocol: gateway.MQTT, Client: l.Client, Topic: l.Topic, Payload: payload, Received: time.Now(), QoS: 1, Retain: l.Retain}
	if why := s.cfg.refuses(m); why != "" {
		return refuse(l.Source, why)
	}
	return m
}

// lineWriter is standard output, shared by the uplinks.
type lineWriter struct {
	mu  sync.Mutex // guards the fields below
	w   *bufio.Writer
	err error
}

func (o *lineWriter) broken() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err != nil
}

func (o *lineWriter) write(l *filterLine) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		if _, o.err = o.w.Write(append(b, '\n')); o.err == nil {
			o.err = o.w.Flush()
		}
	}
	return o.err
}

// lineUplink writes what an uplink would send as lines: what is written is forwarded.
type lineUplink struct {
	name string
	out  *lineWriter
}

// Open implements gateway.Uplink.
func (u *lineUplink) Open(ctx context.Context, acked func(uint64)) (gateway.Link, error) {
	if u.out.broken() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &lineLink{u: u, acked: acked, gone: make(chan struct{})}, nil
}

type lineLink struct {
	u     *lineUplink
	acked func(uint64)
	gone  chan struct{}
	once  sync.Once
}

// Send implements gateway.Link.
func (l *lineLink) Send(_ context.Context, o *gateway.Outbound) error {
	line := filterLine{Uplink: l.u.name, Source: o.Source, Topic: o.Topic, Retain: o.Retain, Payload: base64.StdEncoding.EncodeToString(o.Payload)}
	if !o.Control {
		line.ID = o.ID.String()
	}
	if err := l.u.out.write(&line); err != nil {
		l.once.Do(func() { close(l.gone) })
		return err
	}
	l.acked(o.Seq)
	return nil
}

// Broken implements gateway.Link.
func (l *lineLink) Broken() <-chan struct{} { return l.gone }

// Close implements gateway.Link.
func (l *lineLink) Close() error { return nil }
