package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	iofs "io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/plugins/bundle"
)

// fleetVerbs are what operators do with the plugins of a running gateway.
var fleetVerbs = []verb{
	{"ls", "what is in force, on probation, beside it: -c FILE", pluginList},
	{"load", "take a version in: NAME FILE.wasm -c FILE [--confirm 10m --max-delta 5%]", pluginLoad},
	{"shadow", "let a version judge without effect: NAME FILE.wasm -c FILE; without a file: where it differs", pluginShadow},
	{"promote", "bring canary or shadow in force: NAME -c FILE", pluginPromote},
	{"confirm", "end a probation, the version stays: NAME -c FILE", pluginConfirm},
	{"rollback", "back to the version before: NAME -c FILE", pluginRollback},
}

// flags adds the flags of a probation.
func (q *probationRequest) flags(fs *flag.FlagSet) {
	fs.StringVar(&q.Confirm, "confirm", "", "roll back after this `time` unless confirmed: 10m")
	fs.StringVar(&q.MaxDelta, "max-delta", "", "roll back when more than this `share` of messages is treated otherwise: 5%")
	fs.StringVar(&q.MaxLatency, "max-latency", "", "roll back when decisions take longer by this `factor` (2 when not given)")
}

// gatewayHints says what to type when no gateway answers, or what the gateway said.
func gatewayHints(err error) []string {
	var with interface{ Hint() string }
	switch {
	case errors.Is(err, errNoGateway):
		return []string{"sluice run -c FILE starts it; without one, put the file in the place that the configuration names"}
	case errors.As(err, &with):
		return []string{with.Hint()}
	}
	return hintFor(err)
}

// onGateway sends a change of a plugin and prints what became of it.
func onGateway(r *reading, path string, what any, stdout, stderr io.Writer) int {
	defer r.stop()
	var answer pluginAnswer
	done := progress(stderr)
	err := tell(r.ctx, r.cfg, http.MethodPost, path, what, &answer)
	done()
	if err != nil {
		return fail(stderr, err, gatewayHints(err)...)
	}
	if r.asJSON {
		return printJSON(stdout, stderr, answer)
	}
	fmt.Fprintf(stdout, "%s  %s  serial %d  %s  %s  version set %d\n", answer.Name, cmp.Or(answer.Version, "no version"), answer.Serial, short(answer.Digest), answer.State, answer.Set)
	if answer.Until != "" {
		fmt.Fprintf(stdout, "on probation until %s: sluice plugin confirm %s keeps it\n", answer.Until, answer.Name)
	}
	return exitGood
}

// progress says once a second that the gateway is at work, from the second second on, until it is called.
func progress(stderr io.Writer) func() {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				fmt.Fprintf(stderr, "sluice: the gateway checks and compiles, %d s\n", n)
			}
		}
	}()
	return func() {
		close(stop)
		<-ended
	}
}

// bundle reads a module, the signature and the self-test beside it; without one the gateway says what it thinks of that.
func (q *loadRequest) bundle(file string) (err error) {
	if q.Module, err = readBounded(file, wasm.MaxModule); err != nil {
		return err
	}
	if q.Sig, err = readBounded(file+bundle.Suffix, bundle.MaxSignature); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	q.Tests, err = (&wasm.PluginConfig{Name: q.Name, File: file}).Vectors("")
	return err
}

func pluginLoad(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	var q loadRequest
	r, status := parseReading("plugin load", args, stdout, stderr, func(fs *flag.FlagSet, r *reading) {
		r.synopsis, r.operands = "NAME FILE.wasm [-c FILE] [--json]", 2
		q.flags(fs)
		fs.StringVar(&q.Canary, "canary", "", "only for this `share` of the devices: 5%")
	})
	if r == nil {
		return status
	}
	if len(r.args) != 2 {
		return usage(stderr, errors.New("plugin load: want the plugin's name and a module"), "for example: sluice plugin load geofence geofence.wasm -c FILE", "sluice plugin ls -c FILE lists the names")
	}
	if _, err := q.parse(); err != nil {
		return usage(stderr, fmt.Errorf("plugin load: %w", err), "for example: --confirm 10m --max-delta 5%")
	}
	var err error
	q.Name = r.args[0]
	if err = q.bundle(r.args[1]); err != nil {
		return fail(stderr, err, moduleHint(r.args[1]))
	}
	return onGateway(r, "plugins", &q, stdout, stderr)
}

func pluginShadow(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	remove := false
	r, status := parseReading("plugin shadow", args, stdout, stderr, func(fs *flag.FlagSet, r *reading) {
		r.synopsis, r.operands = "NAME [FILE.wasm] [-c FILE] [--remove] [--json]", 2
		fs.BoolVar(&remove, "remove", false, "end shadow and canary")
	})
	if r == nil {
		return status
	}
	switch {
	case len(r.args) == 0:
		return usage(stderr, errors.New("plugin shadow: want the plugin's name"), "sluice plugin shadow NAME FILE.wasm -c FILE starts one, without the file its cases are listed")
	case remove && len(r.args) == 2:
		return usage(stderr, errors.New("plugin shadow: --remove takes no module"), "sluice plugin shadow NAME --remove -c FILE")
	case remove:
		return onGateway(r, "plugins/remove-shadow", nameRequest{Name: r.args[0]}, stdout, stderr)
	case len(r.args) == 1:
		return shadowCases(r, stdout, stderr)
	}
	q := loadRequest{Name: r.args[0], Shadow: true}
	var err error
	if err = q.bundle(r.args[1]); err != nil {
		return fail(stderr, err, moduleHint(r.args[1]))
	}
	return onGateway(r, "plugins", &q, stdout, stderr)
}

