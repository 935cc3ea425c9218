// Package console serves what operators and scrapers ask a running gateway: health, metrics, and the questions of the
// command line, over TCP (admin.listen) and over a Unix socket in data_dir that only this user and root can use.
//
// Over TCP everything is read-only. What changes the gateway needs a caller whom the kernel vouches for: the socket's
// peer credentials. There is no way to switch that off.
//
// Goroutines: one per listener and those of net/http; all end before Run returns.
package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Condition is one thing that must hold for the gateway to be ready.
type Condition struct {
	Name   string `json:"name"` // source bench, journal, plugins
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // why not, or what to know although it is fine
}

// Caller is who asks over the socket.
type Caller struct {
	UID uint32
	PID int32
}

// Options say what the server answers with. Every func may be called at any time, concurrently.
type Options struct {
	Gatherer prometheus.Gatherer
	Ready    func() []Condition
	Reload   func(ctx context.Context, by Caller) error                         // put the configuration as it is on disk in force
	Query    map[string]func(ctx context.Context, r *http.Request) (any, error) // GET /api/v1/<name>: answered as JSON
	Private  map[string]func(ctx context.Context, r *http.Request) (any, error) // the same, over the socket only

	// Change answers what changes something, over the socket only, to a caller with a role: "POST journal/retry" is POST
	// /api/v1/journal/retry. Its error is one that the caller can do something about. r.Body is bounded.
	Change map[string]func(ctx context.Context, r *http.Request, by Caller) (any, error)
	Log    *slog.Logger
}

// Server serves one gateway.
type Server struct {
	o         Options
	listeners []listener
}

type listener struct {
	net.Listener
	handler http.Handler
}

// New makes a server without listeners.
func New(o Options) *Server { return &Server{o: o} }

// Listen adds a TCP listener. Profiles are served only when withProfiles is set: they show memory.
func (s *Server) Listen(address string, withProfiles bool) (net.Addr, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for admin: %w", err)
	}
	mux := s.reading()
	if withProfiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	}
	mux.HandleFunc("POST /-/reload", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "reload needs a caller with a role: use admin.sock, or send SIGHUP", http.StatusForbidden)
	})
	for name := range s.o.Change {
		mux.HandleFunc(changePattern(name), func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, http.StatusForbidden, map[string]string{"error": "this needs a caller with a role: ask on admin.sock, in data_dir"})
		})
	}
	s.listeners = append(s.listeners, listener{l, mux})
	return l.Addr(), nil
}

// ListenSocket adds the Unix socket, mode 0600. A socket left behind by a gateway that was killed is replaced; the
// caller makes sure, by the journal's lock, that no other gateway lives.
func (s *Server) ListenSocket(path string) error {
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("replace admin socket: %w", err)
		}
	}
	if len(path) > 100 { // sun_path holds 108 bytes
		if rel, err := relative(path); err == nil && len(rel) < len(path) {
			path = rel
		}
	}
	l, err := listenPrivate(path)
	if err != nil {
		return fmt.Errorf("listen on admin socket: %w", err)
	}
	mux := s.reading()
	mux.HandleFunc("POST /-/reload", s.change(func(ctx context.Context, _ *http.Request, by Caller) (any, error) {
		return map[string]bool{"ok": true}, s.o.Reload(ctx, by)
	}))
	for name, change := range s.o.Change {
		mux.HandleFunc(changePattern(name), s.change(change))
	}
	for name, query := range s.o.Private {
		mux.HandleFunc("GET /api/v1/"+name, func(w http.ResponseWriter, r *http.Request) { answer(w, r, query) })
	}
	s.listeners = append(s.listeners, listener{l, mux})
	return nil
}

func relative(path string) (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	return filepath.Rel(wd, path)
}

// Run serves until ctx ends, then gives answers in hand a second.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, len(s.listeners))
	for i, l := range s.listeners {
		srv := &http.Server{Handler: l.handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute,
			MaxHeaderBytes: 16 << 10, ConnContext: withCaller, ErrorLog: slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug)}
		wg.Go(func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				errs[i] = fmt.Errorf("serve admin: %w", err)
			}
		})
		wg.Go(func() {
			<-ctx.Done()
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if srv.Shutdown(last) != nil {
				srv.Close()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// reading is what every listener answers.
func (s *Server) reading() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.o.Gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4}))
	for name, query := range s.o.Query {
		mux.HandleFunc("GET /api/v1/"+name, func(w http.ResponseWriter, r *http.Request) { answer(w, r, query) })
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "sluice: /healthz /readyz /metrics /api/v1/")
	})
	return mux
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	conditions, status := s.o.Ready(), http.StatusOK
	for _, c := range conditions {
		if !c.OK {
			status = http.StatusServiceUnavailable
		}
	}
	writeJSON(w, status, map[string]any{"ready": status == http.StatusOK, "conditions": conditions})
}

// maxChange bounds what a caller may send along, in bytes.
const maxChange = 1 << 20

// changePattern makes "POST journal/retry" a pattern of the mux.
func changePattern(name string) string {
	method, path, ok := strings.Cut(name, " ")
	if !ok {
		panic("console: change without a method: " + name)
	}
	return method + " /api/v1/" + path
}

// change answers a caller for whom the kernel vouches: root, or the gateway's own user.
func (s *Server) change(fn func(context.Context, *http.Request, Caller) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		by, ok := r.Context().Value(callerKey{}).(Caller)
		if !ok || (by.UID != 0 && by.UID != uint32(os.Getuid())) {
			s.o.Log.Warn("change refused: the caller has no role", "path", r.URL.Path)
			http.Error(w, "the caller has no role", http.StatusForbidden)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxChange)
		v, err := fn(r.Context(), r, by)
		if err != nil {
			writeJSON(w, http.StatusUnprocessableEntity, map[string]string{"error": err.Error()})
			return
		}
		writeJSON(w, http.StatusOK, v)
	}
}

func answer(w http.ResponseWriter, r *http.Request, query func(context.Context, *http.Request) (any, error)) {
	v, err := query(r.Context(), r)
	if err != nil {
		writeJSON(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, v)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

type callerKey struct{}

// withCaller notes who is at the other end of a Unix socket, as the kernel says.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	if by, err := peer(u); err == nil {
		return context.WithValue(ctx, callerKey{}, by)
	}
	return ctx
}
