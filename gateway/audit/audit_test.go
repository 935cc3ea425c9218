package audit

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/crypto/signed"
	"github.com/sluice-edge/sluice/gateway"
)

// memoryLog is a log in memory, to be tampered with.
type memoryLog struct {
	records     [][]byte
	hashes      []tlog.Hash
	checkpoints []checkpoint
}

type checkpoint struct {
	size uint64
	text []byte
}

func (l *memoryLog) Records(from uint64, fn func(uint64, []byte) error) error {
	for seq := from; seq < uint64(len(l.records)); seq++ {
		if err := fn(seq, l.records[seq]); err != nil {
			return err
		}
	}
	return nil
}

func (l *memoryLog) Checkpoints(fn func(uint64, []byte) error) error {
	for _, c := range l.checkpoints {
		if err := fn(c.size, c.text); err != nil {
			return err
		}
	}
	return nil
}

func (l *memoryLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, l.hashes[i])
	}
	return out, nil
}

func (l *memoryLog) add(t *testing.T, r gateway.Record) {
	t.Helper()
	r.Time = time.UnixMilli(1_790_000_000_000)
	r.Received = r.Time
	record := gateway.AppendRecord(nil, &r)
	h, err := tlog.StoredHashes(int64(len(l.records)), record, l)
	if err != nil {
		t.Fatal(err)
	}
	l.records, l.hashes = append(l.records, record), append(l.hashes, h...)
}

func (l *memoryLog) sign(t *testing.T, s *signed.Signer) {
	t.Helper()
	root, err := tlog.TreeHash(int64(len(l.records)), l)
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.SignCheckpoint(signed.Checkpoint{Size: uint64(len(l.records)), Root: root})
	if err != nil {
		t.Fatal(err)
	}
	l.checkpoints = append(l.checkpoints, checkpoint{uint64(len(l.records)), text})
}