// shadowCases prints where a shadow says something else than the version in force. Whether it does is no matter of the
// exit status: people look at it for that.
func shadowCases(r *reading, stdout, stderr io.Writer) int {
	defer r.stop()
	var s pluginState
	if err := ask(r.ctx, r.cfg, "plugins/shadow", url.Values{"name": {r.args[0]}}, &s); err != nil {
		return fail(stderr, err, gatewayHints(err)...)
	}
	if s.Shadow == nil {
		return fail(stderr, fmt.Errorf("plugin %q has no shadow", r.args[0]), "sluice plugin shadow "+r.args[0]+" FILE.wasm -c FILE starts one")
	}
	if r.asJSON {
		return printJSON(stdout, stderr, s.Shadow)
	}
	fmt.Fprintf(stdout, "%s  %s  compared %d, differed %d\n", s.Shadow.Version, short(s.Shadow.Digest), s.Shadow.Compared, s.Shadow.Differed)
	for _, c := range s.Shadow.Cases {
		fmt.Fprintf(stdout, "%s  %s  in force: %s  shadow: %s\n", c.ID, short(c.Input), c.InForce, c.Shadow)
	}
	return exitGood
}

// named reads the arguments of a verb that takes the name of a plugin.
func named(verb string, args []string, stdout, stderr io.Writer, more func(fs *flag.FlagSet)) (*reading, int) {
	r, status := parseReading("plugin "+verb, args, stdout, stderr, func(fs *flag.FlagSet, r *reading) {
		r.synopsis, r.operands = "NAME [-c FILE] [--json]", 1
		if more != nil {
			more(fs)
		}
	})
	if r != nil && len(r.args) != 1 {
		r.stop()
		return nil, usage(stderr, fmt.Errorf("plugin %s: want the plugin's name", verb), "sluice plugin ls -c FILE lists the names")
	}
	return r, status
}

func pluginConfirm(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	r, status := named("confirm", args, stdout, stderr, nil)
	if r == nil {
		return status
	}
	return onGateway(r, "plugins/confirm", nameRequest{Name: r.args[0]}, stdout, stderr)
}

func pluginRollback(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	r, status := named("rollback", args, stdout, stderr, nil)
	if r == nil {
		return status
	}
	return onGateway(r, "plugins/rollback", nameRequest{Name: r.args[0]}, stdout, stderr)
}

func pluginPromote(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	var q nameRequest
	r, status := named("promote", args, stdout, stderr, q.flags)
	if r == nil {
		return status
	}
	if _, err := q.parse(); err != nil {
		return usage(stderr, fmt.Errorf("plugin promote: %w", err), "for example: --confirm 10m --max-delta 5%")
	}
	q.Name = r.args[0]
	return onGateway(r, "plugins/promote", q, stdout, stderr)
}

// pluginList prints how every plugin stands. One that is out of service is not good.
func pluginList(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	r, status := parseReading("plugin ls", args, stdout, stderr, nil)
	if r == nil {
		return status
	}
	defer r.stop()
	var answer struct {
		Plugins []pluginState `json:"plugins"`
	}
	if err := ask(r.ctx, r.cfg, "plugins", nil, &answer); err != nil {
		return fail(stderr, err, gatewayHints(err)...)
	}
	if r.asJSON {
		status = printJSON(stdout, stderr, answer)
	}
	var out []string
	for i := range answer.Plugins {
		p := &answer.Plugins[i]
		if p.Absent != "" || p.Struck {
			out = append(out, p.Name)
		}
		if !r.asJSON {
			p.print(stdout)
		}
	}
	if len(out) > 0 {
		return fail(stderr, fmt.Errorf("out of service: %s", strings.Join(out, ", ")), "messages on its topics take on_error; sluice plugin load NAME FILE.wasm -c FILE brings another version")
	}
	return status
}

func (p *pluginState) print(w io.Writer) {
	line := func(what string, v *version, more string) {
		fmt.Fprintf(w, "%s  %s  serial %d  %s  key %s%s\n", what, v.Version, v.Serial, short(v.Digest), cmp.Or(v.Key, "none, the program's own"), more)
	}
	switch {
	case p.InForce == nil:
		fmt.Fprintf(w, "%s  absent (%s): on_error %s\n", p.Name, p.Absent, p.OnError)
	case p.Struck:
		line(p.Name, p.InForce, "  struck: on_error "+p.OnError)
	case p.Pending != nil:
		line(p.Name, p.InForce, fmt.Sprintf("  on probation until %s: compared %d, otherwise %d", untilText(p.Pending.Pending), p.Pending.Delta.Compared, p.Pending.Delta.Outcomes))
	default:
		line(p.Name, p.InForce, "")
	}
	if p.Canary != nil {
		line("  canary", &p.Canary.version, fmt.Sprintf("  %g%% of the devices", p.Canary.Share*100))
	}
	if p.Shadow != nil {
		line("  shadow", &p.Shadow.version, fmt.Sprintf("  compared %d, differed %d", p.Shadow.Compared, p.Shadow.Differed))
	}
	if p.Good != nil {
		fmt.Fprintf(w, "  rollback goes to serial %d  %s\n", p.Good.Serial, short(p.Good.Digest))
	}
}

// shadowOf is GET /api/v1/plugins/shadow.
func (a *assembly) shadowOf(_ context.Context, r *http.Request) (any, error) {
	name := r.URL.Query().Get("name")
	for _, p := range a.plugins(true) {
		if p.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no plugin of this name is configured")
}
