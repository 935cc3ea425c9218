package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
)

// benchLine is one line of plugin bench; the names are fixed.
type benchLine struct {
	Engine   string `json:"engine"` // compiler, interpreter
	Messages string `json:"messages"`
	Calls    int    `json:"calls"`
	Nanos    int64  `json:"ns_per_call"`      // median of the rounds
	Best     int64  `json:"ns_per_call_best"` // least of the rounds
	Fuel     uint64 `json:"fuel_per_call"`    // mean
	MaxFuel  uint64 `json:"fuel_most"`
	Failed   int    `json:"failed"` // messages that it fails on
}

// Rounds of a measurement, and how long each is to take.
const (
	benchRounds = 9
	benchRound  = 20 * time.Millisecond
)

// pluginBench measures what a plugin costs for each message.
func pluginBench(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("plugin bench", "[-c FILE] [--config FILE] [--grants LIST] [--json] FILE.wasm [MESSAGES]")
	flags := addAuthorFlags(fs)
	asJSON := fs.Bool("json", false, "print one line of JSON for each measurement")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if len(rest) != 1 && len(rest) != 2 {
		return usage(stderr, errors.New("plugin bench: want one module, and perhaps a file or folder of messages"), "for example: sluice plugin bench speedguard.wasm testdata")
	}
	a, status := flags.open(rest[0], stderr)
	if status != exitGood {
		return status
	}
	defer a.close()
	sets := []benchWork{{"1 KB, 12 findings", []recorded{typicalMessage()}}}
	if len(rest) == 2 {
		list, err := readRecorded(rest[1])
		if err != nil {
			return fail(stderr, err, recordedHint)
		}
		sets = append(sets, benchWork{rest[1], list})
	}
	for s := range sets {
		for i := range sets[s].list {
			a.classify(&sets[s].list[i])
		}
	}
	engines := []string{"interpreter"}
	if wasm.Compiles() {
		engines = []string{"compiler", "interpreter"}
	}
	failed := 0
	for _, engine := range engines {
		env := a.env()
		if engine == "interpreter" {
			env = wasm.Interpreted(env)
		}
		plugin, status := a.load(env, stderr)
		if status != exitGood {
			return status
		}
		for _, s := range sets {
			l := s.measure(plugin)
			l.Engine = engine
			failed += l.Failed
			if *asJSON {
				status = printJSON(stdout, stderr, l)
			} else {
				fmt.Fprintf(stdout, "%-11s  %-20s %9d ns a call (best %d), fuel %d (most %d)\n", l.Engine, l.Messages, l.Nanos, l.Best, l.Fuel, l.MaxFuel)
			}
		}
		plugin.Close()
		if status != exitGood {
			return status
		}
	}
	if failed > 0 {
		return fail(stderr, errors.New("the plugin fails on some of the messages, which is another way through it"), "sluice plugin run "+a.file+" MESSAGES shows on which, and why")
	}
	return exitGood
}

// benchWork is a list of messages that are measured together.
type benchWork struct {
	name string
	list []recorded
}

// measure calls the plugin in rounds, with all of its messages in turn.
func (s *benchWork) measure(plugin *wasm.Plugin) *benchLine {
	l := &benchLine{Messages: s.name}
	var o gateway.Opinion
	ask := func(r *recorded) error {
		o = gateway.Opinion{Action: gateway.Pass, Labels: o.Labels[:0], Edits: o.Edits[:0]}
		return plugin.Filter(&r.m, &r.d.Body, &r.d.Class, &o)
	}
	var fuel uint64
	for i := range s.list {
		if ask(&s.list[i]) != nil {
			l.Failed++
		}
		fuel += o.Fuel
		l.MaxFuel = max(l.MaxFuel, o.Fuel)
	}
	l.Fuel = fuel / uint64(len(s.list))
	var rounds []int64
	for range benchRounds {
		began, n := time.Now(), 0
		for time.Since(began) < benchRound {
			for i := range s.list {
				ask(&s.list[i])
			}
			n += len(s.list)
			for range min(255, 2000/len(s.list)) { // one look at the clock for many calls
				for i := range s.list {
					ask(&s.list[i])
				}
				n += len(s.list)
			}
		}
		rounds = append(rounds, time.Since(began).Nanoseconds()/int64(n))
		l.Calls += n
	}
	slices.Sort(rounds)
	l.Nanos, l.Best = rounds[len(rounds)/2], rounds[0]
	return l
}

// typicalMessage has 1,024 bytes and 12 findings in the catalog vehicle.
func typicalMessage() recorded {
	body := `{"vin":"LSVAU2180N2183294","gnss":{"lat":39.90750,"lon":116.39723},"dest":{"lat":39.99990,"lon":116.32640},` +
		`"home":{"lat":39.93310,"lon":116.28150},"speed":42.5,"accel":0.31,"brake":0.1,"phone":"13800138000","note":"`
	body += strings.Repeat(".", 1024-len(body)-2) + `"}`
	return recorded{at: "typical", m: gateway.Message{ID: gateway.ID{Counter: 1}, Source: "vehicles", Client: "device", Topic: "v1/car-1/telemetry",
		Payload: []byte(body), Received: recordedTime, QoS: 1, Protocol: gateway.MQTT}}
}
