package journal

import (
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

func TestABodyBelongsToOneRecordOnly(t *testing.T) {
	value := func(r gateway.Record) []byte { return gateway.AppendRecord(make([]byte, hashSize), &r) }
	id, other := gateway.ID{Incarnation: 3, Counter: 9}, gateway.ID{Incarnation: 3, Counter: 8}
	decision := value(gateway.Record{Kind: gateway.DecisionRecord, ID: id})
	release := value(gateway.Record{Kind: gateway.ReleaseRecord, Detail: []byte("{}")})
	event := value(gateway.Record{Kind: gateway.EventRecord, Detail: []byte("{}")})
	own, strange, control := content{id: id}, content{id: other}, content{id: id, header: header{flags: flagControl}}
	for _, c := range []struct {
		name   string
		record []byte
		at     uint64
		body   content
		want   bool
	}{
		{"its own", decision, 5, own, true},
		{"another message's", decision, 5, strange, false},
		{"behind the record of another entry", decision, 6, own, false},
		{"of the gateway itself behind a decision", decision, 5, control, false},
		{"sent again by a release", release, 5, strange, true},
		{"of the gateway itself", event, 5, control, true},
		{"a device's behind an event", event, 5, own, false},
		{"without a record", nil, 5, own, false},
		{"behind a record that is cut off", decision[:hashSize+20], 5, own, false},
	} {
		o := ownerOf(5, c.record)
		if got := o.has(c.at, &c.body); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	var none owner
	if none.has(0, &own) {
		t.Error("a body belongs to no record")
	}
}
