package gateway

import (
	"bytes"
	"testing"
	"time"
)

// FuzzDecodeRecord feeds the record reader: it never panics, and accepts exactly what AppendRecord writes.
func FuzzDecodeRecord(f *testing.F) {
	now := time.UnixMilli(1_790_000_000_000)
	for _, r := range []Record{
		{Kind: DecisionRecord, Time: now, Received: now, Trusted: true, Personal: true, ID: ID{1, 2}, Set: 3, Source: 300, Grade: Core, Input: [32]byte{1},
			Findings: []Counted{{7, Remove, 1}, {200, Pass, 90000}}, Plugins: []PluginOutcome{{1, Pass, Important, 5, true, 2}},
			Outcomes: []Outcome{{Uplink: 0, State: Waiting, Action: Encrypt, Reason: ReasonPolicy, Left: [32]byte{2}}, {Uplink: 31, State: Blocked, Action: Block, Reason: ReasonCore}}},
		{Kind: DeliveryRecord, Time: now, Uplink: 3, First: 1, Last: 1 << 40, Count: 9, State: Forwarded},
		{Kind: ChangeRecord, Time: now, Set: 4, Detail: []byte(`{"policy":"x"}`)},
		{Kind: EventRecord, Time: now, Detail: []byte(`{}`)},
	} {
		f.Add(AppendRecord(nil, &r))
	}
	f.Add([]byte{recordVersion})
	var r Record
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := DecodeRecord(b, &r); err != nil {
			return
		}
		if again := AppendRecord(nil, &r); !bytes.Equal(again, b) {
			t.Fatalf("encoded again %x, was %x", again, b)
		}
	})
}
