package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/audit"
	"github.com/sluice-edge/sluice/gateway/journal"
)

// recordsPage bounds the records that a running gateway hands out in one answer.
const (
	recordsPage      = 4096
	recordsPageBytes = 4 << 20
)

// page is one answer of audit/records.
type page struct {
	First   uint64   `json:"first"` // seq of the first of them: records in front of it may be lost, or trimmed
	Records [][]byte `json:"records"`
	Next    uint64   `json:"next"` // seq behind the last of them

	Trimmed uint64            `json:"trimmed,omitempty"` // the first record that is here, when earlier ones were asked for
	Kept    map[uint64][]byte `json:"kept,omitempty"`    // and the change records of these that are kept
}

func auditReconcile(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var name, from, to, shipped string
	var bare bool
	r, status := parseReading("audit reconcile", args, stdout, stderr, func(fs *flag.FlagSet, r *reading) {
		r.synopsis, r.operands = "[-c FILE] [--json] [--uplink NAME] [--from SEQ|TIME] [--to SEQ|TIME] [--shipped DIR] CAPTURE", 1
		fs.StringVar(&name, "uplink", "", "`name` of the uplink that the capture is of; may be left out when there is one")
		fs.StringVar(&from, "from", "", "first decision that must be captured: a `seq` or a time, 2026-01-31T08:00:00Z; else the first that is")
		fs.StringVar(&to, "to", "", "last decision that must be captured: a `seq` or a time; else the last that is")
		fs.StringVar(&shipped, "shipped", "", "`folder` of archives from the collector: compare with trimmed records too")
		fs.BoolVar(&bare, "no-prefix", false, "topics stand without the uplink's topic_prefix, as sluice filter prints them")
	})
	if r == nil {
		return status
	}
	defer r.stop()
	u, err := r.cfg.uplinkNamed(name)
	if err != nil {
		return usage(stderr, fmt.Errorf("audit reconcile: %w", err), "--uplink takes one of: "+strings.Join(uplinkNames(r.cfg), ", "))
	}
	capture := fmt.Sprintf("mosquitto_sub -q 1 -t '%s#' -F %%j > capture.ndjson, or lines {\"topic\":\"…\",\"payload_base64\":\"…\"}", u.prefix())
	if len(r.args) == 0 {
		return usage(stderr, errors.New("audit reconcile: no CAPTURE"), "what the recipient got, a line a message: "+capture, "sluice audit reconcile -c FILE --uplink "+u.Name+" capture.ndjson")
	}
	o := audit.ReconcileOptions{Uplink: u.Name, Prefix: u.prefix(), Progress: stepsOn(stderr)}
	if bare {
		o.Prefix = ""
	}
	if o.Identity, err = gateway.NewIdentity(u.Identity, r.cfg.Gateway); err != nil {
		return fail(stderr, err)
	}
	if o.From, err = parseBound(from); err == nil {
		o.To, err = parseBound(to)
	}
	if err != nil {
		return usage(stderr, fmt.Errorf("audit reconcile: %w", err), "--from 1200 --to 2026-01-31T08:00:00Z")
	}
	in := stdin
	if r.args[0] != "-" {
		f, err := os.Open(r.args[0])
		if err != nil {
			return fail(stderr, fmt.Errorf("read capture: %w", err), capture)
		}
		defer f.Close()
		in = f
	}
	report, err := reconcile(r.ctx, r.cfg, shipped, in, o)
	if errors.Is(err, audit.ErrTooMany) {
		return fail(stderr, fmt.Errorf("reconcile: %w", err), "narrow what must be captured with --from and --to")
	}
	if err != nil {
		return fail(stderr, fmt.Errorf("reconcile: %w", err), hintFor(err)...)
	}
	if r.asJSON {
		status = printJSON(stdout, stderr, report)
	} else {
		printReconciliation(stdout, report)
	}
	if !report.OK {
		explainDifferences(stderr, report, capture)
		return exitBad
	}
	if !r.asJSON {
		fmt.Fprintln(stdout, "ok")
	}
	return status
}

// uplinkNamed finds an uplink; the only one needs no name.
func (c *Config) uplinkNamed(name string) (*UplinkConfig, error) {
	if name == "" && len(c.Uplinks) == 1 {
		return &c.Uplinks[0], nil
	}
	for i := range c.Uplinks {
		if c.Uplinks[i].Name == name {
			return &c.Uplinks[i], nil
		}
	}
	if name == "" {
		return nil, errors.New("which uplink is the capture of?")
	}
	return nil, fmt.Errorf("no uplink is called %q", name)
}

