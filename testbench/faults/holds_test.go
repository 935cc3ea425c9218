package main

import (
	"testing"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/journal"
	"github.com/sluice-edge/sluice/testbench/fleet"
)

// TestHoldsAreReadFromTheFiles reads what a journal wrote, without the journal's own reader.
func TestHoldsAreReadFromTheFiles(t *testing.T) {
	dir, data := t.TempDir(), t.TempDir()
	ring, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Ensure(keyring.AtRest, "at-rest"); err != nil {
		t.Fatal(err)
	}
	list, err := ring.AtRest()
	if err != nil {
		t.Fatal(err)
	}
	o := driverOptions(data)
	o.Keys = []journal.Key{{ID: list[0].Tag(), Secret: [32]byte(list[0].Secret())}}
	j, err := journal.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	source, err := j.Number("source", "bench")
	if err != nil {
		t.Fatal(err)
	}
	var seq uint64
	for _, hold := range []bool{false, true} {
		e := &gateway.Entry{ID: j.NextID(), Source: "bench", Grade: gateway.General, Waits: 1}
		outcome := gateway.Outcome{Action: gateway.Pass, Reason: gateway.ReasonPolicy, State: gateway.Waiting}
		topic := "v1/car/telemetry"
		if hold {
			e.Waits, e.Holds, topic = 0, 1, ""
			outcome.Action, outcome.State = gateway.Hold, gateway.Held
		}
		r := gateway.Record{Kind: gateway.DecisionRecord, ID: e.ID, Set: 1, Source: uint16(source), Grade: e.Grade, Outcomes: []gateway.Outcome{outcome}}
		e.Record = gateway.AppendRecord(nil, &r)
		e.Outlets = []gateway.Outlet{{Uplinks: 1, Hold: hold, Topic: topic, Payload: []byte("body")}}
		done := make(chan error, 1)
		j.Append([]*gateway.Entry{e}, func(first uint64, err error) {
			seq = first
			done <- err
		})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	found := map[uint64]string{}
	read := func(keys string) error {
		return eachHold(data, keys, func(seq uint64, sealed []byte) { found[seq] = string(sealed) })
	}
	if err := read(dir); err != nil || len(found) != 1 || found[seq] != "body" {
		t.Errorf("%v, %v, want only record %d", err, found, seq)
	}
	other, err := keyring.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Ensure(keyring.AtRest, "at-rest"); err != nil {
		t.Fatal(err)
	}
	if read(other.Dir()) == nil {
		t.Error("holds are read with another at-rest key")
	}
}

// TestWhatTheBedSendsIsAsItSays holds the traffic of the beds to their comments.
func TestWhatTheBedSendsIsAsItSays(t *testing.T) {
	n := map[gateway.State]int{}
	for _, k := range stayingKinds {
		n[fate(k)]++
		if stays := fleet.New(1, 1, bodySize).Of(k).Expect == fleet.Stays; stays != (fate(k) != gateway.Forwarded) {
			t.Errorf("%s: to stay %v, and ends as %s", k, stays, fate(k))
		}
	}
	if len(stayingKinds) != 32 || n[gateway.Held] != 2 || n[gateway.Blocked] != 2 {
		t.Errorf("%d kinds: %v", len(stayingKinds), n)
	}
}
