package wasm

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// verdictBytes is a well-formed verdict with nothing to say; edits and labels are put behind it.
func verdictBytes(action, grade byte, reason uint16, edits [][4]uint32, labels ...uint16) []byte {
	v := make([]byte, verdictLen)
	v[6], v[7] = action, grade
	le.PutUint16(v[4:], 1)
	le.PutUint16(v[8:], uint16(len(edits)))
	le.PutUint16(v[10:], uint16(len(labels)))
	le.PutUint16(v[12:], reason)
	for _, e := range edits { // target | op<<8 | label<<16, a, b, param
		for _, w := range e {
			v = le.AppendUint32(v, w)
		}
	}
	for _, l := range labels {
		v = le.AppendUint16(v, l)
	}
	for len(v)%8 != 0 {
		v = append(v, 0)
	}
	le.PutUint32(v, uint32(len(v)))
	return v
}

var nothing = verdictBytes(1, 0, 0, nil)

func TestOnlyPinnedModulesLoad(t *testing.T) {
	data := guest{out: nothing}.bytes()
	env := testEnv(data)
	env.Pinned = []string{digestOf([]byte("another"))}
	_, err := Load(context.Background(), PluginConfig{Name: "x"}, data, env)
	if !errors.Is(err, ErrNotPinned) || !strings.Contains(err.Error(), "signed") || !strings.Contains(err.Error(), digestOf(data)) {
		t.Errorf("a module that is not pinned: %v", err)
	}
	// 20 bytes at which the decoder of the runtime would die: never parsed.
	bomb := append([]byte("\x00asm\x01\x00\x00\x00"), 4, 6, 0xff, 0xff, 0xff, 0xff, 0x0f, 0)
	if _, err := Load(context.Background(), PluginConfig{Name: "x"}, bomb, env); !errors.Is(err, ErrNotPinned) {
		t.Errorf("a hostile module: %v", err)
	}
}

