package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sort"
	"strconv"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/crypto/signed"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/journal"
	"github.com/sluice-edge/sluice/gateway/ship"
)

// maxListed bounds what journal ls and hold ls print.
const maxListed = 10_000

func journalVerb(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return subverb("journal", "-c FILE", []verb{
		{"stat", "totals, and what waits for each uplink", journalStat},
		{"ls", "messages that wait, or that a cloud refused, oldest first, without their content", journalList},
		{"retry", "let messages that a cloud refused for good wait for it again", journalRetry},
		{"check", "read everything and prove that it is whole", journalCheck},
		{"repair", "set damaged files aside, keep what is readable, put on the record what is lost", journalRepair},
	}, args, stdin, stdout, stderr)
}

func holdVerb(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return subverb("hold", "-c FILE", []verb{{"ls", "messages held for a person, without their content", holdList}}, args, stdin, stdout, stderr)
}

// subverb runs the second word of a verb.
func subverb(name, usual string, list []verb, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		for _, v := range list {
			if v.name == args[0] {
				return v.run(args[1:], stdin, stdout, stderr)
			}
		}
	}
	err := fmt.Errorf("%s needs one of its verbs", name)
	if len(args) > 0 {
		switch args[0] {
		case "-h", "-help", "--help", "help":
			fmt.Fprintf(stdout, "Usage: sluice %s VERB [%s] [--json]\n\n", name, usual)
			for _, v := range list {
				fmt.Fprintf(stdout, "  %-8s  %s\n", v.name, v.help)
			}
			return exitGood
		}
		err = fmt.Errorf("unknown verb %q of %s", args[0], name)
	}
	var hints []string
	for _, v := range list {
		hints = append(hints, fmt.Sprintf("sluice %s %s %s: %s", name, v.name, usual, v.help))
	}
	return usage(stderr, err, hints...)
}

// reading is what all verbs that read a journal share.
type reading struct {
	cfg    *Config
	asJSON bool
	limit  int

	synopsis string // of the flags and arguments, for help
	operands int    // arguments that the verb takes
	args     []string

	ctx  context.Context
	stop context.CancelFunc
}

// parseReading reads the flags of such a verb; a nil result comes with the exit status.
func parseReading(name string, args []string, stdout, stderr io.Writer, more func(*flag.FlagSet, *reading)) (*reading, int) {
	r := &reading{limit: 100, synopsis: "[-c FILE] [--json]"}
	fs := newFlags(name, "")
	file := fs.String("c", defaultConfigFile, "configuration `file`")
	fs.BoolVar(&r.asJSON, "json", false, "print one line of JSON")
	if more != nil {
		more(fs, r)
	}
	fs.Usage = usageOf(fs, r.synopsis)
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return nil, status
	}
	if len(rest) > r.operands {
		return nil, usage(stderr, fmt.Errorf("%s: unexpected argument %q", name, rest[r.operands]), "type sluice "+name+" -c "+rest[r.operands])
	}
	r.args = rest
	if r.limit < 1 || r.limit > maxListed {
		return nil, usage(stderr, fmt.Errorf("%s: --limit is from 1 to %d", name, maxListed), "type sluice "+name+" -c "+*file+" --limit 1000")
	}
	if _, err := os.Stat(*file); err != nil {
		return nil, fail(stderr, fmt.Errorf("read configuration: %w", err), "name it with -c FILE")
	}
	cfg, report := readConfig(*file)
	if !report.OK() {
		return nil, failProblems(stderr, report)
	}
	r.cfg = cfg
	r.ctx, r.stop = signal.NotifyContext(context.Background(), os.Interrupt)
	return r, exitGood
}

// offline opens the journal for reading when no gateway has it.
func offline(cfg *Config) (*journal.Journal, error) {
	keys, err := offlineKeys(cfg)
	if err != nil {
		return nil, err
	}
	return journal.OpenReadOnly(cfg.DataDir, keys)
}

func offlineKeys(cfg *Config) ([]journal.Key, error) {
	ring, err := keyring.Open(cfg.KeyDir)
	if err != nil {
		return nil, err
	}
	return atRestKeys(ring)
}

// offlineStat is journal stat from the files.
func offlineStat(cfg *Config) (journal.Stat, error) {
	j, err := offline(cfg)
	if err != nil {
		return journal.Stat{}, err
	}
	defer j.Close()
	return j.Stat(), nil
}

