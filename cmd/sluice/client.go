package main

import (
	"bytes"
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

// errClosed means that a gateway may run, and this user may not talk to it.
var errClosed = errors.New("ask the gateway: admin.sock is closed to this user")

// errNoRole means that the gateway does not do this for this user.
var errNoRole = errors.New("ask the gateway: refused")

// ask sends a question to the gateway that runs on the configuration's data_dir and decodes its answer.
func ask(ctx context.Context, cfg *Config, question string, query url.Values, into any) error {
	return send(ctx, cfg, http.MethodGet, question+"?"+query.Encode(), nil, into)
}

// tell sends the gateway what changes something, as JSON, and decodes its answer.
func tell(ctx context.Context, cfg *Config, method, change string, what, into any) error {
	body, err := json.Marshal(what)
	if err != nil {
		return err
	}
	return send(ctx, cfg, method, change, body, into)
}

func send(ctx context.Context, cfg *Config, method, path string, body []byte, into any) error {
	socket := adminSocket(cfg)
	client := &http.Client{Timeout: 10 * time.Minute, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", shortPath(socket))
	}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://gateway/api/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return errNoGateway
	}
	if errors.Is(err, syscall.EACCES) {
		return errClosed
	}
	if err != nil {
		return fmt.Errorf("ask the gateway: %w", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("ask the gateway: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var e struct{ Error, Hint string }
		if json.Unmarshal(answer, &e) != nil || e.Error == "" {
			e.Error = resp.Status
		}
		if resp.StatusCode == http.StatusForbidden {
			return fmt.Errorf("%w: %s", errNoRole, e.Error)
		}
		return hinted{fmt.Errorf("ask the gateway: %s", e.Error), e.Hint}
	}
	return json.Unmarshal(answer, into)
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
