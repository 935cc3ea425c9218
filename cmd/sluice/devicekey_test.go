package main

import (
	"testing"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
)

// The devices of a canary stay the same over restarts of a gateway, and are others at another gateway.
func TestDevicesStayWhereTheyAreAmongCanaries(t *testing.T) {
	keys := map[[32]byte]int{}
	for range 2 {
		d := &demo{dir: t.TempDir(), cloud: &demoCloud{address: "127.0.0.1:1"}}
		file, err := d.configure("127.0.0.1:0", "")
		if err != nil {
			t.Fatal(err)
		}
		cfg, report := loadConfig(file, time.Now())
		if err := report.Err(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			ring, err := keyring.Open(cfg.KeyDir)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ensureKeys(cfg, ring); err != nil {
				t.Fatal(err)
			}
			key, err := deviceKey(cfg, ring)
			if err != nil {
				t.Fatal(err)
			}
			keys[key]++
		}
	}
	for key, n := range keys {
		if n != 2 || key == [32]byte{} {
			t.Errorf("key %x came %d times", key, n)
		}
	}
	if len(keys) != 2 {
		t.Errorf("%d keys of two gateways", len(keys))
	}
}
