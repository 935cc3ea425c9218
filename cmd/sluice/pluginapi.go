package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/console"
	"github.com/sluice-edge/sluice/gateway/fleet"
	"github.com/sluice-edge/sluice/plugins/bundle"
)

// version is one version of a plugin in an answer.
type version struct {
	Version string   `json:"version,omitempty"`
	Digest  string   `json:"digest,omitempty"`
	Serial  uint64   `json:"serial,omitempty"`
	Key     string   `json:"key,omitempty"`
	Grants  []string `json:"grants,omitempty"`
	Config  string   `json:"config_digest,omitempty"`
}

func versionOf(f *fitted) version {
	if f == nil {
		return version{}
	}
	return version{f.Version(), f.of.Digest, f.of.Serial, f.of.Key, f.Grants(), f.ConfigDigest()}
}

// pluginAnswer says what became of a change of a plugin.
type pluginAnswer struct {
	Name  string `json:"name"`
	State string `json:"state"` // in force, shadow, canary
	version
	Set          uint64 `json:"set"`
	Until        string `json:"until,omitempty"` // of the probation
	Milliseconds int64  `json:"ms,omitempty"`    // that the load took
}

func untilText(p *fleet.Pending) string {
	if p == nil {
		return ""
	}
	return p.Until.UTC().Format(time.RFC3339)
}

// pluginState is one plugin in GET /api/v1/plugins.
type pluginState struct {
	Name    string          `json:"name"`
	InForce *version        `json:"in_force,omitempty"`
	Absent  string          `json:"absent,omitempty"` // code of why no version loads
	Struck  bool            `json:"struck,omitempty"`
	Lost    uint64          `json:"lost_instances"`
	OnError string          `json:"on_error"`
	Floor   uint64          `json:"floor"`
	Good    *fleet.Version  `json:"good,omitempty"`
	Refused []fleet.Refused `json:"refused,omitempty"`
	Shadow  *shadowState    `json:"shadow,omitempty"`
	Canary  *canaryState    `json:"canary,omitempty"`
	Pending *pendingState   `json:"pending,omitempty"`
}

type shadowState struct {
	version
	Compared uint64      `json:"compared"`
	Differed uint64      `json:"differed"`
	Cases    []differing `json:"cases,omitempty"`
}

type canaryState struct {
	version
	Share float64 `json:"share"`
}

type pendingState struct {
	*fleet.Pending
	Delta gateway.Delta `json:"delta"`
}

// plugins says how every plugin stands; with the cases in which shadows differ.
func (a *assembly) plugins(withCases bool) []pluginState {
	list := []pluginState{}
	b := a.now.Load()
	if b == nil {
		return list
	}
	for i := range b.places {
		p, name := &b.places[i], b.cfg.Plugins[i].Name
		slot := a.fleet.Slot(name)
		s := pluginState{Name: name, Absent: p.why, OnError: b.set.Filters[i].OnError.String(), Floor: slot.Floor, Good: slot.Good, Refused: slot.Refused}
		if p.active != nil {
			v := versionOf(p.active)
			s.InForce, s.Struck, s.Lost = &v, p.active.struck.Load(), p.active.Strikes()
		}
		if p.shadow != nil {
			s.Shadow = &shadowState{version: versionOf(p.shadow)}
			var cases []differing
			if s.Shadow.Compared, s.Shadow.Differed, cases = p.differs.report(); withCases {
				s.Shadow.Cases = cases
			}
		}
		if p.canary != nil {
			s.Canary = &canaryState{versionOf(p.canary), p.share}
		}
		if slot.Pending != nil {
			s.Pending = &pendingState{Pending: slot.Pending}
			if t := a.shown.Load(); t != nil && t.plugin == name {
				s.Pending.Delta = t.probation.Delta()
			}
		}
		list = append(list, s)
	}
	return list
}

// loadRequest is POST /api/v1/plugins.
type loadRequest struct {
	Name   string `json:"name"`
	Module []byte `json:"wasm"` // base64
	Sig    []byte `json:"sig"`
	Tests  []byte `json:"vectors,omitempty"` // self-test file
	Shadow bool   `json:"shadow,omitempty"`
	Canary string `json:"canary,omitempty"` // share of the devices: 5%
	probationRequest
}

// probationRequest asks for a probation.
type probationRequest struct {
	Confirm    string `json:"confirm,omitempty"`     // 10m
	MaxDelta   string `json:"max_delta,omitempty"`   // 5%
	MaxLatency string `json:"max_latency,omitempty"` // factor
}

