package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// errNoGateway means that no gateway answers on the admin socket: the files may be opened instead.
var errNoGateway = errors.New("no gateway runs on this data_dir")

// ask sends a question to the gateway that runs on the configuration's data_dir and decodes its answer.
func ask(ctx context.Context, cfg *Config, question string, query url.Values, into any) error {
	socket := adminSocket(cfg)
	client := &http.Client{Timeout: 10 * time.Minute, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", shortPath(socket))
	}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gateway/api/v1/"+question+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return errNoGateway
	}
	if err != nil {
		return fmt.Errorf("ask the gateway: %w", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("ask the gateway: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var e struct{ Error string }
		if json.Unmarshal(body, &e) != nil || e.Error == "" {
			e.Error = resp.Status
		}
		return fmt.Errorf("ask the gateway: %s", e.Error)
	}
	return json.Unmarshal(body, into)
}

// shortPath makes a socket path relative when it is too long for the kernel.
func shortPath(path string) string {
	if len(path) <= 100 {
		return path
	}
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, path); err == nil && len(rel) < len(path) {
			return rel
		}
	}
	return path
}
