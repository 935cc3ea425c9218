package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func number(n uint64) (i id) {
	binary.BigEndian.PutUint64(i[8:], n)
	return i
}

func opened(t *testing.T, name string, size int) *window {
	t.Helper()
	w, err := openWindow(name, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.close() })
	return w
}

func fill(t *testing.T, w *window, from, to uint64) {
	t.Helper()
	for n := from; n <= to; n++ {
		if err := w.add(number(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.sync(); err != nil {
		t.Fatal(err)
	}
}

// holds reports whether exactly the numbers from first to last of 1 to most are in the window.
func holds(w *window, first, last, most uint64) error {
	for n := uint64(1); n <= most; n++ {
		if want := n >= first && n <= last; w.has(number(n)) != want {
			return fmt.Errorf("has(%d) is %v", n, !want)
		}
	}
	if len(w.seen) != int(last-first+1) {
		return fmt.Errorf("%d ids in memory", len(w.seen))
	}
	return nil
}

func TestAWindowHoldsTheLastIDsAcrossRestarts(t *testing.T) {
	name := filepath.Join(t.TempDir(), "w")
	w := opened(t, name, 10)
	fill(t, w, 1, 7)
	if err := holds(w, 1, 7, 30); err != nil {
		t.Error(err)
	}
	w = opened(t, name, 10)
	fill(t, w, 8, 25)
	if err := holds(w, 16, 25, 30); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		size  int
		first uint64
	}{{10, 16}, {4, 22}} { // in this order: a narrower window forgets for good
		if err := holds(opened(t, name, c.size), c.first, 25, 30); err != nil {
			t.Errorf("opened again with %d: %v", c.size, err)
		}
	}
	if info, err := os.Stat(name); err != nil || info.Size() > 10*slotSize {
		t.Errorf("%v, %v", info, err)
	}
	wide := opened(t, name, 100)
	fill(t, wide, 26, 30)
	if wide.next < 5 || !wide.has(number(30)) || !wide.has(number(25)) {
		t.Error("a wider window forgets")
	}
}

func TestTheOrderOfArrivalCountsNotThatOfIDs(t *testing.T) {
	w := opened(t, filepath.Join(t.TempDir(), "w"), 4)
	for _, n := range []uint64{1_000_000, 3, 1_000_001, 4, 5, 1_000_002} { // a backlog drains beside live messages
		fill(t, w, n, n)
	}
	for n, want := range map[uint64]bool{1_000_000: false, 3: false, 1_000_001: true, 4: true, 5: true, 1_000_002: true} {
		if w.has(number(n)) != want {
			t.Errorf("has(%d) is %v", n, !want)
		}
	}
}

func TestATornSlotIsForgotten(t *testing.T) {
	name := filepath.Join(t.TempDir(), "w")
	fill(t, opened(t, name, 8), 1, 5)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[3*slotSize+12]++
	if err := os.WriteFile(name, append(data, "torn"...), 0o600); err != nil {
		t.Fatal(err)
	}
	w := opened(t, name, 8)
	if w.has(number(3)) || !w.has(number(1)) || !w.has(number(5)) || len(w.seen) != 4 {
		t.Errorf("%v", w.seen)
	}
}

const anID = "0102030405060708000000000000000a"

func TestWhereTheIDIs(t *testing.T) {
	field := identity{"field", "_sluice_id", "_sluice_salt", "_sluice_body"}
	event := identity{mode: "cloudevents"}
	for _, c := range []struct {
		from          identity
		payload, body string
	}{
		{event, `{"specversion":"1.0","id":"` + anID + `","source":"/sluice/g","type":"t","sluicesalt":"00","datacontenttype":"application/json","data":{"v":1}}`, `{"v":1}`},
		{field, `{"_sluice_id":"` + anID + `","_sluice_salt":"00","v":1.50}`, `{"v":1.50}`},
		{field, `{"_sluice_id":"` + anID + `","_sluice_salt":"00","_sluice_body":[1]}`, `[1]`},
		{field, `{"_sluice_id":"` + anID + `","_sluice_salt":"00"}`, `{}`},
	} {
		got, body, err := c.from.take([]byte(c.payload))
		if want, _ := parseID(anID); err != nil || got != want || string(body) != c.body {
			t.Errorf("%s: %x %s, %v", c.payload, got, body, err)
		}
	}
	for _, payload := range []string{``, `7`, `{}`, `{"id":7}`, `{"id":"x"}`, `{"_sluice_id":"` + anID + `"`, `{"id":"` + anID[1:] + `"}`, `{"id":"` + anID[1:] + `x"}`} {
		for _, from := range []identity{field, event} {
			if got, _, err := from.take([]byte(payload)); err == nil {
				t.Errorf("%s: %x", payload, got)
			}
		}
	}
}

func TestEachIDIsProcessedOnce(t *testing.T) {
	var out, log bytes.Buffer
	c := &consumer{from: identity{"field", "_sluice_id", "_sluice_salt", "_sluice_body"}, window: opened(t, filepath.Join(t.TempDir(), "w"), 8), out: &out, log: &log}
	one := `{"_sluice_id":"` + anID + `","_sluice_salt":"00","v":1}`
	for _, m := range []struct{ topic, payload string }{{"v1/a", one}, {"v1/a", one}, {"v1/a", strings.Replace(one, "0a", "0b", 1)}, {"vgw/$sluice/epoch/x/y", `{}`}, {"v1/a", "no id"}, {"v1/a", one}} {
		if err := c.take(m.topic, []byte(m.payload)); err != nil {
			t.Fatal(err)
		}
	}
	if c.received != 5 || c.processed != 3 || c.duplicates != 2 || c.nameless != 1 || strings.Count(out.String(), "\n") != 3 || strings.Count(out.String(), anID) != 1 {
		t.Errorf("%+v\n%s", c, out.String())
	}
}
