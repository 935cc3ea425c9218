package main

import (
	"slices"
	"testing"
	"time"
)

func TestFlagsBecomeALoad(t *testing.T) {
	cfg, unfiltered, err := parse([]string{"--devices", "tcp://127.0.0.1:1,127.0.0.1:2", "--cloud", "tcp://127.0.0.1:3", "--qos", "0",
		"--connections", "2", "--pid", "sluice=7", "--pid", "cloud=8", "--unfiltered"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cfg.Devices, []string{"127.0.0.1:1", "127.0.0.1:2"}) || cfg.Cloud != "127.0.0.1:3" || cfg.QoS != 0 || cfg.CloudQoS != 1 ||
		cfg.Connections != 2 || cfg.Duration != 10*time.Second || !unfiltered || len(cfg.Watch) != 2 || cfg.Watch[0].PID != 7 {
		t.Errorf("%+v", cfg)
	}
	for _, args := range [][]string{{}, {"--devices", "a:1", "--qos", "2"}, {"--devices", "a:1", "--pid", "x"}, {"--devices", "a:1", "extra"}} {
		if _, _, err := parse(args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
