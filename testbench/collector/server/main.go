// Command server is a collector for the archives of gateways: it keeps files and signs receipts.
//
//	sluice keys new --use audit --id collector-1 --dir keys
//	go run ./testbench/collector/server --listen 127.0.0.1:8600 --dir kept --key keys/collector-1.key
//
// It speaks plain HTTP and belongs behind a proxy that ends TLS. Gateways are given keys/collector-1.pub as
// audit.ship.receipt_key. --fault makes it lie, for tests. It ends with an interrupt; exit status 2 is for usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/crypto/signed"
	"github.com/sluice-edge/sluice/testbench/collector"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8600", "HOST:PORT to listen on")
	dir := flag.String("dir", "", "folder to keep files in")
	key := flag.String("key", "", "private key `file` of an audit key, to sign receipts with")
	token := flag.String("token", os.Getenv("COLLECTOR_TOKEN"), "bearer token that gateways must show; default: COLLECTOR_TOKEN")
	fault := flag.String("fault", "", fmt.Sprintf("what to do wrong, one of %v", collector.Faults))
	flag.Parse()
	if *dir == "" || *key == "" || flag.NArg() > 0 || *fault != "" && !slices.Contains(collector.Faults, collector.Fault(*fault)) {
		fmt.Fprintln(os.Stderr, "server: error: want --dir DIR and --key FILE")
		flag.Usage()
		os.Exit(2)
	}
	if err := serve(*listen, *dir, *key, *token, collector.Fault(*fault)); err != nil {
		fmt.Fprintln(os.Stderr, "server: error:", err)
		os.Exit(1)
	}
}

func serve(listen, dir, keyFile, token string, fault collector.Fault) error {
	k, err := keyring.ReadPrivate(keyFile)
	if err != nil {
		return err
	}
	if k.Use != keyring.Audit {
		return fmt.Errorf("read key %q: it is for %s; want one for audit", keyFile, k.Use)
	}
	signer, err := signed.NewSigner(k.ID, [32]byte(k.Secret()))
	k.Destroy()
	if err != nil {
		return err
	}
	c, err := collector.New(collector.Options{Dir: dir, Signer: signer, Token: token, Fault: fault})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := &http.Server{Addr: listen, Handler: c, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Minute}
	go func() {
		<-ctx.Done()
		s.Close()
	}()
	fmt.Printf("collector %s listens on %s, keeps files in %s\n", signer.VerifierKey(), listen, dir)
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