// question asks the running gateway, or answers from the files when there is none.
func question[T any](r *reading, name string, query url.Values, files func(*journal.Journal) (T, error)) (answer T, err error) {
	if err = ask(r.ctx, r.cfg, name, query, &answer); !errors.Is(err, errNoGateway) {
		return answer, err
	}
	j, err := offline(r.cfg)
	if err != nil {
		return answer, err
	}
	defer j.Close()
	return files(j)
}

// stat is what journal stat shows: of a gateway that runs, also how shipping goes.
type stat struct {
	journal.Stat
	Shipping *ship.Status `json:"shipping,omitempty"`
}

func journalStat(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	r, status := parseReading("journal stat", args, stdout, stderr, nil)
	if r == nil {
		return status
	}
	defer r.stop()
	s, err := question(r, "journal/stat", nil, func(j *journal.Journal) (stat, error) { return stat{Stat: j.Stat()}, nil })
	if err != nil {
		return fail(stderr, err, hintFor(err)...)
	}
	if r.asJSON {
		type totals struct {
			stat
			Totals any `json:"totals"`
		}
		json.NewEncoder(stdout).Encode(totals{s, withIdentity{s.Totals, s.Totals.Identity()}})
	} else {
		printStat(stdout, &s)
	}
	if !s.Totals.Identity() {
		return fail(stderr, errors.New("received is not the sum of the states"), "sluice journal check -c FILE finds out more")
	}
	return exitGood
}

// printArchive says what became of the records' archives, where anything did.
func printArchive(w io.Writer, s *stat) {
	if s.Trimmed > 0 || s.Shipped > 0 || s.Shipping != nil {
		fmt.Fprintf(w, "archive: %d of %s shipped, %d KiB of these may go; records below %d are trimmed\n", s.Shipped, count(s.Archives, "file"), s.ShippedBytes>>10, s.Trimmed)
	}
	switch {
	case s.Shipping == nil:
	case s.Shipping.Answering:
		fmt.Fprintf(w, "collector: answers, %s since the start\n", count(int(s.Shipping.Sent), "archive"))
	default:
		fmt.Fprintf(w, "collector: %s\n", cmp.Or(s.Shipping.Err, "not asked yet"))
	}
}

func printStat(w io.Writer, s *stat) {
	t := s.Totals
	fmt.Fprintf(w, "received %d = waiting %d + held %d + forwarded %d + blocked %d", t.Received, t.Waiting, t.Held, t.Forwarded, t.Blocked)
	for _, more := range []struct {
		name string
		n    uint64
	}{{"rejected", t.Rejected}, {"expired", t.Expired}, {"dropped", t.Dropped}, {"dead", t.Dead}, {"erased", t.Erased}} {
		if more.n > 0 {
			fmt.Fprintf(w, " + %s %d", more.name, more.n)
		}
	}
	fmt.Fprintf(w, "\n%s in %s and %s, %d KiB; bodies %d KiB; on disk %d KiB\n",
		count(int(s.Records), "record"), count(s.Segments, "segment"), count(s.Archives, "archive"), s.RecordBytes>>10, s.BodyBytes>>10, s.DiskBytes>>10)
	printArchive(w, s)
	names := make([]string, 0, len(s.Uplinks))
	for name := range s.Uplinks {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		u := s.Uplinks[name]
		oldest := ""
		if !u.Oldest.IsZero() {
			oldest = ", oldest " + u.Oldest.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "uplink %s: %d waiting, %d KiB%s\n", name, u.Messages, u.Bytes>>10, oldest)
	}
	if s.Full {
		fmt.Fprintln(w, "full: nothing is taken in until an uplink drains it")
	}
}

func journalList(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	var dead bool
	r, status := parseReading("journal ls", args, stdout, stderr, func(fs *flag.FlagSet, r *reading) {
		r.synopsis = "[-c FILE] [--dead] [--limit N] [--json]"
		fs.IntVar(&r.limit, "limit", r.limit, "print at most so many `lines`")
		fs.BoolVar(&dead, "dead", false, "list what a cloud refused for good instead of what waits")
	})
	if r == nil {
		return status
	}
	if dead {
		return list(r, "journal/dead", stdout, stderr, (*journal.Journal).ListDead)
	}
	return list(r, "journal/ls", stdout, stderr, (*journal.Journal).List)
}