// nameRequest is the body of what concerns a plugin that is there.
type nameRequest struct {
	Name string `json:"name"`
	probationRequest
}

// parseShare reads 5% or 0.05.
func parseShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	f, err := strconv.ParseFloat(number, 64)
	if percent {
		f /= 100
	}
	if err != nil || !(f > 0 && f <= 1) {
		return 0, fmt.Errorf("%q is no share: write 5%% or 0.05", text)
	}
	return f, nil
}

// parse reads what is asked for.
func (q *probationRequest) parse() (w probationOf, err error) {
	if q.Confirm == "" {
		if q.MaxDelta != "" || q.MaxLatency != "" {
			return w, errors.New("max_delta and max_latency bound a probation: give confirm too")
		}
		return w, nil
	}
	if w.confirm, err = time.ParseDuration(q.Confirm); err != nil || w.confirm < leastConfirm || w.confirm > mostConfirm {
		return w, fmt.Errorf("confirm %q is no time between %s and %s", q.Confirm, leastConfirm, mostConfirm)
	}
	if q.MaxDelta != "" {
		if w.maxDelta, err = parseShare(q.MaxDelta); err != nil {
			return w, fmt.Errorf("max_delta: %w", err)
		}
	}
	if q.MaxLatency != "" {
		if w.maxLatency, err = strconv.ParseFloat(q.MaxLatency, 64); err != nil || !(w.maxLatency >= 1 && w.maxLatency <= 1000) {
			return w, fmt.Errorf("max_latency %q is no factor between 1 and 1000", q.MaxLatency)
		}
	}
	return w, nil
}

// maxLoad bounds what is sent along with a load: module, signature and self-test in base64.
const maxLoad = (wasm.MaxModule+bundle.MaxSignature+wasm.MaxVectors)/3*4 + 64<<10

// readLoad reads a load request: JSON, or a form with the files wasm and sig. Fields may stand in the address too.
func readLoad(r *http.Request) (q loadRequest, err error) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "multipart/form-data" {
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			return q, fmt.Errorf(`read request: want {"name":"…","wasm":"BASE64","sig":"BASE64"} or a form with the files wasm and sig: %w`, err)
		}
	} else {
		form, err := r.MultipartReader()
		if err != nil {
			return q, fmt.Errorf("read form: %w", err)
		}
		for {
			part, err := form.NextPart()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return q, fmt.Errorf("read form: %w", err)
			}
			data, err := io.ReadAll(part)
			if err != nil {
				return q, fmt.Errorf("read form: %w", err)
			}
			if err := q.set(part.FormName(), data); err != nil {
				return q, err
			}
		}
	}
	for name, values := range r.URL.Query() {
		if err := q.set(name, []byte(values[0])); err != nil {
			return q, err
		}
	}
	if q.Name == "" || len(q.Module) == 0 {
		return q, errors.New("read request: name or wasm is missing")
	}
	return q, nil
}

// set is one field of a form or an address.
func (q *loadRequest) set(name string, data []byte) (err error) {
	text := string(data)
	switch name {
	case "name":
		q.Name = text
	case "wasm":
		q.Module = data
	case "sig":
		q.Sig = data
	case "vectors":
		q.Tests = data
	case "shadow":
		if q.Shadow, err = strconv.ParseBool(text); err != nil {
			return errors.New("shadow is neither true nor false")
		}
	case "canary":
		q.Canary = text
	case "confirm":
		q.Confirm = text
	case "max_delta":
		q.MaxDelta = text
	case "max_latency":
		q.MaxLatency = text
	default:
		return errors.New("a field is none of name, wasm, sig, vectors, shadow, canary, confirm, max_delta, max_latency")
	}
	return nil
}

// takeIn is POST /api/v1/plugins.
func (a *assembly) takeIn(r *http.Request, by string) (any, error) {
	q, err := readLoad(r)
	if err != nil {
		return nil, err
	}
	want, err := q.parse()
	if err != nil {
		return nil, err
	}
	as, share := inForce, 0.0
	switch {
	case q.Shadow && q.Canary != "":
		return nil, errors.New("a version is a shadow or a canary")
	case q.Shadow:
		as = shadow
	case q.Canary != "":
		as = canary
		if share, err = parseShare(q.Canary); err != nil {
			return nil, fmt.Errorf("canary: %w", err)
		}
	}
	if as != inForce && want.confirm != 0 {
		return nil, errors.New("a shadow or canary has no probation; promote takes confirm")
	}
	return a.loadPlugin(q.Name, fleet.Bundle{Module: q.Module, Sig: q.Sig, Vectors: q.Tests}, as, share, want, false, by)
}

