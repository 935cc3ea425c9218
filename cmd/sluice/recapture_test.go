package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// recapture is what scripts call to tamper with a capture: recapture WHAT [LINE] [TEXT] IN OUT.
func recapture() {
	args := os.Args[1:]
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	if args[0] == "await" {
		for range 1000 {
			if c, err := net.Dial("unix", args[1]); err == nil {
				c.Close()
				os.Exit(0)
			}
			time.Sleep(10 * time.Millisecond) // another process: there is nothing to wait on
		}
		panic("nobody listens")
	}
	data, err := os.ReadFile(args[len(args)-2])
	check(err)
	var lines []map[string]any
	for l := range bytes.Lines(data) {
		var m map[string]any
		check(json.Unmarshal(l, &m))
		lines = append(lines, map[string]any{"topic": m["topic"], "payload_base64": m["payload_base64"]})
	}
	n := 0
	if i, err := strconv.Atoi(args[1]); err == nil {
		n = i - 1
	}
	payload := func(m map[string]any) string {
		b, err := base64.StdEncoding.DecodeString(m["payload_base64"].(string))
		check(err)
		return string(b)
	}
	put := func(m map[string]any, s string) { m["payload_base64"] = base64.StdEncoding.EncodeToString([]byte(s)) }
	var more string
	switch args[0] {
	case "alter":
		put(lines[n], strings.Replace(payload(lines[n]), "62.50", "62.5", 1))
	case "topic":
		lines[n]["topic"] = "v1/car-9/telemetry"
	case "topic-of":
		lines[n]["topic"] = args[2]
	case "id":
		put(lines[n], strings.Replace(payload(lines[n]), `"_sluice_id":"`, `"_sluice_id":"0123456789abcdef0123456789abcdef","x":"`, 1))
	case "insert":
		lines = append(lines, map[string]any{"topic": "v1/car-7/telemetry", "payload_base64": "eyJzcGVlZCI6NjYuNTB9"})
	case "drop":
		lines = append(lines[:n], lines[n+1:]...)
	case "double":
		lines = append(lines, lines[n])
	case "prefix":
		for _, m := range lines {
			m["topic"] = args[1] + m["topic"].(string)
		}
	case "mosquitto":
		for i, m := range lines {
			p := payload(m)
			lines[i] = map[string]any{"tst": "2026-01-01T00:00:00.000000Z+0000", "topic": m["topic"], "qos": 1, "retain": 0, "payloadlen": len(p), "mid": i, "payload": p}
		}
	case "reprinted":
		for i, m := range lines {
			p := payload(m)
			lines[i] = map[string]any{"topic": m["topic"], "payloadlen": len(p), "payload": json.RawMessage(strings.Replace(p, ":6", `:0,"x":6`, 1))}
		}
	case "bodies":
		var all bytes.Buffer
		for _, m := range lines {
			all.WriteString(payload(m) + "\n")
		}
		check(os.WriteFile(args[len(args)-1], all.Bytes(), 0o600))
		return
	case "hostile":
		more = "not JSON\n" + strings.Repeat("{", maxFilterLine*3) + "\n" + `{"topic":"a","topic":"a","payload_base64":""}` + "\n" + `{"payload_base64":""}` + "\n" +
			`{"topic":"a","payload_base64":"","payload":""}` + "\n" + `{"topic":"a","payload_base64":"?"}` + "\n\n" + `{"topic":"a"}`
		more = strings.Replace(more, "\n\n", "\n", 1)
	default:
		panic("unknown: " + args[0])
	}
	var out bytes.Buffer
	for _, m := range lines {
		check(json.NewEncoder(&out).Encode(m))
	}
	out.WriteString(more)
	check(os.WriteFile(args[len(args)-1], out.Bytes(), 0o600))
}
