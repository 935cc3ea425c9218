package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

func TestASorterSortsInMemoryAndOnDisk(t *testing.T) {
	for _, n := range []int{0, 1, 7, 8, 9, 1000} {
		s := newSorter(8, 64)
		var want []uint64
		r := rand.New(rand.NewPCG(1, uint64(n)))
		for range n {
			v := r.Uint64N(500)
			want = append(want, v)
			if err := s.add(binary.BigEndian.AppendUint64(nil, v)); err != nil {
				t.Fatal(err)
			}
		}
		if n > 8 != (s.file != nil) {
			t.Errorf("%d entries: on disk %v", n, s.file != nil)
		}
		slices.Sort(want)
		e, err := s.sorted()
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for b, err := e.next(); b != nil || err != nil; b, err = e.next() {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, binary.BigEndian.Uint64(b))
		}
		s.close()
		if !slices.Equal(got, want) {
			t.Errorf("%d entries: %d in order, %v", n, len(got), slices.IsSorted(got))
		}
	}
}

// captureLog is a log and what its uplinks 3 (cloud) and 4 (other) were sent.
type captureLog struct {
	records [][]byte
	sent    []string // lines of the recipient's capture
	seqs    []uint64 // of their decisions
}

func (l *captureLog) Records(from uint64, fn func(uint64, []byte) error) error {
	for seq := from; seq < uint64(len(l.records)); seq++ {
		if err := fn(seq, l.records[seq]); err != nil {
			return err
		}
	}
	return nil
}

var began = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

func (l *captureLog) add(r *gateway.Record) uint64 {
	r.Time = began.Add(time.Duration(len(l.records)) * time.Second)
	l.records = append(l.records, gateway.AppendRecord(nil, r))
	return uint64(len(l.records) - 1)
}

func (l *captureLog) change(set uint64, identity string) {
	l.add(&gateway.Record{Kind: gateway.ChangeRecord, Set: set,
		Detail: fmt.Appendf(nil, `{"uplinks":[{"name":"other","number":4,"identity":"none"},{"name":"cloud","number":3,"identity":%q}]}`, identity)})
}

// decide puts one decision on the record, with a message that carries its id in the topic.
func (l *captureLog) decide(id gateway.ID, state gateway.State) {
	salt := [16]byte{1, byte(id.Counter)}
	topic, payload := fmt.Sprintf("v1/a/%s/%x", id, salt), []byte(fmt.Sprint("body of ", id))
	r := &gateway.Record{Kind: gateway.DecisionRecord, ID: id, Set: 1, Received: began, Outcomes: []gateway.Outcome{{Uplink: 4, State: gateway.Blocked}}}
	if state != gateway.NoState {
		r.Outcomes = append(r.Outcomes, gateway.Outcome{Uplink: 3, State: state, Left: gateway.Commitment("sluice left v1", &salt, []byte(topic), payload)})
		if state == gateway.Blocked {
			r.Outcomes[1].Left = [32]byte{}
		}
	}
	l.seqs = append(l.seqs, l.add(r))
	line, _ := json.Marshal(map[string]any{"topic": "pre/" + topic, "payload_base64": payload})
	l.sent = append(l.sent, string(line))
}

func (l *captureLog) deliver(first, last uint64, state gateway.State) {
	l.settle(first, last, state, "")
}

func (l *captureLog) settle(first, last uint64, state gateway.State, detail string) {
	kind := gateway.DeliveryRecord
	if state == gateway.Expired {
		kind = gateway.ExpiryRecord
	}
	l.add(&gateway.Record{Kind: kind, Uplink: 3, State: state, First: first, Last: last, Count: last - first + 1, Detail: []byte(detail)})
}