// prefix is what the uplink puts in front of its topics.
func (u *UplinkConfig) prefix() string {
	if u.MQTT == nil {
		return ""
	}
	return u.MQTT.TopicPrefix
}

// parseBound reads a seq or a time; an empty text is none.
func parseBound(s string) (*audit.Bound, error) {
	if s == "" {
		return nil, nil
	}
	if seq, err := strconv.ParseUint(s, 10, 64); err == nil {
		return &audit.Bound{Seq: seq}, nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil || at.IsZero() {
		return nil, fmt.Errorf("%q is neither a seq nor a time", s)
	}
	return &audit.Bound{At: at}, nil
}

// reconcile compares a capture with the record, which the running gateway reads out, or the files of one that is not.
// What is trimmed of it is read from a folder of archives, when one is named.
func reconcile(ctx context.Context, cfg *Config, shipped string, capture io.Reader, o audit.ReconcileOptions) (*audit.Reconciliation, error) {
	running := &gatewayRecords{ctx: ctx, cfg: cfg}
	var log audit.Partial = running
	var err error
	if running.begin, err = running.page(0, 1); errors.Is(err, errNoGateway) {
		j, err := offline(cfg)
		if err != nil {
			return nil, err
		}
		defer j.Close()
		log = j
	} else if err != nil {
		return nil, err
	}
	if shipped == "" {
		return audit.Reconcile(ctx, log, capture, o)
	}
	whole := wholeLog{rest: log}
	if whole.next, _, _ = log.Start(); whole.next > 0 {
		keys, err := offlineKeys(cfg)
		if err != nil {
			return nil, err
		}
		if whole.shipped, err = journal.OpenShipped(shipped, cfg.DataDir, keys); err != nil {
			return nil, err
		}
		if end := whole.shipped.Next(); end < whole.next {
			return nil, fmt.Errorf("the archives in the folder end before record %d; the log here begins with record %d", end, whole.next)
		}
	}
	return audit.Reconcile(ctx, &whole, capture, o)
}

// wholeLog are the records of a log up to next as a collector has them, and those behind as the box has them.
type wholeLog struct {
	shipped *journal.ShippedLog
	next    uint64
	rest    audit.Records
}

var errRest = errors.New("the rest is on the box")

// Records implements audit.Records.
func (l *wholeLog) Records(from uint64, fn func(seq uint64, record []byte) error) error {
	if from < l.next {
		err := l.shipped.Records(from, func(seq uint64, record []byte) error {
			if seq >= l.next {
				return errRest
			}
			return fn(seq, record)
		})
		if err != nil && err != errRest {
			return err
		}
	}
	return l.rest.Records(max(from, l.next), fn)
}

// gatewayRecords are the records of a gateway that runs.
type gatewayRecords struct {
	ctx   context.Context
	cfg   *Config
	begin *page
}

// Start implements audit.Partial; it knows no roots.
func (g *gatewayRecords) Start() (next uint64, _ []tlog.Hash, changes []uint64) {
	return g.begin.Trimmed, nil, slices.Sorted(maps.Keys(g.begin.Kept))
}

// Kept implements audit.Partial.
func (g *gatewayRecords) Kept(seq uint64) []byte { return g.begin.Kept[seq] }

func (g *gatewayRecords) page(from, limit uint64) (*page, error) {
	var p page
	err := ask(g.ctx, g.cfg, "audit/records", url.Values{"from": {strconv.FormatUint(from, 10)}, "limit": {strconv.FormatUint(limit, 10)}}, &p)
	return &p, err
}

// Records implements audit.Records.
func (g *gatewayRecords) Records(from uint64, fn func(seq uint64, record []byte) error) error {
	for {
		p, err := g.page(from, recordsPage)
		if err != nil {
			return err
		}
		if len(p.Records) == 0 {
			return nil
		}
		if p.Trimmed > from {
			return &journal.ErrTrimmed{Next: p.Trimmed}
		}
		if p.First < from || p.Next != p.First+uint64(len(p.Records)) {
			return fmt.Errorf("ask the gateway: records from %d on are %d to %d", from, p.First, p.Next)
		}
		from = p.First
		for _, record := range p.Records {
			if err := fn(from, record); err != nil {
				return err
			}
			from++
		}
	}
}

var errPage = errors.New("page is full")

// records answers audit/records: some records from a seq on. They hold numbers and commitments, no content.
func (a *assembly) records(_ context.Context, r *http.Request) (any, error) {
	from, err := strconv.ParseUint(r.URL.Query().Get("from"), 10, 64)
	if err != nil {
		return nil, errors.New("from is no seq")
	}
	limit, err := strconv.ParseUint(r.URL.Query().Get("limit"), 10, 64)
	if err != nil || limit < 1 || limit > recordsPage {
		limit = recordsPage
	}
	p, size := page{Records: [][]byte{}}, 0
	if next, _, changes := a.journal.Start(); from < next {
		from, p.Trimmed, p.Kept = next, next, make(map[uint64][]byte)
		for _, seq := range changes {
			if record := a.journal.Kept(seq); record != nil { // trimmed meanwhile: there are newer ones
				p.Kept[seq] = record
			}
		}
	}
	p.First, p.Next = from, from
	err = a.journal.Records(from, func(seq uint64, record []byte) error {
		if len(p.Records) > 0 && seq != p.Next || uint64(len(p.Records)) >= limit || size > 0 && size+len(record) > recordsPageBytes {
			return errPage
		}
		if len(p.Records) == 0 {
			p.First = seq
		}
		p.Records, p.Next, size = append(p.Records, append([]byte(nil), record...)), seq+1, size+len(record)
		return nil
	})
	if err != nil && err != errPage {
		return nil, err
	}
	return p, nil
}

// stepsOn prints how far something long has come, every other second.
func stepsOn(w io.Writer) func(what string, n uint64) {
	next := time.Now().Add(2 * time.Second)
	return func(what string, n uint64) {
		if now := time.Now(); now.After(next) {
			next = now.Add(2 * time.Second)
			fmt.Fprintf(w, "read %d %s\n", n, what)
		}
	}
}

func printReconciliation(w io.Writer, r *audit.Reconciliation) {
	fmt.Fprintf(w, "%s of uplink %s captured, %s aside; %d match the record, %s\n",
		count(int(r.Captured), "message"), r.Uplink, count(int(r.Control), "control message"), r.Matched, count(int(r.Duplicates), "duplicate"))
	fmt.Fprintf(w, "off the record %d, altered %d, missing %d, unverifiable %d, unreadable lines %d\n",
		r.OffRecordCount, r.AlteredCount, r.MissingCount, r.Unverifiable, r.Malformed)
	for _, n := range r.NotCompared {
		if n[1] < r.Trimmed {
			fmt.Fprintf(w, "records %s are trimmed and were not compared: --shipped DIR compares with the collector's archives\n", n)
		} else {
			fmt.Fprintf(w, "records %s are lost, as audit verify says, and were not compared\n", n)
		}
	}
	if r.From != nil && r.To != nil {
		fmt.Fprintf(w, "of the decisions from %d to %d the record says that %d were forwarded\n", *r.From, *r.To, r.Forwarded)
	}
}

// explainDifferences prints what is not good, each as a line, and what to do about it.
func explainDifferences(w io.Writer, r *audit.Reconciliation, capture string) {
	list := func(differences []audit.Differ, total uint64) {
		for _, d := range differences {
			where := ""
			if d.Line > 0 {
				where += fmt.Sprintf(" line %d", d.Line)
			}
			if d.Seq != nil {
				where += fmt.Sprintf(" seq %d", *d.Seq)
			}
			if d.ID != "" {
				where += " id " + d.ID
			}
			fail(w, fmt.Errorf("message%s: %s", where, d.Why))
		}
		if more := total - uint64(len(differences)); more > 0 {
			fail(w, fmt.Errorf("and %d more", more))
		}
	}
	list(r.OffRecord, r.OffRecordCount)
	list(r.Altered, r.AlteredCount)
	list(r.Missing, r.MissingCount)
	for _, n := range r.Notes {
		fail(w, errors.New(n))
	}
	if r.Malformed > 0 {
		fail(w, fmt.Errorf("%s no captured message, the first is line %d", are(int(r.Malformed), "line"), r.MalformedLines[0]), capture)
	}
	if r.Unverifiable > 0 {
		fail(w, fmt.Errorf("of %s nothing shows the content", count(int(r.Unverifiable), "message")),
			"it takes an identity with a salt, and the bytes as they arrived: mosquitto_sub -F %j, not %J")
	}
	if r.OtherIdentity > 0 {
		fail(w, fmt.Errorf("%s forwarded under another identity", are(int(r.OtherIdentity), "message")), "compare them with a configuration that has it: -c FILE")
	}
}

// are writes a number with its noun and verb.
func are(n int, noun string) string {
	if n == 1 {
		return "1 " + noun + " is"
	}
	return count(n, noun) + " are"
}
