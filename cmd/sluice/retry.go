package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/gateway/console"
	"github.com/sluice-edge/sluice/gateway/journal"
)

// retryRequest names the dead messages that are to wait again.
type retryRequest struct {
	Seqs []uint64 `json:"seqs"`
	All  bool     `json:"all"`
}

// retryAnswer says what became of them.
type retryAnswer struct {
	Retried []retried `json:"retried"`
	Failed  []failed  `json:"failed"`
}

type retried struct {
	Seq     uint64   `json:"seq"`
	Uplinks []string `json:"uplinks"` // that it waits for again
}

type failed struct {
	Seq   uint64 `json:"seq"`
	Error string `json:"error"`
}

func journalRetry(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	var q retryRequest
	r, status := parseReading("journal retry", args, stdout, stderr, func(fs *flag.FlagSet, r *reading) {
		r.synopsis, r.operands = "SEQ... | --all [-c FILE] [--json]", maxListed
		fs.BoolVar(&q.All, "all", false, "every message that a cloud refused")
	})
	if r == nil {
		return status
	}
	defer r.stop()
	for _, arg := range r.args {
		seq, err := strconv.ParseUint(arg, 10, 64)
		if err != nil {
			return usage(stderr, fmt.Errorf("journal retry: %q is no seq", arg), "sluice journal ls --dead -c FILE lists what can be sent again, the seq in front")
		}
		q.Seqs = append(q.Seqs, seq)
	}
	if q.All == (len(q.Seqs) > 0) {
		return usage(stderr, errors.New("journal retry: which messages?"), "sluice journal ls --dead -c FILE lists them", "sluice journal retry SEQ -c FILE for one, --all for every one")
	}
	var answer retryAnswer
	err := tell(r.ctx, r.cfg, http.MethodPost, "journal/retry", &q, &answer)
	running := !errors.Is(err, errNoGateway)
	if !running {
		answer, err = retryOffline(r.ctx, r.cfg, &q)
	}
	if err != nil {
		hints := hintFor(err)
		if hints == nil {
			hints = []string{"sluice journal stat -c FILE shows what waits, /readyz why nothing is taken in"}
		}
		return fail(stderr, err, hints...)
	}
	if r.asJSON {
		json.NewEncoder(stdout).Encode(answer)
	} else {
		printRetry(stdout, &answer, running)
	}
	for _, f := range answer.Failed {
		fail(stderr, fmt.Errorf("message %d: %s", f.Seq, f.Error))
	}
	if len(answer.Failed) > 0 {
		fmt.Fprintln(stderr, "sluice: hint: sluice journal ls --dead -c FILE lists what can be sent again")
		return exitBad
	}
	return exitGood
}

func printRetry(w io.Writer, answer *retryAnswer, running bool) {
	for _, m := range answer.Retried {
		fmt.Fprintf(w, "%8d  waits again for %s\n", m.Seq, strings.Join(m.Uplinks, ", "))
	}
	switch {
	case len(answer.Retried) == 0 && len(answer.Failed) == 0:
		fmt.Fprintln(w, "no message is dead")
	case len(answer.Retried) > 0 && !running:
		fmt.Fprintln(w, "no gateway runs; the next one sends it")
	}
}

// retryOffline opens the journal for itself: no gateway runs.
func retryOffline(ctx context.Context, cfg *Config, q *retryRequest) (answer retryAnswer, err error) {
	if there, err := journal.Exists(cfg.DataDir); err != nil || !there {
		return answer, fmt.Errorf("open journal %q: %w", cfg.DataDir, cmp.Or(err, os.ErrNotExist))
	}
	ring, err := keyring.Open(cfg.KeyDir)
	if err != nil {
		return answer, err
	}
	o, err := journalOptions(cfg, ring)
	if err != nil {
		return answer, err
	}
	j, err := journal.Open(o)
	if err != nil {
		return answer, err
	}
	answer, err = retry(ctx, j, q, fmt.Sprintf("uid %d", os.Getuid()))
	return answer, errors.Join(err, j.Close())
}

// retry lets the named messages wait again, by order of who is named.
func retry(ctx context.Context, j *journal.Journal, q *retryRequest, by string) (answer retryAnswer, err error) {
	answer = retryAnswer{Retried: []retried{}, Failed: []failed{}}
	one := func(seq uint64) error {
		uplinks, err := j.Retry(ctx, seq, by)
		if len(uplinks) > 0 {
			answer.Retried = append(answer.Retried, retried{seq, uplinks})
		}
		if err != nil && (ctx.Err() != nil || errors.Is(err, journal.ErrClosed) || errors.Is(err, journal.ErrFull)) {
			return err // so would the others; of journal.ErrBacklog only those for the same uplink
		}
		if err != nil {
			answer.Failed = append(answer.Failed, failed{seq, err.Error()})
		}
		return nil
	}
	if !q.All {
		for _, seq := range q.Seqs {
			if err := one(seq); err != nil {
				return answer, err
			}
		}
		return answer, nil
	}
	for tried := map[uint64]bool{}; ; {
		list, err := j.ListDead(len(tried) + maxListed)
		if err != nil {
			return answer, err
		}
		fresh := false
		for _, m := range list {
			if !tried[m.Seq] {
				tried[m.Seq], fresh = true, true
				if err := one(m.Seq); err != nil {
					return answer, err
				}
			}
		}
		if !fresh {
			return answer, nil
		}
	}
}

// changes are what a caller with a role may have a running gateway do.
func (a *assembly) changes() map[string]console.Change {
	list := map[string]console.Change{
		"POST journal/retry": {Role: console.Operator, Do: func(ctx context.Context, r *http.Request, by console.Caller) (any, error) {
			var q retryRequest
			if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
				return nil, fmt.Errorf(`read request: want {"seqs":[12]} or {"all":true}: %w`, err)
			}
			answer, err := retry(ctx, a.journal, &q, by.Name)
			if n := len(answer.Retried); n > 0 {
				a.log.Info("dead messages wait again", "messages", n, "by", by.Name)
			}
			return answer, err
		}},
		"PUT link": {Role: console.Operator, Do: func(_ context.Context, r *http.Request, by console.Caller) (any, error) {
			var q linkAnswer
			if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
				return nil, fmt.Errorf(`read request: want {"link":"wifi"}: %w`, err)
			}
			if q.Link != "" && !nameForm.MatchString(q.Link) {
				return nil, fmt.Errorf("%q is no name of a link: %s", q.Link, "1 to 64 of A-Z a-z 0-9 _ -")
			}
			a.setLink(q.Link, by.Name)
			return q, nil
		}},
	}
	maps.Copy(list, a.pluginChanges())
	return list
}
