package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// Widths of the demo's table in characters.
const (
	sentWidth  = 46
	gradeWidth = 10
	whyWidth   = 27
)

func (d *demo) head(cfg *Config) {
	fmt.Fprintf(d.out, "%d vehicles → sluice (catalogs %s, plugin geofence) → cloud; the uplink is cut on the way\n\n", demoVehicles, "vehicle and site")
	fmt.Fprintf(d.out, "        %s %s %s %s\n", pad("device sent", sentWidth), pad("grade", gradeWidth), pad("why", whyWidth), "cloud saw")
}

// line shows one message: what left the device beside what the cloud got. The book is locked.
func (d *demo) line(m *demoMessage, topic string, payload []byte) {
	set := d.gate.gateway.Set()
	if set == nil {
		return
	}
	dec := set.Explain(&gateway.Message{Source: "vehicles", Protocol: gateway.MQTT, Client: m.Client, Topic: m.Topic, Payload: m.Payload, Received: time.Now()}, time.Now(), true)
	sent, saw := telling(m.Payload, payload)
	if topic == "" {
		saw = "nothing"
	}
	grade := dec.Grade.String()
	if dec.Personal && dec.Grade != gateway.Ungraded {
		grade += " P"
	}
	fmt.Fprintf(d.out, "%5.1fs  %s %s %s %s\n", time.Since(d.began).Seconds(), pad(sent, sentWidth), pad(grade, gradeWidth), pad(why(set, dec), whyWidth), cut(saw, 60))
}

// why names the category that decided the message and the action.
func why(set *gateway.VersionSet, dec *gateway.Decision) string {
	best, action := -1, gateway.Pass
	for i := range dec.Class.Findings {
		if a := dec.ActionOn(i); best < 0 || gateway.Stricter(a, action) != action {
			best, action = i, a
		}
	}
	if dec.Action == gateway.Block && len(dec.Uplinks) > 0 && action != gateway.Block {
		return "block: " + dec.Uplinks[0].Reason.String()
	}
	if len(dec.Class.Unknown) > 0 && !action.OnMessage() {
		return "unlisted field: remove"
	}
	if best < 0 {
		return dec.Action.String()
	}
	return strings.TrimPrefix(set.Classifier.Categories()[dec.Class.Findings[best].Category].ID, "VEH-") + ": " + action.String()
}

// telling picks the fields in which two bodies differ, the first that fit, from both.
func telling(sent, saw []byte) (string, string) {
	a, inA := flat(sent)
	b, inB := flat(saw)
	if a == nil {
		return fmt.Sprintf("%q", cut(string(sent), sentWidth-4)), ""
	}
	if gone := others(inA, inB); b != nil && len(gone) > 0 { // one is enough to see what becomes of keys
		a["a key"] = gone[0]
		if made := others(inB, inA); len(made) > 0 {
			b["a key"] = made[0]
		}
	}
	var names []string
	for name := range a {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool {
		x, y := a[names[i]] != b[names[i]], a[names[j]] != b[names[j]]
		if x != y {
			return x
		}
		if p, q := telltale(names[i]), telltale(names[j]); p != q {
			return p < q
		}
		return names[i] < names[j]
	})
	var left, right []string
	width := 0
	for _, name := range names {
		one := name + " " + a[name]
		if width += len([]rune(one)) + 3; width > sentWidth && len(left) > 0 {
			break
		}
		left = append(left, one)
		switch v, ok := b[name]; {
		case !ok:
			right = append(right, name+" –")
		case v == a[name]:
			right = append(right, name+" "+v)
		default:
			right = append(right, name+" "+cut(v, 14))
		}
	}
	return strings.Join(left, " · "), strings.Join(right, " · ")
}

// telltale orders the fields that everybody recognises before the others.
func telltale(name string) int {
	order := []string{"vin", "a key", "lat", "lon", "plate", "phone"}
	if i := slices.Index(order, name); i >= 0 {
		return i
	}
	return len(order)
}

// others returns the texts of a that are not in b, in order.
func others(a, b []string) []string {
	a = slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
	slices.Sort(a)
	return a
}

// flat lists the leaves of a JSON body by their last key, and the keys of what holds them; nil when it is none.
func flat(body []byte) (out map[string]string, holders []string) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return nil, nil
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, nil
	}
	out = map[string]string{}
	var walk func(name string, v any)
	walk = func(name string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				if _, container := e.(map[string]any); container {
					holders = append(holders, k)
				}
				walk(k, e)
			}
		case []any:
			out[name] = fmt.Sprintf("[%d]", len(v))
		default:
			out[name] = fmt.Sprint(v)
		}
	}
	walk("", v)
	return out, holders
}

func pad(s string, width int) string {
	s = cut(s, width)
	return s + strings.Repeat(" ", width-len([]rune(s)))
}

func cut(s string, width int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return '.'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return s
}

// progress says how things stand, once a second while the uplink is cut and while the backlog drains.
func (d *demo) progress(now time.Duration) {
	t := d.gate.journal.Totals()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.offline || t.Waiting > 2*demoRate {
		state := "waiting"
		if !d.offline {
			state = "draining"
		}
		fmt.Fprintf(d.out, "%5.1fs  %s %d · received %d · forwarded %d\n", now.Seconds(), state, t.Waiting, t.Received, t.Forwarded)
	}
}

// summary prints the end of the demo.
func (d *demo) summary(r demoResult) {
	yes := map[bool]string{true: "holds", false: "DOES NOT HOLD"}
	fmt.Fprintf(d.out, "\nreceived %d = forwarded %d + blocked %d + held %d + waiting %d  (identity %s, from %d signed records)\n",
		r.Received, r.Forwarded, r.Blocked, r.Held, r.Waiting, yes[r.Identity], r.Received)
	fmt.Fprintf(d.out, "acknowledged and lost %d · duplicates %d · sensitive values at the cloud %d\n", r.Lost, r.Duplicates, r.Leaks)
}