// goodLog has two version sets, 300 decisions and three checkpoints; the last three records are not signed.
func goodLog(t *testing.T) (*memoryLog, *signed.Verifier) {
	t.Helper()
	s, err := signed.NewSigner("vgw-0001", [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	v, err := signed.NewVerifier(s.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	l := new(memoryLog)
	l.add(t, gateway.Record{Kind: gateway.EventRecord, Detail: []byte(`{}`)})
	for set := range uint64(3) {
		l.add(t, gateway.Record{Kind: gateway.ChangeRecord, Set: set + 1, Detail: []byte(`{}`)})
		for n := range uint64(100) {
			l.add(t, gateway.Record{Kind: gateway.DecisionRecord, Set: set + 1, ID: gateway.ID{Incarnation: 1, Counter: set<<8 | n}})
		}
		l.sign(t, s)
	}
	for range 3 {
		l.add(t, gateway.Record{Kind: gateway.EventRecord, Detail: []byte(`{}`)})
	}
	return l, v
}

func verify(t *testing.T, l *memoryLog, v *signed.Verifier) *Report {
	t.Helper()
	r, err := Verify(t.Context(), l, v)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAGoodLogIsGood(t *testing.T) {
	l, v := goodLog(t)
	r := verify(t, l, v)
	if !r.OK || r.Records != 300 || r.TreeSize != 307 || r.Unsigned != 3 || r.Checkpoint != string(l.checkpoints[2].text) {
		t.Fatalf("report %+v", r)
	}
	text, err := json.Marshal(r)
	if err != nil || !strings.HasPrefix(string(text), `{"ok":true,"records":300,"tree_size":307,"checkpoint":"vgw-0001\n304\n`) || !strings.HasSuffix(string(text), `"errors":[]}`) {
		t.Fatalf("json %s, %v", text, err)
	}
}

func TestEveryKindOfTamperingIsReported(t *testing.T) {
	for name, tamper := range map[string]func(l *memoryLog){
		"a signed record altered":         func(l *memoryLog) { l.records[50][9] ^= 1 },
		"a record cut":                    func(l *memoryLog) { l.records[50] = l.records[50][:20] },
		"a signed record taken out":       func(l *memoryLog) { l.records = append(l.records[:50:50], l.records[51:]...) },
		"the signed tail cut off":         func(l *memoryLog) { l.records = l.records[:200] },
		"two records exchanged":           func(l *memoryLog) { l.records[5], l.records[6] = l.records[6], l.records[5] },
		"a checkpoint altered":            func(l *memoryLog) { l.checkpoints[1].text[12] ^= 1 },
		"a checkpoint in another's place": func(l *memoryLog) { l.checkpoints[1].text = l.checkpoints[0].text },
		"a version set not announced":     func(l *memoryLog) { l.records = append(l.records[:1:1], l.records[2:]...); l.checkpoints = nil },
	} {
		t.Run(name, func(t *testing.T) {
			l, v := goodLog(t)
			tamper(l)
			if r := verify(t, l, v); r.OK || len(r.Errors) == 0 {
				t.Fatalf("report %+v", r)
			}
		})
	}
}

func TestAReportListsABoundedNumberOfErrors(t *testing.T) {
	l, v := goodLog(t)
	for i := range l.records {
		l.records[i] = []byte{0}
	}
	if r := verify(t, l, v); r.OK || len(r.Errors) != maxErrors+1 {
		t.Fatalf("%d errors", len(r.Errors))
	}
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	l, v := goodLog(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, l, v); !errors.Is(err, context.Canceled) {
		t.Fatalf("err = %v", err)
	}
}

func TestAProofHoldsOfflineAndOnlyForItsRecord(t *testing.T) {
	l, v := goodLog(t)
	for _, seq := range []uint64{0, 1, 57, 255, 256, 303} {
		p, err := Prove(l, seq)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var again Proof
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatal(err)
		}
		if _, err := CheckProof(&again, v); err != nil {
			t.Fatalf("record %d: %v", seq, err)
		}
		again.Seq ^= 1
		if _, err := CheckProof(&again, v); err == nil {
			t.Fatalf("record %d: also proved for another seq", seq)
		}
		again.Seq ^= 1
		again.Record[8] ^= 1
		if _, err := CheckProof(&again, v); err == nil {
			t.Fatalf("record %d: also proved for another record", seq)
		}
	}
	if _, err := Prove(l, 305); !errors.Is(err, ErrUnsigned) {
		t.Fatalf("err = %v", err)
	}
}

// trimmedLog is a log whose first records are gone.
type trimmedLog struct {
	*memoryLog
	next    uint64
	roots   []tlog.Hash
	changes []uint64
}

func (l *trimmedLog) Records(from uint64, fn func(uint64, []byte) error) error {
	if from < l.next {
		return errors.New("trimmed")
	}
	return l.memoryLog.Records(from, fn)
}

func (l *trimmedLog) Start() (uint64, []tlog.Hash, []uint64) { return l.next, l.roots, l.changes }

func (l *trimmedLog) Kept(seq uint64) []byte {
	if slices.Contains(l.changes, seq) {
		return l.records[seq]
	}
	return nil
}

// trim takes the first n records off a log, keeps its newest checkpoint at or before them and its change records.
func (l *memoryLog) trim(n uint64) *trimmedLog {
	t := &trimmedLog{memoryLog: l, next: n}
	var c compact
	for seq, record := range l.records[:n] {
		c.push(tlog.RecordHash(record))
		if record[1] == byte(gateway.ChangeRecord) {
			t.changes = append(t.changes, uint64(seq))
		}
	}
	t.roots = c.roots
	for len(l.checkpoints) > 1 && l.checkpoints[1].size <= n {
		l.checkpoints = l.checkpoints[1:]
	}
	return t
}

func TestATrimmedLogIsCheckedFromWhereItBegins(t *testing.T) {
	for _, n := range []uint64{1, 101, 102, 150, 256, 304, 306} {
		l, v := goodLog(t)
		r, err := Verify(t.Context(), l.trim(n), v)
		if err != nil || !r.OK || r.Trimmed != n || r.TreeSize != 307 || r.Unsigned != 3 || len(r.TrimmedRoot) != 64 {
			t.Fatalf("from %d: %+v, %v", n, r, err)
		}
	}
	for name, tamper := range map[string]func(l *trimmedLog){
		"a root altered":            func(l *trimmedLog) { l.roots[0][0] ^= 1 },
		"a root missing":            func(l *trimmedLog) { l.roots = l.roots[1:] },
		"another beginning":         func(l *trimmedLog) { l.next++ },
		"its change record missing": func(l *trimmedLog) { l.changes = nil },
		"no change record":          func(l *trimmedLog) { l.changes = []uint64{0} },
		"a change record altered":   func(l *trimmedLog) { l.records[1] = l.records[102] },
		"the old checkpoint of another tree": func(l *trimmedLog) {
			s, _ := signed.NewSigner("vgw-0001", [32]byte{1})
			l.checkpoints[0].text, _ = s.SignCheckpoint(signed.Checkpoint{Size: l.checkpoints[0].size, Root: [32]byte{9}})
		},
		"a record altered": func(l *trimmedLog) { l.records[200][9] ^= 1 },
	} {
		l, v := goodLog(t)
		trimmed := l.trim(150)
		tamper(trimmed)
		if r, err := Verify(t.Context(), trimmed, v); err != nil || r.OK {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestTheBeginningOfALogLeadsToWhereTheRestBegins(t *testing.T) {
	l, v := goodLog(t)
	part, root, err := VerifyTo(t.Context(), l, 150, nil, v)
	if err != nil || !part.OK || part.TreeSize != 150 || part.Records != 147 {
		t.Fatalf("%+v, %v", part, err)
	}
	rest, err := Verify(t.Context(), l.trim(150), v)
	if err != nil || rest.TrimmedRoot != root || part.Records+rest.Records != 300 {
		t.Fatalf("%+v, %v; root %s", rest, err, root)
	}
	if part, _, err = VerifyTo(t.Context(), l, 400, nil, v); err != nil || part.OK {
		t.Fatalf("%+v, %v", part, err)
	}
}

// holedLog is a log whose records from first up to next are lost.
type holedLog struct {
	*memoryLog
	first, next uint64
}

func (l *holedLog) Records(from uint64, fn func(uint64, []byte) error) error {
	return l.memoryLog.Records(from, func(seq uint64, record []byte) error {
		if seq >= l.first && seq < l.next {
			return nil
		}
		return fn(seq, record)
	})
}

func (l *holedLog) Resume(_, seq uint64) (uint64, []tlog.Hash, bool) {
	var c compact
	for _, record := range l.records[:seq] {
		c.push(tlog.RecordHash(record))
	}
	return seq, c.roots, true
}

func TestAHoleOnTheRecordIsCountedAndAnyOtherIsAnError(t *testing.T) {
	for name, c := range map[string]struct {
		stated []Range
		lost   []Range
		wrong  string // "": the log is good
	}{
		"stated":                  {[]Range{{120, 139}}, []Range{{120, 139}}, ""},
		"stated piece by piece":   {[]Range{{130, 200}, {10, 20}, {115, 124}, {125, 129}}, []Range{{120, 139}}, ""},
		"in front not stated":     {[]Range{{130, 139}}, []Range{{130, 139}}, "records 120 to 129 are missing and no event says so"},
		"behind not stated":       {[]Range{{120, 129}}, []Range{{120, 129}}, "records 130 to 139 are missing and no event says so"},
		"one in the middle":       {[]Range{{120, 129}, {131, 139}}, []Range{{120, 129}, {131, 139}}, "records 130 to 130 are missing and no event says so"},
		"not stated":              {nil, nil, "records 120 to 139 are missing and no event says so"},
		"something else is":       {[]Range{{10, 119}, {140, 150}}, nil, "records 120 to 139 are missing and no event says so"},
		"a range without records": {[]Range{{139, 120}}, nil, "records 120 to 139 are missing and no event says so"},
	} {
		good := func(t *testing.T, r *Report) {
			t.Helper()
			var lost uint64
			for _, h := range c.lost {
				lost += h[1] - h[0] + 1
			}
			if r.OK != (c.wrong == "") || !r.OK && !slices.Equal(r.Errors, []string{c.wrong}) || !slices.Equal(r.Holes, c.lost) || r.Lost != lost {
				t.Fatalf("report %+v", r)
			}
		}
		event := func(t *testing.T) (*holedLog, *signed.Verifier) {
			l, v := goodLog(t)
			detail, err := json.Marshal(map[string]any{"event": "journal restated", "lost": c.stated})
			if err != nil {
				t.Fatal(err)
			}
			l.add(t, gateway.Record{Kind: gateway.EventRecord, Detail: detail})
			return &holedLog{l, 120, 140}, v
		}
		t.Run(name+", by the log itself", func(t *testing.T) {
			l, v := event(t)
			r, err := Verify(t.Context(), l, v)
			if err != nil {
				t.Fatal(err)
			}
			good(t, r)
		})
		t.Run(name+", by the rest of the log", func(t *testing.T) {
			l, v := event(t)
			rest, err := Verify(t.Context(), l.trim(150), v)
			if err != nil || !rest.OK || rest.Lost != 0 {
				t.Fatalf("%+v, %v", rest, err)
			}
			part, root, err := VerifyTo(t.Context(), l, 150, rest.Stated, v)
			if err != nil || root != rest.TrimmedRoot {
				t.Fatalf("root %s, want %s; %v", root, rest.TrimmedRoot, err)
			}
			good(t, part)
		})
	}
	l, v := goodLog(t)
	if part, _, err := VerifyTo(t.Context(), hidden{&holedLog{l, 120, 140}}, 150, []Range{{120, 139}}, v); err != nil || part.OK {
		t.Fatalf("a log that does not know its tree behind the hole: %+v, %v", part, err)
	}
}

// hidden is a log and nothing else.
type hidden struct{ Log }