func holdList(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	r, status := parseReading("hold ls", args, stdout, stderr, func(fs *flag.FlagSet, r *reading) {
		fs.IntVar(&r.limit, "limit", r.limit, "print at most so many `lines`")
	})
	if r == nil {
		return status
	}
	return list(r, "hold/ls", stdout, stderr, (*journal.Journal).ListHeld)
}

func list(r *reading, query string, stdout, stderr io.Writer, files func(*journal.Journal, int) ([]journal.Listed, error)) int {
	defer r.stop()
	entries, err := question(r, query, url.Values{"limit": {strconv.Itoa(r.limit)}}, func(j *journal.Journal) ([]journal.Listed, error) { return files(j, r.limit) })
	if err != nil {
		return fail(stderr, err, hintFor(err)...)
	}
	if r.asJSON {
		if entries == nil {
			entries = []journal.Listed{}
		}
		json.NewEncoder(stdout).Encode(map[string]any{"messages": entries})
		return exitGood
	}
	for _, e := range entries {
		fmt.Fprintf(stdout, "%8d  %s  %-9s  %6d bytes  %s → %v  %s\n", e.Seq, e.Time.Format(time.RFC3339), e.Grade, e.Size, e.Source, e.Uplinks, e.ID)
	}
	if len(entries) == 0 {
		fmt.Fprintln(stderr, "none") // beside the list, which is empty
	}
	if len(entries) == r.limit {
		fmt.Fprintf(stdout, "the first %d; --limit shows more\n", r.limit)
	}
	return exitGood
}

func journalCheck(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	r, status := parseReading("journal check", args, stdout, stderr, nil)
	if r == nil {
		return status
	}
	defer r.stop()
	report, err := checkJournal(r.ctx, r.cfg, progressOn(stderr))
	if errors.Is(err, journal.ErrLocked) {
		return fail(stderr, err, "sluice audit verify -c FILE checks the log of a running gateway", "stop the gateway to have every file checked")
	}
	if err != nil {
		return fail(stderr, err, hintFor(err)...)
	}
	if r.asJSON {
		json.NewEncoder(stdout).Encode(report)
	} else {
		fmt.Fprintf(stdout, "%d records, %d of them decisions; %d bodies opened; %d checkpoints, %d records behind the last\n",
			report.Records, report.Decisions, report.Bodies, report.Checkpoints, report.Unsigned)
		if report.Trimmed > 0 {
			fmt.Fprintf(stdout, "records below %d are trimmed\n", report.Trimmed)
		}
	}
	if !report.OK {
		for i, p := range report.Problems {
			repair := ""
			if i+1 == len(report.Problems) {
				repair = hintRepair
			}
			fail(stderr, errors.New(p), repair)
		}
		return exitBad
	}
	if !r.asJSON {
		if report.LostRecords+report.LostBodies > 0 {
			fmt.Fprintf(stdout, "%d records and %d bodies were lost to damage, which is on the record\n", report.LostRecords, report.LostBodies)
		}
		fmt.Fprintln(stdout, "ok")
	}
	return exitGood
}

// journalRepair makes a damaged journal whole. Its exit status is 1 when something was lost for good.
func journalRepair(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	r, status := parseReading("journal repair", args, stdout, stderr, nil)
	if r == nil {
		return status
	}
	defer r.stop()
	done, err := repairJournal(r.cfg)
	if errors.Is(err, journal.ErrForked) {
		return fail(stderr, err, "nothing was changed: keep data_dir for the inspector, and start anew with another data_dir and another gateway name")
	}
	if journal.Damaged(err) {
		return fail(stderr, err, "it cannot be made whole: keep data_dir for whoever can read it, and start anew with another data_dir and another gateway name")
	}
	if err != nil {
		return fail(stderr, err, hintFor(err)...)
	}
	if r.asJSON {
		json.NewEncoder(stdout).Encode(done)
	} else {
		printRepaired(stdout, &done)
	}
	if !done.NothingLost() {
		return exitBad
	}
	return exitGood
}

