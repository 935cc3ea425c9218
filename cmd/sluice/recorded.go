package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/protocols/payload"
)

// recordedLine is one recorded message: a line of filter, or a person's own with the body written out.
type recordedLine struct {
	Source   string          `json:"source"`
	Client   string          `json:"client"`
	Uplink   string          `json:"uplink"` // of what filter wrote; not used
	ID       string          `json:"id"`     // the same
	Retain   bool            `json:"retain"` // the same
	Topic    string          `json:"topic"`
	Payload  json.RawMessage `json:"payload"`
	Base64   *string         `json:"payload_base64"`
	Received time.Time       `json:"received"`
}

// recorded is a message with where it stands, classified by classify.
type recorded struct {
	at string // file:line
	m  gateway.Message
	d  gateway.Decision // body and classification
}

// recordedTime is when messages were received that do not say: a self-test is to have the same bytes each time.
var recordedTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Bounds of what is read.
const (
	maxRecorded     = 10_000
	maxRecordedFile = 256 << 20
)

const recordedHint = `a message is one line {"source":"NAME","topic":"…","payload":{…}} or, with any bytes, {"source":"NAME","topic":"…","payload_base64":"…"}`

// readRecorded reads the messages of a file, or of the files *.ndjson and *.json of a folder in the order of their names.
func readRecorded(name string) (list []recorded, err error) {
	files := []string{name}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	if info.IsDir() {
		files = nil
		entries, err := os.ReadDir(name)
		if err != nil {
			return nil, fmt.Errorf("read messages: %w", err)
		}
		for _, e := range entries {
			if slices.Contains([]string{".ndjson", ".json"}, filepath.Ext(e.Name())) && !e.IsDir() {
				files = append(files, filepath.Join(name, e.Name()))
			}
		}
	}
	for _, file := range files {
		data, err := readBounded(file, maxRecordedFile)
		if err != nil {
			return nil, err
		}
		if list, err = appendRecorded(list, file, data); err != nil {
			return nil, err
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("read messages: none in %q", name)
	}
	return list, nil
}

// appendRecorded reads one file: a message a line, or one message over many lines.
func appendRecorded(list []recorded, file string, data []byte) ([]recorded, error) {
	lines := bytes.Split(data, []byte("\n"))
	if filepath.Ext(file) == ".json" && json.Valid(data) {
		lines = [][]byte{data}
	}
	for i, line := range lines {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		at := fmt.Sprintf("%s:%d", file, i+1)
		if len(list) == maxRecorded {
			return nil, fmt.Errorf("read %s: more than %d messages", at, maxRecorded)
		}
		var l recordedLine
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&l); err != nil {
			return nil, fmt.Errorf("read %s: %s", at, strings.TrimPrefix(err.Error(), "json: "))
		}
		body := []byte(l.Payload)
		switch {
		case l.Topic == "":
			return nil, fmt.Errorf("read %s: no topic", at)
		case (l.Base64 == nil) == (l.Payload == nil):
			return nil, fmt.Errorf("read %s: want one of payload and payload_base64", at)
		case l.Base64 != nil:
			var err error
			if body, err = base64.StdEncoding.DecodeString(*l.Base64); err != nil {
				return nil, fmt.Errorf("read %s: payload_base64 is no base64", at)
			}
		}
		if l.Received.IsZero() {
			l.Received = recordedTime
		}
		if l.Client == "" {
			l.Client = "device"
		}
		list = append(list, recorded{at: at, m: gateway.Message{ID: gateway.ID{Counter: uint64(len(list) + 1)}, Source: l.Source, Client: l.Client,
			Topic: l.Topic, Payload: body, Received: l.Received, QoS: 1, Protocol: gateway.MQTT}})
	}
	return list, nil
}

// classify decodes and classifies a message as a gateway does before it asks plugins.
func (a *authored) classify(r *recorded) {
	r.d.Message = &r.m
	if err := (payload.JSON{}).Decode(r.m.Payload, &r.d.Body); err != nil {
		r.d.Body.Nodes = r.d.Body.Nodes[:0]
	}
	a.cats.Classify(&r.m, &r.d.Body, &r.d.Class)
}

// filterCode is the code and the text of what a plugin failed with.
func filterCode(err error) (code, text string) {
	if fe, ok := errors.AsType[*gateway.FilterError](err); ok {
		return fe.Code, fe.Err.Error()
	}
	return "internal", err.Error()
}
