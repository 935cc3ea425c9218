// Replayfuel prints a digest over the verdicts and the fuel of plugins on the same messages. The lines of two machines, or of the
// compiler and the interpreter, are the same, or records cannot be replayed:
//
//	go run ./testbench/replayfuel -root . > here
//	GOARCH=arm64 go build -o replayfuel.arm64 ./testbench/replayfuel && qemu-aarch64 ./replayfuel.arm64 -root . | diff here -
//	GOARCH=arm go build -o replayfuel.arm ./testbench/replayfuel && qemu-arm ./replayfuel.arm -root . | diff here -
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sluice-edge/sluice/filters/catalog"
	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/protocols/payload"
)

func main() {
	root := flag.String("root", ".", "`folder` of the repository")
	messages := flag.Uint64("messages", 2000, "messages for each plugin")
	interpret := flag.Bool("interpret", false, "without the compiler")
	flag.Parse()
	if err := run(*root, *messages, *interpret); err != nil {
		fmt.Fprintln(os.Stderr, "replayfuel:", err)
		os.Exit(1)
	}
}

// plugins are the modules that are asked, below the folder of the repository, and their configuration.
var plugins = []struct {
	file   string
	config map[string]any
}{
	{"plugins/geofence/geofence.wasm", map[string]any{"areas": []any{map[string]any{"datum": "wgs84", "center": []any{39.9, 116.4}, "radius_m": 5000}}}},
	{"plugins/guest/c/example/example.wasm", nil},
	{"plugins/guest/rust/example/example.wasm", nil},
	{"plugins/guest/assemblyscript/example/example.wasm", nil},
	{"plugins/guest/go/example/example.wasm", nil},
}

func run(root string, messages uint64, interpret bool) error {
	vehicle, err := catalog.Builtin("vehicle")
	if err != nil {
		return err
	}
	classifier, err := catalog.New(vehicle)
	if err != nil {
		return err
	}
	for _, p := range plugins {
		line, err := replay(filepath.Join(root, p.file), p.config, classifier, messages, interpret)
		if err != nil {
			return fmt.Errorf("%s: %w", p.file, err)
		}
		fmt.Println(p.file, line)
	}
	return nil
}

// replay asks one plugin about every message and returns what came of it in one line.
func replay(file string, config map[string]any, classifier gateway.Classifier, messages uint64, interpret bool) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	manifest, err := wasm.ReadManifest(data)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	c := wasm.PluginConfig{Name: manifest.Name, Config: config, Grants: manifest.Grants,
		Edits: map[uint32]wasm.EditConfig{1: {Action: "generalize", Decimals: new(int)}, 2: {Action: "tokenize", Domain: "d"}, 3: {Action: "mask"}}}
	plugin, err := wasm.Load(context.Background(), c, data, wasm.Env{Pinned: []string{hex.EncodeToString(sum[:])}, Categories: classifier.Categories(), Instances: 1,
		Interpret: interpret, Tested: true})
	if err != nil {
		return "", err
	}
	defer plugin.Close()
	digest, fuel, edits := sha256.New(), uint64(0), 0
	for n := range messages {
		m, err := message(n)
		if err != nil {
			return "", err
		}
		var body gateway.Body
		if err := (payload.JSON{}).Decode(m.Payload, &body); err != nil {
			return "", err
		}
		var class gateway.Classification
		classifier.Classify(m, &body, &class)
		o := gateway.Opinion{Action: gateway.Pass}
		err = plugin.Filter(m, &body, &class, &o)
		fmt.Fprintf(digest, "%d %+v %v\n", n, o, err)
		fuel, edits = fuel+o.Fuel, edits+len(o.Edits)
	}
	return fmt.Sprintf("messages %d edits %d fuel %d sha256 %x", messages, edits, fuel, digest.Sum(nil)), nil
}

// message is the telemetry of a vehicle, the same for the same n.
func message(n uint64) (*gateway.Message, error) {
	random := rand.New(rand.NewPCG(n, 2026))
	var b bytes.Buffer
	number := func(most float64, digits int) string {
		return strconv.FormatFloat(random.Float64()*most, 'f', digits, 64)
	}
	fmt.Fprintf(&b, `{"vin":"LSVAU2180N2%06d","lat":39.%06d,"lon":116.%06d,"speed":%s,"soc":%s,"ts":%d`,
		random.IntN(1e6), random.IntN(1e6), random.IntN(1e6), number(180, 1), number(100, 0), 1_700_000_000+n)
	for i := range random.IntN(8) {
		fmt.Fprintf(&b, `,"trip_%d":{"start_lat":%s,"start_lon":%s}`, i, number(90, 5), number(180, 5))
	}
	if random.IntN(3) == 0 {
		fmt.Fprintf(&b, `,"phone":"138%08d"`, random.IntN(1e8))
	}
	b.WriteByte('}')
	return &gateway.Message{ID: gateway.ID{Incarnation: 1, Counter: n}, Source: "cars", Protocol: gateway.MQTT, Client: "car-" + strconv.Itoa(random.IntN(50)),
		Topic: "v1/car/telemetry", Payload: b.Bytes(), Received: time.UnixMilli(1_700_000_000_000 + int64(n))}, nil
}