func printRepaired(w io.Writer, done *journal.Repaired) {
	for _, f := range done.Files {
		fmt.Fprintf(w, "%s is damaged: %d records kept, %d records and %d bodies lost", f.File, f.Records, f.RecordsLost, f.BodiesLost)
		if f.Aside != "" {
			fmt.Fprintf(w, "; set aside as %s", f.Aside)
		}
		fmt.Fprintln(w)
	}
	if done.Dropped > 0 {
		fmt.Fprintf(w, "%s dropped, which is on the record\n", count(int(done.Dropped), "message"))
	}
	if done.Whole {
		fmt.Fprintln(w, "nothing is damaged")
	} else {
		fmt.Fprintln(w, "the journal is whole again")
	}
}

// repairJournal repairs the files of a journal that no gateway has.
func repairJournal(cfg *Config) (journal.Repaired, error) {
	ring, err := keyring.Open(cfg.KeyDir)
	if err != nil {
		return journal.Repaired{}, err
	}
	keys, err := atRestKeys(ring)
	if err != nil {
		return journal.Repaired{}, err
	}
	sign, err := checkpointSigner(cfg, ring)
	if err != nil {
		return journal.Repaired{}, err
	}
	return journal.Repair(journal.Options{Dir: cfg.DataDir, Keys: keys, Sign: sign, Clock: gateway.SystemClock,
		MaxSize: int64(cfg.Journal.MaxSize), AuditMaxSize: int64(cfg.Audit.MaxSize)})
}

// checkJournal checks the files of a journal that no gateway has.
func checkJournal(ctx context.Context, cfg *Config, progress func(done, total uint64)) (journal.Report, error) {
	keys, err := offlineKeys(cfg)
	if err != nil {
		return journal.Report{}, err
	}
	verifier, err := logVerifier(cfg, "")
	if err != nil {
		return journal.Report{}, err
	}
	return journal.Check(ctx, cfg.DataDir, keys, func(text []byte) (uint64, [32]byte, error) {
		c, err := verifier.ParseVerify(text)
		return c.Size, c.Root, err
	}, progress)
}

// logVerifier reads the public key of the gateway's log, from a file or from key_dir.
func logVerifier(cfg *Config, file string) (*signed.Verifier, error) {
	if file == "" {
		ring, err := keyring.Open(cfg.KeyDir)
		if err != nil {
			return nil, err
		}
		file = ring.PublicPath(cfg.Gateway)
	}
	pub, err := keyring.ReadPublic(file)
	if err != nil {
		return nil, err
	}
	vkey, err := pub.Verifier()
	if err != nil {
		return nil, err
	}
	return signed.NewVerifier(vkey)
}

// progressOn prints how far a check has come, every other second.
func progressOn(w io.Writer) func(done, total uint64) {
	next := time.Now().Add(2 * time.Second)
	return func(done, total uint64) {
		if now := time.Now(); now.After(next) {
			next = now.Add(2 * time.Second)
			fmt.Fprintf(w, "%d of %d records\n", done, total)
		}
	}
}

// queries are the questions that a running gateway answers.
func (a *assembly) queries() map[string]func(context.Context, *http.Request) (any, error) {
	limited := func(r *http.Request) int {
		n, err := strconv.Atoi(r.URL.Query().Get("limit"))
		if err != nil || n < 1 || n > maxListed {
			return 100
		}
		return n
	}
	return map[string]func(context.Context, *http.Request) (any, error){
		"journal/stat": func(context.Context, *http.Request) (any, error) {
			s := stat{Stat: a.journal.Stat()}
			s.Totals.Refused = a.metrics.Refused()
			if a.shipper != nil {
				status := a.shipper.Status()
				s.Shipping = &status
			}
			return s, nil
		},
		"journal/ls":   func(_ context.Context, r *http.Request) (any, error) { return a.journal.List(limited(r)) },
		"journal/dead": func(_ context.Context, r *http.Request) (any, error) { return a.journal.ListDead(limited(r)) },
		"link":         func(context.Context, *http.Request) (any, error) { return linkAnswer{a.links.Name()}, nil },
		"plugins": func(context.Context, *http.Request) (any, error) {
			return map[string]any{"plugins": a.plugins(false)}, nil
		},
		"plugins/explain": a.explainQuery,
		"hold/ls":         func(_ context.Context, r *http.Request) (any, error) { return a.journal.ListHeld(limited(r)) },
		"audit/verify":    func(ctx context.Context, _ *http.Request) (any, error) { return a.verify(ctx) },
	}
}
