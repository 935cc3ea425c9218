package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/audit"
	"github.com/sluice-edge/sluice/gateway/journal"
)

func auditVerb(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return subverb("audit", "-c FILE", []verb{
		{"verify", "check the record log against its signed checkpoints", auditVerify},
		{"reconcile", "compare what a recipient captured with what the record says left", auditReconcile},
	}, args, stdin, stdout, stderr)
}

// withIdentity adds to totals whether they add up.
type withIdentity struct {
	gateway.Totals
	Identity bool `json:"identity"`
}

func auditVerify(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	var key, shipped string
	r, status := parseReading("audit verify", args, stdout, stderr, func(fs *flag.FlagSet, _ *reading) {
		fs.StringVar(&key, "key", "", "public key `file` of the log; key_dir has it under the gateway's name")
		fs.StringVar(&shipped, "shipped", "", "`folder` of archives from the collector: verify the log from record 0")
	})
	if r == nil {
		return status
	}
	defer r.stop()
	var report audit.Report
	err := errNoGateway
	if key == "" { // a key of the caller's is checked by the caller
		err = ask(r.ctx, r.cfg, "audit/verify", nil, &report)
	}
	if errors.Is(err, errNoGateway) {
		var p *audit.Report
		if p, err = verifyLog(r.ctx, r.cfg, key); p != nil {
			report = *p
		}
	}
	if err != nil {
		return fail(stderr, err, hintFor(err)...)
	}
	if shipped != "" {
		if err := verifyShipped(r.ctx, r.cfg, key, shipped, &report); err != nil {
			return fail(stderr, err, hintFor(err)...)
		}
	}
	if r.asJSON {
		json.NewEncoder(stdout).Encode(report)
	} else {
		fmt.Fprintf(stdout, "%s, %d of them decisions; %s\n", count(int(report.TreeSize-report.Trimmed-report.Lost), "record"), report.Records, signedPart(&report))
		if report.Trimmed > 0 {
			fmt.Fprintf(stdout, "records below %d are trimmed: --shipped DIR verifies them from the collector's archives\n", report.Trimmed)
		}
		if report.Lost > 0 {
			fmt.Fprintf(stdout, "%s lost to damage, as the log itself says: %s\n", are(int(report.Lost), "record"), ranges(report.Holes))
		}
	}
	if !report.OK {
		for _, e := range report.Errors {
			fail(stderr, errors.New(e))
		}
		return exitBad
	}
	switch {
	case r.asJSON:
	case report.Lost > 0:
		fmt.Fprintln(stdout, "ok, but for what is lost")
	default:
		fmt.Fprintln(stdout, "ok")
	}
	return exitGood
}

// ranges lists the first of some ranges of records.
func ranges(list []audit.Range) string {
	const most = 8
	var parts []string
	for _, r := range list[:min(len(list), most)] {
		parts = append(parts, r.String())
	}
	if len(list) > most {
		parts = append(parts, fmt.Sprintf("and %d more ranges", len(list)-most))
	}
	return strings.Join(parts, ", ")
}

// signedPart says how much of the log is under a signed checkpoint. What is not yet is checked against stored hashes.
func signedPart(r *audit.Report) string {
	switch {
	case r.Unsigned == 0:
		return "all under a signed checkpoint"
	case r.Checkpoint == "":
		return "no checkpoint signed yet"
	}
	return fmt.Sprintf("%d behind the newest signed checkpoint", r.Unsigned)
}

// verifyLog checks the log of a journal that no gateway has, and opens every body that is still stored.
func verifyLog(ctx context.Context, cfg *Config, key string) (*audit.Report, error) {
	verifier, err := logVerifier(cfg, key)
	if err != nil {
		return nil, err
	}
	checked, err := checkJournal(ctx, cfg, nil)
	if err != nil {
		return nil, err
	}
	j, err := offline(cfg)
	if err != nil {
		if checked.OK {
			return nil, err
		}
		r := &audit.Report{Errors: []string{}}
		for _, p := range checked.Problems {
			r.Add("%s", p)
		}
		return r, nil
	}
	defer j.Close()
	r, err := audit.Verify(ctx, j, verifier)
	if err != nil {
		return nil, err
	}
	if r.OK { // what the journal finds beyond the log: bodies, totals, cursors
		for _, p := range checked.Problems {
			r.Add("%s", p)
		}
	}
	return r, nil
}

// verifyShipped verifies the trimmed part of a log from a folder of archives and joins it with the report on the rest:
// both lead to the same tree where the rest begins, or the report is bad. Whole archives behind that are verified too.
func verifyShipped(ctx context.Context, cfg *Config, key, dir string, rest *audit.Report) error {
	verifier, err := logVerifier(cfg, key)
	if err != nil {
		return err
	}
	keys, err := offlineKeys(cfg)
	if err != nil {
		return err
	}
	log, err := journal.OpenShipped(dir, cfg.DataDir, keys)
	if err != nil {
		return err
	}
	if rest.Trimmed == 0 {
		return nil // everything is here
	}
	if log.Next() < rest.Trimmed {
		rest.Add("the archives in the folder end before record %d; the log here begins with record %d", log.Next(), rest.Trimmed)
		return nil
	}
	part, root, err := audit.VerifyTo(ctx, log, rest.Trimmed, rest.Stated, verifier)
	if err != nil {
		return err
	}
	if root != rest.TrimmedRoot {
		rest.Add("the archives in the folder are not the records that were trimmed: another root at record %d", rest.Trimmed)
	}
	for _, e := range part.Errors {
		rest.Add("shipped: %s", e)
	}
	rest.Records += part.Records
	rest.Lost += part.Lost
	rest.Holes = append(part.Holes, rest.Holes...)
	rest.Trimmed, rest.TrimmedRoot = 0, ""
	return nil
}

// verify checks the log of this gateway while it runs, and opens every body that waits.
func (a *assembly) verify(ctx context.Context) (*audit.Report, error) {
	verifier, err := logVerifier(a.cfg, "")
	if err != nil {
		return nil, err
	}
	r, err := audit.Verify(ctx, a.journal, verifier)
	if err != nil {
		return nil, err
	}
	if err := a.journal.OpenWaiting(ctx); err != nil && ctx.Err() == nil {
		r.Add("read what waits: %v", err)
	}
	return r, ctx.Err()
}