// onPlugin answers POST /api/v1/plugins/VERB.
func onPlugin(do func(name string, want probationOf, by string) (*pluginAnswer, error)) func(*http.Request, string) (any, error) {
	return func(r *http.Request, by string) (any, error) {
		var q nameRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Name == "" {
			return nil, fmt.Errorf(`read request: want {"name":"…"}`)
		}
		want, err := q.parse()
		if err != nil {
			return nil, err
		}
		return do(q.Name, want, by)
	}
}

// pluginChanges are the changes of plugins, and of what else may be on probation.
func (a *assembly) pluginChanges() map[string]console.Change {
	change := func(maxBody int64, do func(r *http.Request, by string) (any, error)) console.Change {
		return console.Change{Role: console.Operator, MaxBody: maxBody, Do: func(_ context.Context, r *http.Request, by console.Caller) (any, error) { return do(r, by.Name) }}
	}
	plain := func(do func(name, by string) (*pluginAnswer, error)) console.Change {
		return change(0, onPlugin(func(name string, want probationOf, by string) (*pluginAnswer, error) {
			if want.confirm != 0 {
				return nil, errors.New("confirm does not belong here")
			}
			return do(name, by)
		}))
	}
	return map[string]console.Change{
		"POST plugins":               change(maxLoad, a.takeIn),
		"POST plugins/confirm":       plain(a.confirmPlugin),
		"POST plugins/rollback":      plain(a.rollbackPlugin),
		"POST plugins/remove-shadow": plain(a.removeShadow),
		"POST plugins/promote":       change(0, onPlugin(a.promotePlugin)),
		"POST reload":                change(0, a.reloadChange),
		"POST reload/keep": change(0, func(_ *http.Request, by string) (any, error) {
			return map[string]bool{"ok": true}, a.endReload(true, by)
		}),
		"POST reload/back": change(0, func(_ *http.Request, by string) (any, error) {
			return map[string]bool{"ok": true}, a.endReload(false, by)
		}),
	}
}

// watchEvery is how often the files of plugins are looked at; a change that stays the same from one look to the next is read.
const watchEvery = time.Second

// fileState is what tells one content of a file from another without reading it.
type fileState struct {
	size   int64
	time   time.Time
	sig    int64
	sigged time.Time
}

func stateOf(file string) (s fileState) {
	if info, err := os.Stat(file); err == nil {
		s.size, s.time = info.Size(), info.ModTime()
	}
	if info, err := os.Stat(file + bundle.Suffix); err == nil {
		s.sig, s.sigged = info.Size(), info.ModTime()
	}
	return s
}

// watchFiles takes in what is put in the place of a plugin's file, until ctx ends.
func (a *assembly) watchFiles(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	done, last := map[string]fileState{}, map[string]fileState{}
	for {
		cfg := a.now.Load().cfg
		for i := range cfg.Plugins {
			c := &cfg.Plugins[i]
			if isShippedPlugin(c.File) {
				continue
			}
			s := stateOf(c.File)
			before, known := last[c.File]
			last[c.File] = s
			if !known {
				done[c.File] = s // what was there at the start was taken in then
			}
			if done[c.File] == s || before != s || s.size == 0 {
				continue
			}
			if a.takeFile(c) {
				done[c.File] = s
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// takeFile loads the file of a plugin; false: it is to be tried again later.
func (a *assembly) takeFile(c *wasm.PluginConfig) bool {
	a.reloading.Lock()
	busy := a.busy()
	a.reloading.Unlock()
	if busy != nil {
		return false
	}
	module, err := c.Module("", nil)
	if err != nil {
		a.log.Error("read file of a plugin", "plugin", c.Name, "err", err)
		return true
	}
	sig, err := readBounded(c.File+bundle.Suffix, bundle.MaxSignature)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		a.log.Error("read file of a plugin", "plugin", c.Name, "err", err)
		return true
	}
	tests, err := c.Vectors("")
	if err != nil {
		a.log.Error("read file of a plugin", "plugin", c.Name, "err", err)
		return true
	}
	_, err = a.loadPlugin(c.Name, fleet.Bundle{Module: module, Sig: sig, Vectors: tests}, inForce, 0, probationOf{}, true, "file")
	switch {
	case err == nil, errors.Is(err, fleet.ErrSame), errors.Is(err, fleet.ErrRefused):
	case errors.Is(err, fleet.ErrPending):
		return false
	default:
		a.log.Error("file of a plugin is refused, what is in force stays", "plugin", c.Name, "err", err)
	}
	return true
}
