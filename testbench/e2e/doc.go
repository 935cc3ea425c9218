// Package e2e tells the whole story with programs of others on both sides: mosquitto_pub is the device, mosquitto the
// cloud, mosquitto_sub looks, and npm's jose decrypts. Its tests drive the binary only and need these programs:
//
//	go test -tags peers ./testbench/e2e
package e2e
