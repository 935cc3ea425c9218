package journal

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// next takes up to n messages from a feed and returns their topics.
func next(t *testing.T, f gateway.Feed, n int) (list []*gateway.Outbound, topics []string) {
	t.Helper()
	for len(list) < n {
		out, err := f.Next(n-len(list), 1<<20, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(out) == 0 {
			break
		}
		list = append(list, out...)
	}
	for _, o := range list {
		topics = append(topics, o.Topic)
	}
	return list, topics
}

func TestUrgentMessagesGoFirstAndTheGatewaysOwnBeforeThem(t *testing.T) {
	j := openTest(t, testOptions(t.TempDir()))
	for i, p := range []byte{0, 1, 0, 3, 2, 3} {
		commit(t, j, prioritized(message(j, "bench", gateway.General, 1, 0, 0, fmt.Sprintf("p%d-%d", p, i), nil), p))
	}
	record := gateway.AppendRecord(nil, &gateway.Record{Kind: gateway.EventRecord, Detail: []byte(`{}`)})
	commit(t, j, &gateway.Entry{Record: record, ID: j.NextID(), Control: true, Waits: 1, Outlets: []gateway.Outlet{{Uplinks: 1, Topic: "epoch", Payload: []byte("key")}}})
	f := j.Feed(0)
	list, topics := next(t, f, 4)
	if got := fmt.Sprint(topics); got != "[epoch p3-3 p3-5 p2-4]" {
		t.Fatalf("sent %s", got)
	}
	commit(t, j, prioritized(message(j, "bench", gateway.General, 1, 0, 0, "late", nil), 3))
	f.Return(list[2:3])
	more, topics := next(t, f, 10)
	if got := fmt.Sprint(topics); got != "[p3-5 late p1-1 p0-0 p0-2]" {
		t.Fatalf("sent %s", got)
	}
	forward(t, f, append(append(more, list[:2]...), list[3]))
	if got := j.Totals(); got.Forwarded != 7 || got.Waiting != 0 {
		t.Fatalf("totals %+v", got)
	}
}

func TestLiveMessagesHaveTheirShareWhileABacklogDrains(t *testing.T) {
	j := openTest(t, testOptions(t.TempDir()))
	j.Limit(0, Limits{LiveShare: 0.25})
	const old, live = 600, 200
	for i := range old {
		commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, fmt.Sprint("old ", i), nil))
	}
	f := j.Feed(0)
	f.Begin()
	for i := range live {
		e := message(j, "bench", gateway.General, 1, 0, 0, fmt.Sprint("live ", i), nil)
		e.Retain = i%10 == 9 // the last word on a topic stays in order
		commit(t, j, e)
	}
	var order []string
	for range 8 { // 400 messages
		list, topics := next(t, f, 50)
		forward(t, f, list)
		order = append(order, topics...)
	}
	oldSeen, liveSeen := 0, 0
	for _, topic := range order {
		var i int
		if n, _ := fmt.Sscanf(topic, "old %d", &i); n == 1 {
			if i != oldSeen {
				t.Fatalf("old message %d after %d", i, oldSeen-1)
			}
			oldSeen++
			continue
		}
		fmt.Sscanf(topic, "live %d", &i)
		if i != liveSeen+liveSeen/9 {
			t.Fatalf("live message %d, %d were seen", i, liveSeen)
		}
		liveSeen++
	}
	if liveSeen < 90 || liveSeen > 110 || oldSeen+liveSeen != 400 {
		t.Fatalf("%d old and %d live messages of %d", oldSeen, liveSeen, len(order))
	}
	list, _ := next(t, f, 1000)
	forward(t, f, list)
	if got := j.Totals(); got.Forwarded != old+live || got.Waiting != 0 {
		t.Fatalf("totals %+v", got)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	mustCheck(t, j.opt.Dir)
}

func TestACommitThatHoldsLittleLingers(t *testing.T) {
	for _, c := range []struct {
		name string
		more func(j *Journal)
		min  time.Duration
		max  time.Duration
	}{
		{"alone", func(*Journal) {}, 300 * time.Millisecond, 2 * time.Second},
		{"with somebody in a hurry", func(j *Journal) { j.Hurry() }, 0, 250 * time.Millisecond},
		{"with much behind it", func(j *Journal) {
			j.Append([]*gateway.Entry{message(j, "bench", gateway.General, 1, 0, 0, "v1", make([]byte, lingerBytes))}, func(uint64, error) {})
		}, 0, 250 * time.Millisecond},
		{"with the end of the journal", func(j *Journal) { go j.Close() }, 0, 250 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := testOptions(t.TempDir())
			o.Linger = 400 * time.Millisecond
			j := openTest(t, o)
			e := message(j, "bench", gateway.General, 1, 0, 0, "v1", nil)
			j.Hurry()
			commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", nil))
			began := time.Now()
			done := make(chan error, 1)
			j.Append([]*gateway.Entry{e}, func(_ uint64, err error) { done <- err })
			c.more(j)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took < c.min || took > c.max {
				t.Fatalf("took %v", took)
			}
		})
	}
}

func TestASettlementSharesTheLingeringCommit(t *testing.T) {
	o := testOptions(t.TempDir())
	o.Linger = 200 * time.Millisecond
	commits := 0
	o.OnCommit = func(time.Duration, int, int) { commits++ }
	j := openTest(t, o)
	commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", nil))
	f, out := read(t, j, 0, 1)
	before := commits
	settled := make(chan error, 1)
	go func() { settled <- f.Settle(context.Background(), out, gateway.Forwarded, "") }()
	for j.queued() == 0 {
		time.Sleep(time.Millisecond)
	}
	commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", nil))
	if err := <-settled; err != nil || commits != before+1 {
		t.Fatalf("%d commits, %v", commits-before, err)
	}
}

// queued returns how many batches wait for the committer.
func (j *Journal) queued() int {
	j.qmu.Lock()
	defer j.qmu.Unlock()
	return len(j.queue) + len(j.urgent)
}