func reconciled(t *testing.T, l Records, lines []string, more func(*ReconcileOptions)) *Reconciliation {
	t.Helper()
	identity, err := gateway.NewIdentity(gateway.IdentityConfig{Mode: "topic", Template: "{topic}/{id}/{salt}"}, "g")
	if err != nil {
		t.Fatal(err)
	}
	o := ReconcileOptions{Uplink: "cloud", Identity: identity, Prefix: "pre/", memory: 5 * entrySize}
	if more != nil {
		more(&o)
	}
	r, err := Reconcile(t.Context(), l, strings.NewReader(strings.Join(lines, "\n")), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func usualLog() *captureLog {
	l := &captureLog{}
	l.change(1, "topic {topic}/{id}/{salt}")
	for _, n := range rand.New(rand.NewPCG(1, 2)).Perm(40) { // ids do not rise with seq
		l.decide(gateway.ID{Incarnation: 7 + uint64(n%3), Counter: uint64(n)}, gateway.Waiting)
	}
	l.deliver(1, 20, gateway.Forwarded)
	l.deliver(21, 40, gateway.Forwarded)
	return l
}

func TestACaptureThatIsWhatTheRecordSays(t *testing.T) {
	l := usualLog()
	lines := append([]string{l.sent[5], l.sent[30]}, l.sent...) // out of order and twice
	r := reconciled(t, l, lines, nil)
	if !r.OK || r.Captured != 42 || r.Matched != 40 || r.Duplicates != 2 || r.DuplicatesDiffer != 0 || r.Forwarded != 40 || *r.From != 1 || *r.To != 40 {
		t.Errorf("%+v", r)
	}
}

func TestDifferencesBetweenCaptureAndRecord(t *testing.T) {
	one := func(change func(l *captureLog) []string) *Reconciliation {
		l := usualLog()
		return reconciled(t, l, change(l), nil)
	}
	all := func(r *Reconciliation) [3]uint64 { return [3]uint64{r.OffRecordCount, r.AlteredCount, r.MissingCount} }
	for _, c := range []struct {
		name   string
		change func(l *captureLog) []string
		want   [3]uint64
		why    string
	}{
		{"altered", func(l *captureLog) []string {
			l.sent[9] = strings.Replace(l.sent[9], "pre/v1/a", "pre/v1/b", 1)
			return l.sent
		}, [3]uint64{0, 1, 0}, "is not what the record commits to"},
		{"removed", func(l *captureLog) []string { return slices.Delete(l.sent, 9, 12) }, [3]uint64{0, 0, 3}, "was forwarded"},
		{"of nobody", func(l *captureLog) []string {
			return append(l.sent, `{"topic":"pre/v1/a/0000000000000008000000000000000b/00000000000000000000000000000000","payload_base64":""}`)
		}, [3]uint64{1, 0, 0}, "no decision"},
		{"blocked", func(l *captureLog) []string {
			l.decide(gateway.ID{Incarnation: 99, Counter: 1}, gateway.Blocked)
			return l.sent
		}, [3]uint64{1, 0, 0}, "the decision was blocked"},
		{"held", func(l *captureLog) []string {
			l.decide(gateway.ID{Incarnation: 7, Counter: 300}, gateway.Held)
			return l.sent
		}, [3]uint64{1, 0, 0}, "the decision was held"},
		{"for another uplink only", func(l *captureLog) []string {
			l.decide(gateway.ID{Incarnation: 99, Counter: 1}, gateway.NoState)
			return l.sent
		}, [3]uint64{1, 0, 0}, "not about this uplink"},
		{"not yet forwarded", func(l *captureLog) []string {
			n := len(l.sent)
			l.decide(gateway.ID{Incarnation: 99, Counter: 1}, gateway.Waiting)
			l.decide(gateway.ID{Incarnation: 99, Counter: 2}, gateway.Waiting)
			return append(l.sent[:n:n], l.sent[n+1])
		}, [3]uint64{0, 0, 0}, ""},
		{"expired", func(l *captureLog) []string {
			n := len(l.sent)
			l.decide(gateway.ID{Incarnation: 99, Counter: 1}, gateway.Waiting)
			l.decide(gateway.ID{Incarnation: 99, Counter: 2}, gateway.Waiting)
			l.settle(l.seqs[n], l.seqs[n+1], gateway.Expired, `{"grades":[3,1]}`) // not their grade
			l.settle(l.seqs[n], l.seqs[n], gateway.Expired, `{"priority":0,"grades":[2,0]}`)
			l.deliver(l.seqs[n], l.seqs[n+1], gateway.Forwarded)
			return append(l.sent[:n:n], l.sent[n+1])
		}, [3]uint64{0, 0, 0}, ""},
		{"of another priority", func(l *captureLog) []string {
			n := len(l.sent)
			l.decide(gateway.ID{Incarnation: 99, Counter: 1}, gateway.Waiting)
			l.decide(gateway.ID{Incarnation: 99, Counter: 2}, gateway.Waiting)
			l.settle(l.seqs[n], l.seqs[n+1], gateway.Forwarded, `{"priority":3}`)
			return append(l.sent[:n:n], l.sent[n+1])
		}, [3]uint64{0, 0, 0}, ""},
		{"refused for good", func(l *captureLog) []string {
			n := len(l.sent)
			l.decide(gateway.ID{Incarnation: 99, Counter: 1}, gateway.Waiting)
			l.decide(gateway.ID{Incarnation: 99, Counter: 2}, gateway.Waiting)
			l.settle(l.seqs[n], l.seqs[n], gateway.Dead, `{"priority":0,"why":"x"}`)
			return append(l.sent[:n:n], l.sent[n+1])
		}, [3]uint64{0, 0, 0}, ""},
		{"refused, sent again and lost", func(l *captureLog) []string {
			n := len(l.sent)
			l.decide(gateway.ID{Incarnation: 99, Counter: 1}, gateway.Waiting)
			l.decide(gateway.ID{Incarnation: 99, Counter: 2}, gateway.Waiting)
			l.settle(l.seqs[n], l.seqs[n], gateway.Dead, `{"priority":0,"why":"x"}`)
			again := l.add(&gateway.Record{Kind: gateway.ReleaseRecord, Uplink: 3, State: gateway.Waiting, First: l.seqs[n], Last: l.seqs[n], Count: 1})
			l.settle(l.seqs[n+1], again, gateway.Forwarded, `{"priority":0}`)
			return append(l.sent[:n:n], l.sent[n+1])
		}, [3]uint64{0, 0, 1}, "was forwarded"},
	} {
		r := one(c.change)
		if all(r) != c.want || r.OK != (c.want == [3]uint64{}) {
			t.Errorf("%s: %+v", c.name, r)
			continue
		}
		for _, d := range slices.Concat(r.OffRecord, r.Altered, r.Missing) {
			if !strings.Contains(d.Why, c.why) {
				t.Errorf("%s: %s", c.name, d.Why)
			}
		}
	}
}

func TestASpanLimitsWhatMustBeCaptured(t *testing.T) {
	l := usualLog()
	for _, c := range []struct {
		name     string
		lines    []string
		from, to *Bound
		missing  uint64
	}{
		{"by itself", l.sent[10:20], nil, nil, 0},
		{"by seq", l.sent[10:20], &Bound{Seq: 1}, &Bound{Seq: 40}, 30},
		{"from a seq on", l.sent[10:20], &Bound{Seq: 6}, nil, 5},
		{"up to a time", l.sent[10:20], nil, &Bound{At: began.Add(22 * time.Second)}, 2},
		{"from a time on", l.sent[10:20], &Bound{At: began.Add(10 * time.Second)}, nil, 1},
		{"of nothing", nil, &Bound{Seq: 3}, &Bound{Seq: 5}, 3},
	} {
		r := reconciled(t, l, c.lines, func(o *ReconcileOptions) { o.From, o.To = c.from, c.to })
		if r.MissingCount != c.missing || r.OK != (c.missing == 0) || r.OffRecordCount != 0 {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestAnotherIdentityInBetween(t *testing.T) {
	l := &captureLog{}
	l.change(1, "none")
	l.decide(gateway.ID{Incarnation: 7, Counter: 1}, gateway.Waiting)
	l.deliver(1, 1, gateway.Forwarded)
	r := reconciled(t, l, []string{`{"topic":"pre/v1/a","payload":"x"}`}, func(o *ReconcileOptions) { o.From, o.To = &Bound{}, &Bound{Seq: 9} })
	if r.OK || r.OtherIdentity != 1 || r.MissingCount != 0 || r.OffRecordCount != 1 || !strings.Contains(strings.Join(r.Notes, ""), "another identity: none") {
		t.Errorf("%+v", r)
	}
}

func TestListsOfAReportAreBounded(t *testing.T) {
	l := usualLog()
	var lines []string
	for n := range 3 * maxFindings {
		lines = append(lines, fmt.Sprintf(`{"topic":"pre/x/%s/y","payload":""}`, gateway.ID{Incarnation: uint64(1000 + n)}), "?")
	}
	r := reconciled(t, l, lines, func(o *ReconcileOptions) { o.From, o.To = &Bound{}, &Bound{Seq: 99} })
	if len(r.OffRecord) != maxFindings || r.OffRecordCount != 3*maxFindings || len(r.MalformedLines) != maxFindings || r.Malformed != 3*maxFindings || r.MissingCount != 40 {
		t.Errorf("%d of %d, %d of %d", len(r.OffRecord), r.OffRecordCount, len(r.MalformedLines), r.Malformed)
	}
}

func TestReconcileEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := usualLog()
	if _, err := Reconcile(ctx, l, strings.NewReader(l.sent[0]), ReconcileOptions{Uplink: "cloud"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCaptureLines(t *testing.T) {
	for _, c := range []struct {
		line, payload string
		exact         bool
	}{
		{`{"topic":"t","payload_base64":"eA=="}`, "x", true},
		{`{"topic":"t","payload_hex":"78"}`, "x", true},
		{`{"tst":"…","topic":"t","qos":1,"retain":0,"payloadlen":7,"mid":1,"payload":"{\"a\":1}"}`, `{"a":1}`, true},
		{`{"topic":"t","payloadlen":4,"payload":"{"}`, `{`, false}, // cut off at a NUL
		{`{"topic":"t","payloadlen":2,"payload":[120,255]}`, "x\xff", true},
		{`{"topic":"t","payloadlen":7,"payload":[120,255]}`, "[120,255]", false},
		{`{"topic":"t","payloadlen":2,"payload":[120,256]}`, "[120,256]", false},
		{`{"topic":"t","payloadlen":0,"payload":null}`, "", true},
		{`{"topic":"t","payloadlen":8,"payload":{"a": 1}}`, `{"a": 1}`, false},
	} {
		got, err := parseCapture([]byte(c.line))
		if err != nil || got.Topic != "t" || string(got.Payload) != c.payload || got.Exact != c.exact {
			t.Errorf("%s: %q %v %v", c.line, got.Payload, got.Exact, err)
		}
	}
	for _, line := range []string{`[]`, `{}`, `7`, `{"topic":"t"}`, `{"topic":7,"payload":""}`, `{"topic":"t","payload":"","payload_hex":""}`, `{"topic":"t","topic":"t","payload":""}`,
		`{"topic":"t","payload_hex":"7"}`, `{"topic":"t","payload":""} {}`, "{\"topic\":\"\xff\",\"payload\":\"\"}", `{"topic":"t","payload":"","payloadlen":"1"}`} {
		if got, err := parseCapture([]byte(line)); err == nil {
			t.Errorf("%s: %+v", line, got)
		}
	}
}

func FuzzCapture(f *testing.F) {
	for _, s := range []string{"", "\n\n", `{"topic":"t","payload":"x"}`, `{"topic":"t","payload_base64":"eA=="}`, `{"topic":"t","payloadlen":1,"payload":[1]}`, "{\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := uint64(0)
		err := readCapture(bytes.NewReader(data), func(line uint64, c Captured, err error) error {
			if line <= lines || err != nil && (c.Topic != "" || c.Payload != nil) {
				t.Errorf("line %d after %d: %+v, %v", line, lines, c, err)
			}
			lines = line
			return nil
		})
		if err != nil || lines > uint64(bytes.Count(data, []byte("\n"))+1) {
			t.Errorf("%d lines, %v", lines, err)
		}
	})
}

// many is a log of n delivered messages that is made while it is read, and their capture.
type many struct {
	n, at int
	line  []byte
}

func (m *many) message(i int) (id gateway.ID, salt [16]byte, topic string, payload []byte) {
	id, salt = gateway.ID{Incarnation: 7, Counter: uint64(i)}, [16]byte{1, 2, byte(i)}
	return id, salt, fmt.Sprintf("v1/car/%s/%x", id, salt), bytes.Repeat([]byte{'x'}, 200)
}

func (m *many) Records(from uint64, fn func(uint64, []byte) error) error {
	l := &captureLog{}
	l.change(1, "topic {topic}/{id}/{salt}")
	for seq := from; seq <= uint64(m.n)+1; seq++ {
		r := &gateway.Record{Kind: gateway.DeliveryRecord, Uplink: 3, State: gateway.Forwarded, First: 1, Last: uint64(m.n), Count: uint64(m.n)}
		switch {
		case seq == 0:
			if err := fn(0, l.records[0]); err != nil {
				return err
			}
			continue
		case seq <= uint64(m.n):
			id, salt, topic, payload := m.message(int(seq))
			r = &gateway.Record{Kind: gateway.DecisionRecord, ID: id, Set: 1, Outcomes: []gateway.Outcome{{Uplink: 3, State: gateway.Waiting, Left: gateway.Commitment("sluice left v1", &salt, []byte(topic), payload)}}}
		}
		if err := fn(seq, gateway.AppendRecord(nil, r)); err != nil {
			return err
		}
	}
	return nil
}

func (m *many) Read(p []byte) (int, error) {
	if len(m.line) == 0 {
		if m.at++; m.at > m.n {
			return 0, io.EOF
		}
		_, _, topic, payload := m.message(m.at)
		m.line, _ = json.Marshal(map[string]any{"topic": topic, "payload_base64": payload})
		m.line = append(m.line, '\n')
	}
	n := copy(p, m.line)
	m.line = m.line[n:]
	return n, nil
}

// BenchmarkReconcile compares a capture of 300,000 messages and tells the memory in use at its end.
func BenchmarkReconcile(b *testing.B) {
	const n = 300_000
	identity, err := gateway.NewIdentity(gateway.IdentityConfig{Mode: "topic", Template: "{topic}/{id}/{salt}"}, "g")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		m := &many{n: n}
		r, err := Reconcile(b.Context(), m, m, ReconcileOptions{Uplink: "cloud", Identity: identity})
		if err != nil || !r.OK || r.Matched != n {
			b.Fatalf("%+v, %v", r, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/n, "µs/message")
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		if _, after, ok := strings.Cut(string(status), "VmHWM:"); ok {
			var kib float64
			fmt.Sscan(after, &kib)
			b.ReportMetric(kib/1024, "MiB-peak")
		}
	}
}

// partialCapture is a captureLog that begins with a record behind its only change record, and lost some.
type partialCapture struct {
	*captureLog
	next  uint64
	holes []Range
}

func (l *partialCapture) Records(from uint64, fn func(uint64, []byte) error) error {
	if from < l.next {
		return errors.New("trimmed")
	}
	return l.captureLog.Records(from, func(seq uint64, record []byte) error {
		for _, h := range l.holes {
			if h[0] <= seq && seq <= h[1] {
				return nil
			}
		}
		return fn(seq, record)
	})
}

func (l *partialCapture) Start() (uint64, []tlog.Hash, []uint64) { return l.next, nil, []uint64{0} }
func (l *partialCapture) Kept(seq uint64) []byte                 { return l.records[seq] }

func TestWhatIsNotThereIsNotComparedAndNamed(t *testing.T) {
	l := usualLog() // decisions are records 1 to 40
	for _, c := range []struct {
		name         string
		holes        []Range
		lines        []string
		from         *Bound
		off, missing uint64
		not          []Range
	}{
		{"what is here", nil, l.sent[20:], nil, 0, 0, []Range{{0, 19}}},
		{"what is here, one not captured", nil, slices.Delete(slices.Clone(l.sent[20:]), 5, 6), nil, 0, 1, []Range{{0, 19}}},
		{"from where it is not any more", nil, l.sent[20:], &Bound{Seq: 3}, 0, 1, []Range{{0, 19}}}, // record 20 is here and was forwarded
		{"what is not here", nil, l.sent, nil, 19, 0, []Range{{0, 19}}},
		{"with a hole", []Range{{25, 29}}, l.sent[20:], nil, 5, 0, []Range{{0, 19}, {25, 29}}},
		{"with a hole, not captured", []Range{{25, 29}}, slices.Delete(slices.Clone(l.sent[20:]), 4, 9), nil, 0, 0, []Range{{0, 19}, {25, 29}}},
	} {
		r := reconciled(t, &partialCapture{l, 20, c.holes}, c.lines, func(o *ReconcileOptions) { o.From = c.from })
		if r.OffRecordCount != c.off || r.MissingCount != c.missing || r.AlteredCount != 0 || r.OK != (c.off+c.missing == 0) || r.Trimmed != 20 || !slices.Equal(r.NotCompared, c.not) {
			t.Errorf("%s: %+v", c.name, r)
		}
		for _, d := range r.OffRecord {
			if d.Why != "no decision that is here has this id" {
				t.Errorf("%s: %s", c.name, d.Why)
			}
		}
	}
}