func TestModulesThatAreRefused(t *testing.T) {
	manifestWith := func(old, new string) string { return strings.Replace(testManifest, old, new, 1) }
	for name, c := range map[string]struct {
		g    guest
		want string
	}{
		"no manifest":                    {guest{manifest: "-"}, "no custom section sluice.manifest"},
		"two manifests":                  {guest{tail: custom(manifestSection, testManifest)}, "more than one manifest"},
		"manifest too large":             {guest{manifest: strings.Repeat(" ", maxManifest) + testManifest}, "at most"},
		"unknown member":                 {guest{manifest: manifestWith(`"abi":1`, `"abi":1,"extra":2`)}, "extra"},
		"repeated member":                {guest{manifest: manifestWith(`"abi":1`, `"abi":1,"abi":1`)}, "duplicate"},
		"other ABI":                      {guest{manifest: manifestWith(`"abi":1`, `"abi":2`)}, "abi 2"},
		"no serial":                      {guest{manifest: manifestWith(`"serial":7`, `"serial":0`)}, "serial"},
		"version that is none":           {guest{manifest: manifestWith(`1.2.3`, `latest`)}, "version"},
		"unknown profile":                {guest{manifest: manifestWith(`"bare"`, `"wasi"`)}, "profile"},
		"on_error pass":                  {guest{manifest: manifestWith(`"hold"`, `"pass"`)}, "on_error"},
		"unknown protocol":               {guest{manifest: manifestWith(`"mqtt"`, `"coap"`)}, "protocol"},
		"topic that is no filter":        {guest{manifest: manifestWith(`["#"]`, `["a/#/b"]`)}, "topic filter"},
		"label twice":                    {guest{manifest: manifestWith(`"CAT-B"`, `"CAT-A"`)}, "twice"},
		"reason 0":                       {guest{manifest: manifestWith(`"900"`, `"0"`)}, "reason"},
		"reason with a leading zero":     {guest{manifest: manifestWith(`"900"`, `"0900"`)}, "reason"},
		"grant of an unlisted category":  {guest{manifest: manifestWith(`read.value:CAT-A`, `read.value:CAT-X`)}, "grant"},
		"unknown grant":                  {guest{manifest: manifestWith(`read.source`, `read.keys`)}, "grant"},
		"memory over the host's limit":   {guest{manifest: manifestWith(`"memory_pages":2`, `"memory_pages":161`)}, "memory_pages"},
		"region that is no multiple":     {guest{manifest: manifestWith(`"in_bytes":16384`, `"in_bytes":16383`)}, "in_bytes"},
		"vectors that is no digest":      {guest{manifest: manifestWith(`"vectors":""`, `"vectors":"abcd"`)}, "vectors"},
		"none of its categories known":   {guest{manifest: strings.NewReplacer("CAT-A", "X-A", "CAT-B", "X-B").Replace(testManifest)}, "none of its categories"},
		"no module":                      {guest{extra: []byte{99}}, "section 99"},
		"section cut off":                {guest{tail: []byte{0, 200}}, "cut off"},
		"section with a long length":     {guest{tail: []byte{0, 0x80, 0x80, 0x80, 0x80, 0x80, 1}}, "cut off"},
		"an import":                      {guest{imports: [][]byte{importOf("env", "f", 0)}}, "import"},
		"a start function":               {guest{start: true}, "start function"},
		"two memories":                   {guest{tail: section(5, vec([]byte{0, 1}))}, "stands twice"},
		"memory over its limit":          {guest{pages: 3}, "the limit is 2"},
		"memory not exported":            {guest{names: map[string]string{"memory": "mem"}}, "does not export its memory"},
		"no ABI marker":                  {guest{names: map[string]string{"sluice_abi_v1": "sluice_abi_v9"}}, "sluice_abi_v1 is missing"},
		"reserved export":                {guest{configure: i32Const(0), names: map[string]string{"sluice_configure": "sluice_state_export"}}, "reserved"},
		"export of another type":         {guest{mistyped: true}, "another type"},
		"code that does not validate":    {guest{filter: []byte{0x6a}}, "compile"},
		"trap when configured":           {guest{configure: codeUnreachable}, "unreachable"},
		"configuration refused":          {guest{configure: i32Const(1)}, "does not accept"},
		"configuration refused, text":    {guest{configure: i32Const(1), out: append([]byte{5, 0, 0, 0}, "no\x1bit"...)}, "no?it"},
		"arena: cannot":                  {guest{arena: 1 << 62, manifest: manifestWith(`"in_bytes":16384`, `"in_bytes":1048576`)}, "regions"},
		"arena: in region out of memory": {guest{arena: 65536<<32 | guestOut}, "outside"},
		"arena: out region half outside": {guest{arena: guestIn<<32 | 65528}, "outside"},
		"arena: high addresses":          {guest{arena: 0xfffffff8_fffffff0}, "outside"},
		"arena: misaligned":              {guest{arena: 1028<<32 | guestOut}, "aligned"},
		"arena: overlapping":             {guest{arena: guestIn<<32 | (guestIn + 16384 - 8)}, "overlap"},
		"arena: the same":                {guest{arena: guestIn<<32 | guestIn}, "overlap"},
	} {
		t.Run(name, func(t *testing.T) {
			data := c.g.bytes()
			p, err := Load(context.Background(), PluginConfig{Name: "x"}, data, testEnv(data))
			if err == nil {
				p.Close()
				t.Fatal("loads")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
}

func TestEveryCutOfAModuleIsRefused(t *testing.T) {
	data := guest{out: nothing}.bytes()
	for n := range data {
		if _, err := readModule(data[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are taken for a module", n, len(data))
		}
	}
}

func TestCustomSectionsDoNotReachTheCompiler(t *testing.T) {
	m, err := readModule(guest{out: nothing}.bytes())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(m.code, []byte("producers")) || bytes.Contains(m.code, []byte("manifest")) {
		t.Error("a custom section is left in the code")
	}
}

func TestConfigurationThatSaysSomethingNeedsSomebodyToHearIt(t *testing.T) {
	data := guest{out: nothing}.bytes()
	_, err := Load(context.Background(), PluginConfig{Name: "x", Config: map[string]any{"a": 1}}, data, testEnv(data))
	if err == nil || !strings.Contains(err.Error(), "takes no configuration") {
		t.Error(err)
	}
}

func TestOpinionOfAPlugin(t *testing.T) {
	edits := map[uint32]EditConfig{1: {Action: "generalize", Decimals: new(int)}, 9: {Action: "tokenize", Domain: "fleet"}}
	out := verdictBytes(2, 3, 900, [][4]uint32{{7 << 8, 0, 0, 2}, {2 << 8, 1, 0, 1}, {3<<8 | 2<<16, 2, 0, 9}, {6 << 8, 3, 0, 0}}, 2, 1)
	p := guest{out: out}.load(t, PluginConfig{Name: "g", Edits: edits, Topics: []string{"v1/#"}, Uplinks: []string{"tsp"}})
	b := flat("a", "1.5", "b", "2.5", "c", `"x"`, "d", "true")
	c := &gateway.Classification{Findings: []gateway.Finding{at(1, catA), at(2, catA), at(3, catB), at(4, catB)}}
	o := noObjection()
	if err := p.Filter(messageOf(b), b, c, o); err != nil {
		t.Fatal(err)
	}
	if o.Action != gateway.Hold || o.Grade != gateway.Core || o.Reason != 900 || p.Reason(900) != "why not" || p.Reason(3) != "" {
		t.Errorf("opinion %+v", o)
	}
	if !slices.Equal(o.Labels, []uint16{catB, catA}) {
		t.Errorf("labels %v", o.Labels)
	}
	want := []gateway.Edit{{Finding: 0, Regrade: gateway.Important}, {Finding: 1, Op: gateway.Operation{Action: gateway.Generalize, Prefix: -1}},
		{Finding: 2, Op: gateway.Operation{Action: gateway.Tokenize, Decimals: -1, Prefix: -1, Domain: "fleet"}},
		{Finding: 3, Op: gateway.Operation{Action: gateway.Remove, Decimals: -1, Prefix: -1}}}
	if !slices.Equal(o.Edits, want) {
		t.Errorf("edits %+v", o.Edits)
	}
	if p.Name() != "g" || p.Version() != "1.2.3" || len(p.Digest()) != 64 || p.OnError() != gateway.Hold || !p.Matches("v1/x") || p.Matches("v2/x") ||
		!slices.Equal(p.Uplinks(), []string{"tsp"}) || !slices.Equal(p.Labels(), []string{"CAT-A", "CAT-B", "CAT-GONE"}) {
		t.Errorf("plugin says of itself %v %v %v", p, p.OnError(), p.Labels())
	}
}

func TestFailuresFollowTheirTable(t *testing.T) {
	grow := []byte{0x41, 1, 0x40, 0, 0x1a, 0x00} // memory.grow 1, drop, unreachable
	for name, c := range map[string]struct {
		g       guest
		code    string
		strikes uint64
	}{
		"trap":                     {guest{filter: codeUnreachable}, codeTrap, 1},
		"endless recursion":        {guest{filter: []byte{0x20, 0, 0x10, 2}}, codeDepth, 1},
		"read outside of memory":   {guest{filter: []byte{0x41, 0x7f, 0x28, 2, 0}}, codeTrap, 1},
		"grows memory, then traps": {guest{filter: grow}, codeTrap, 1},
		"grows it over its limit":  {guest{filter: append([]byte{0x41, 2, 0x40, 0, 0x1a}, grow...)}, codeMemory, 1},
		"endless loop":             {guest{filter: []byte{0x03, 0x40, 0x0c, 0, 0x0b, 0}}, codeFuel, 1},
		"zero":                     {guest{filter: i32Const(0)}, codeRefused, 1},
		"malformed request":        {guest{filter: i32Const(-1)}, codeNegative, 0},
		"version":                  {guest{filter: i32Const(-2)}, codeNegative, 0},
		"out region too small":     {guest{filter: i32Const(-3)}, codeNegative, 0},
		"internal":                 {guest{filter: i32Const(-4)}, codeNegative, 0},
		"most negative":            {guest{filter: i32Const(-1 << 31)}, codeNegative, 0},
		"longer than its region":   {guest{filter: i32Const(8193)}, codeRefused, 1},
		"longest":                  {guest{filter: i32Const(1<<31 - 1)}, codeRefused, 1},
		"verdict of zeros":         {guest{filter: i32Const(16)}, codeRefused, 1},
		"no objection":             {guest{out: nothing}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var told []string
			data := c.g.bytes()
			env := testEnv(data)
			env.OnStrike = func(plugin, code string) { told = append(told, plugin+" "+code) }
			p := loadWith(t, PluginConfig{Name: "g"}, data, env)
			b := flat("a", "1")
			for round := uint64(1); round <= 3; round++ { // each time on an instance that works
				err := p.Filter(messageOf(b), b, &gateway.Classification{}, noObjection())
				if codeOf(err) != c.code {
					t.Fatalf("message %d: %v; want code %q", round, err, c.code)
				}
				if want := c.strikes * round; p.Strikes() != want || uint64(len(told)) != want {
					t.Fatalf("message %d: %d strikes, told %v; want %d", round, p.Strikes(), told, want)
				}
				if err != nil && strings.Contains(err.Error(), "\n") {
					t.Errorf("error has more than one line: %q", err)
				}
			}
		})
	}
}

func TestMemoryGrowsToItsLimitOnly(t *testing.T) {
	p := guest{filter: codeSpinMemory, max: 99}.load(t, PluginConfig{})
	in, err := p.pool.take()
	if err != nil {
		t.Fatal(err)
	}
	defer p.pool.put(in)
	for want := range 4 { // pages before the growth, then -1: refused
		in.stack[0] = 0
		if _, err := in.call(in.filter, maxFuel); err != nil {
			t.Fatal(err)
		}
		if got := int32(uint32(in.stack[0])); (want == 0 && got != 1) || (want > 0 && got != -1) {
			t.Errorf("growth %d returned %d", want, got)
		}
	}
	if size := in.mem.Size(); size != 2<<16 {
		t.Errorf("memory has %d bytes; the limit is 2 pages", size)
	}
}

func TestRegionsSurviveGrowth(t *testing.T) {
	grow := append([]byte{0x41, 1, 0x40, 0, 0x1a}, i32Const(int32(len(nothing)))...)
	p := guest{filter: grow, out: nothing}.load(t, PluginConfig{})
	b := flat("a", "1")
	for range 3 {
		if err := p.Filter(messageOf(b), b, &gateway.Classification{}, noObjection()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTooLargeMessageDoesNotReachThePlugin(t *testing.T) {
	p := guest{filter: codeUnreachable}.load(t, PluginConfig{})
	b := flat("a", "1")
	m := messageOf(b)
	m.Topic = strings.Repeat("x", 17000)
	c := &gateway.Classification{}
	if code := codeOf(p.Filter(m, b, c, noObjection())); code != codeTooLarge {
		t.Errorf("long topic: %q", code)
	}
	m.Topic = "t"
	for range 600 {
		c.Findings = append(c.Findings, at(1, catA))
	}
	if code := codeOf(p.Filter(m, b, c, noObjection())); code != codeTooLarge {
		t.Errorf("many findings: %q", code)
	}
	if p.Strikes() != 0 {
		t.Error("counted as a strike")
	}
}

func TestMessageOfAProtocolTheManifestDoesNotName(t *testing.T) {
	p := guest{out: nothing}.load(t, PluginConfig{})
	b := flat("a", "1")
	for _, protocol := range []gateway.Protocol{gateway.UnknownProtocol, gateway.OPCUA, 255} {
		m := messageOf(b)
		m.Protocol = protocol
		if code := codeOf(p.Filter(m, b, &gateway.Classification{}, noObjection())); code != codeRefused {
			t.Errorf("protocol %d: %q", protocol, code)
		}
	}
}

func TestTopicsMustLieWithinTheManifest(t *testing.T) {
	data := guest{manifest: strings.Replace(testManifest, `["#"]`, `["v1/+/gnss/#","x"]`, 1), out: nothing}.bytes()
	for filter, ok := range map[string]bool{"": false, "#": false, "v1/#": false, "v1/+/gnss": true, "v1/car/gnss/#": true, "v1/+/+": false, "x": true, "x/y": false, "x/#": false} {
		c := PluginConfig{Name: "g"}
		if filter != "" {
			c.Topics = []string{filter}
		}
		p, err := Load(context.Background(), c, data, testEnv(data))
		if (err == nil) != ok {
			t.Errorf("topic filter %q: %v", filter, err)
		}
		if err == nil {
			p.Close()
		}
	}
}

func TestWhatThePluginDoesWithoutIsLogged(t *testing.T) {
	var log bytes.Buffer
	data := guest{out: nothing}.bytes()
	env := testEnv(data)
	env.Log = slog.New(slog.NewTextHandler(&log, nil))
	p := loadWith(t, PluginConfig{Grants: []string{"read.source", "read.value:CAT-B"}}, data, env)
	for _, want := range []string{"grant=read.payload", "grant=read.value:CAT-B", "category=CAT-GONE"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log does not say %s:\n%s", want, &log)
		}
	}
	if !slices.Equal(p.Grants(), []string{"read.source"}) {
		t.Errorf("grants in effect: %v", p.Grants())
	}
}

// Many callers, few instances, some of which are lost, and a close in the middle.
func TestPluginUnderLoadClosesWhenTheLastCallIsOut(t *testing.T) {
	// traps when the counter half of the id is odd: i32.load [in+8], i32.const 1, i32.and, if unreachable end, length
	filter := append([]byte{0x41, 0, 0x28, 2}, uleb(guestIn+atMsgID)...)
	filter = append(filter, 0x41, 1, 0x71, 0x04, 0x40, 0x00, 0x0b)
	p := guest{filter: append(filter, i32Const(int32(len(nothing)))...), out: nothing}.load(t, PluginConfig{})
	b := flat("a", "1")
	var wg sync.WaitGroup
	half := make(chan struct{}, 8)
	for w := range 8 {
		wg.Go(func() {
			m := messageOf(b)
			for i := range 200 {
				if i == 100 {
					half <- struct{}{}
				}
				m.ID.Counter = uint64(w + i)
				code := codeOf(p.Filter(m, b, &gateway.Classification{}, noObjection()))
				if code == codeClosed {
					return
				}
				if (code == codeTrap) != (m.ID.Counter%2 == 1) || (code != "" && code != codeTrap) {
					t.Errorf("message %d: %q", m.ID.Counter, code)
				}
			}
		})
	}
	for range 8 {
		<-half
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if code := codeOf(p.Filter(messageOf(b), b, &gateway.Classification{}, noObjection())); code != codeClosed {
		t.Errorf("after the close: %q", code)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestAPanicInsideTheHostDropsTheInstanceAndKeepsItsPlace(t *testing.T) {
	p := &Plugin{manifest: &Manifest{}}
	code, err := p.ask(&instance{}, &gateway.Message{}, &gateway.Body{}, &gateway.Classification{}, &gateway.Opinion{}) // no memory to read
	if code != codeTrap || err != errPanic {
		t.Errorf("code %q: %v", code, err)
	}
}
