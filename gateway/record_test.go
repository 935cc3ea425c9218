package gateway

import (
	"bytes"
	"encoding/hex"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

func everyRecord() []Record {
	at := time.UnixMilli(1767225600123).UTC()
	return []Record{
		{Kind: DecisionRecord, Time: at, Trusted: true, ID: ID{1 << 63, 1}, Set: 300, Source: 7, Grade: Important, Personal: true, Sensitive: true,
			Received: at.Add(-time.Second), Input: [32]byte{1, 2},
			Findings: []Counted{{0, Pass, 1}, {300, Block, 1 << 30}},
			Plugins:  []PluginOutcome{{1, Hold, Core, 1000, true, 65535}, {2, Pass, Ungraded, 0, false, 0}},
			Outcomes: []Outcome{{0, Waiting, 3, Tokenize, ReasonPolicy, [32]byte{9}}, {1, Held, 0, Hold, ReasonPlugin, [32]byte{8}}, {31, Blocked, 0, Block, ReasonInternal, [32]byte{}}}},
		{Kind: DecisionRecord, Time: time.UnixMilli(-1).UTC(), Received: time.UnixMilli(0).UTC()},
		{Kind: DeliveryRecord, Time: at, Uplink: 31, First: 5, Last: 1 << 40, Count: 4, State: Forwarded},
		{Kind: ReleaseRecord, Time: at, First: 5, State: Rejected, Detail: []byte(`{"by":"officer"}`)},
		{Kind: ExpiryRecord, Time: at, Uplink: 1, First: 1, Last: 2, Count: 1, State: Dropped},
		{Kind: ChangeRecord, Time: at, Trusted: true, Set: 2, Detail: []byte(`{}`)},
		{Kind: EventRecord, Time: at, Set: 1, Detail: []byte(`{"event":"start"}`)},
	}
}

func TestARecordReadsAsItWasWritten(t *testing.T) {
	for _, want := range everyRecord() {
		b := AppendRecord([]byte("before"), &want)
		got := Record{Findings: make([]Counted, 3), Outcomes: make([]Outcome, 1), Detail: []byte("old"), Personal: true}
		if err := DecodeRecord(b[6:], &got); err != nil {
			t.Fatalf("%s: %v", want.Kind, err)
		}
		for _, r := range []*Record{&got, &want} { // empty and absent are the same
			if len(r.Findings) == 0 {
				r.Findings = nil
			}
			if len(r.Plugins) == 0 {
				r.Plugins = nil
			}
			if len(r.Outcomes) == 0 {
				r.Outcomes = nil
			}
			if len(r.Detail) == 0 {
				r.Detail = nil
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
}

func TestTheExampleOfThePackageDoc(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	r := Record{Kind: EventRecord, Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Trusted: true, Set: 1, Detail: []byte("{}")}
	b := AppendRecord(nil, &r)
	var text strings.Builder
	for i, c := range b {
		if i > 0 {
			text.WriteByte(' ')
		}
		text.WriteString(hex.EncodeToString([]byte{c}))
	}
	if !bytes.Contains(doc, []byte(text.String())) {
		t.Errorf("doc.go does not show %s", text.String())
	}
}

func TestWhatIsNoRecord(t *testing.T) {
	event := AppendRecord(nil, &Record{Kind: EventRecord, Set: 1, Detail: []byte("{}")})
	change := func(at int, to byte) []byte {
		b := bytes.Clone(event)
		b[at] = to
		return b
	}
	decision := AppendRecord(nil, &everyRecord()[0])
	for name, b := range map[string][]byte{
		"nothing":               nil,
		"another version":       change(0, 2),
		"no kind":               change(1, 0),
		"an unknown kind":       change(1, 7),
		"an unknown flag":       change(2, 8),
		"something behind":      append(bytes.Clone(event), 0),
		"a detail that is cut":  event[:len(event)-1],
		"a long form of a size": append(change(11, 0x81)[:12], 0, 2, '{', '}'),
		"a detail over the limit": append(bytes.Clone(event[:12]), 0x81, 0x80, 0x80, 0x80,
			0x01),
	} {
		if err := DecodeRecord(b, new(Record)); err == nil {
			t.Errorf("%s: decodes", name)
		}
	}
	for n := range decision {
		if err := DecodeRecord(decision[:n], new(Record)); err == nil {
			t.Errorf("%d of %d bytes decode", n, len(decision))
		}
	}
}

func TestACommitmentTellsItsPartsApart(t *testing.T) {
	salt, other := [16]byte{1}, [16]byte{2}
	a := Commitment("sluice left v1", &salt, []byte("ab"), []byte("c"))
	long := bytes.Repeat([]byte("x"), 10_000)
	for name, b := range map[string][32]byte{
		"another split": Commitment("sluice left v1", &salt, []byte("a"), []byte("bc")),
		"another salt":  Commitment("sluice left v1", &other, []byte("ab"), []byte("c")),
		"another label": Commitment("sluice input v1", &salt, []byte("ab"), []byte("c")),
		"fewer parts":   Commitment("sluice left v1", &salt, []byte("abc")),
		"a long part":   Commitment("sluice left v1", &salt, long),
	} {
		if a == b {
			t.Errorf("%s makes the same commitment", name)
		}
	}
	if a != Commitment("sluice left v1", &salt, []byte("ab"), []byte("c")) {
		t.Error("the same parts make another commitment")
	}
}

func TestAnIDReadsAsItWasWritten(t *testing.T) {
	id := ID{0xfedcba9876543210, 7}
	if got, err := ParseID(id.String()); got != id || err != nil {
		t.Errorf("%v reads as %v: %v", id, got, err)
	}
	for _, s := range []string{"", "0", strings.Repeat("g", 32), strings.Repeat("0", 34)} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("%q is an id", s)
		}
	}
}

func TestWordsReadAsTheyAreWritten(t *testing.T) {
	for a := Pass; a <= Block; a++ {
		if got, err := ParseAction(a.String()); got != a || err != nil {
			t.Errorf("%s reads as %s", a, got)
		}
	}
	for g := General; g <= Core; g++ {
		if got, err := ParseGrade(g.String()); got != g || err != nil {
			t.Errorf("%s reads as %s", g, got)
		}
	}
	for r := NoReason; r <= lastReason; r++ {
		if strings.HasPrefix(r.String(), "reason(") {
			t.Errorf("reason %d has no word", r)
		}
	}
	var totals Totals
	for s := Waiting; s <= Received; s++ {
		if strings.HasPrefix(s.String(), "state(") || totals.Of(s) == nil {
			t.Errorf("state %d has no word or no counter", s)
			continue
		}
		*totals.Of(s)++
	}
	if totals.Of(NoState) != nil || totals.Identity() {
		t.Error("one message in nine states adds up")
	}
	if totals.Received = 9; !totals.Identity() {
		t.Error("nine messages in nine states do not add up")
	}
	for _, s := range []string{Action(99).String(), Grade(99).String(), Reason(99).String(), State(99).String(), RecordKind(99).String()} {
		if !strings.Contains(s, "(99)") {
			t.Errorf("an unknown number is called %q", s)
		}
	}
}
