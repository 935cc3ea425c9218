//go:build peers

package stand

import (
	"testing"

	"github.com/sluice-edge/sluice/testbench/traffic"
)

// TestABridgePassesEverything shows that the brokers of the bench lose nothing by themselves, so that a loss is the gate's.
func TestABridgePassesEverything(t *testing.T) {
	dir := t.TempDir()
	cloud, err := StartBroker(t.Context(), dir, "cloud", BrokerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer cloud.Kill()
	edge, err := StartBroker(t.Context(), dir, "edge", BrokerOptions{Persist: true, BridgeTo: cloud.Addr})
	if err != nil {
		t.Fatal(err)
	}
	defer edge.Kill()
	r, err := traffic.Start(t.Context(), traffic.Config{Devices: []string{edge.Addr}, Cloud: cloud.Addr, Connections: 4, QoS: 1, CloudQoS: 1,
		Window: 128, Size: 1024, Count: 20000, Capacity: 20000, Watch: []traffic.Process{{Name: "edge", PID: edge.PID()}}})
	if err != nil {
		t.Fatal(err)
	}
	rep, err := r.Wait()
	if err != nil || rep.Lost != 0 || rep.Arrived != 20000 || rep.Strangers != 0 || rep.Processes[0].PeakRSS == 0 {
		t.Errorf("%v: %+v", err, rep)
	}
	if err := edge.Stop(); err != nil {
		t.Error(err)
	}
}
