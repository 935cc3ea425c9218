// Package console serves what operators and scrapers ask a running gateway: health, metrics, and the questions of the
// command line, over TCP (admin.listen) and over a Unix socket in data_dir.
//
// Reading needs no role. What changes the gateway needs a caller with the role that the change names: over the socket the
// kernel says who asks, over TCP a bearer token or a client certificate does. A role file says who has which role; without
// one root and the gateway's own user operate it over the socket, and nobody over TCP. There is no way to switch that off.
//
// Goroutines: one per listener and those of net/http; all end before Run returns.
package console

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
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

// Options say what the server answers with. Every func may be called at any time, concurrently.
type Options struct {
	Gatherer prometheus.Gatherer
	Ready    func() []Condition
	Reload   func(ctx context.Context, want url.Values, by Caller) error        // put the configuration as it is on disk in force, as the query of the address wants it; needs Operator
	Query    map[string]func(ctx context.Context, r *http.Request) (any, error) // GET /api/v1/<name>: answered as JSON
	Private  map[string]func(ctx context.Context, r *http.Request) (any, error) // the same, over the socket only, to callers with any role
	Change   map[string]Change                                                  // "POST journal/retry" is POST /api/v1/journal/retry
	Roles    *Roles                                                             // nil: no role file
	Refused  func(Refusal)                                                      // puts a refusal on the record; not called for more than a few a minute
	Log      *slog.Logger
}

// Server serves one gateway.
type Server struct {
	o         Options
	own       uint32 // the gateway's own user
	listeners []listener
	origins   *http.CrossOriginProtection

	roles            atomic.Pointer[Roles] // nil: no role file
	named, strangers bucket                // refusals of callers that are known, and of others

	socket string // path of the socket, "" before ListenSocket
	tls    TLS
	secure atomic.Pointer[tls.Config] // nil: plain TCP
}

type listener struct {
	net.Listener
	handler http.Handler
}

// readTimeout is for a request that carries little.
const readTimeout = 30 * time.Second

// New makes a server without listeners.
func New(o Options) *Server {
	s := &Server{o: o, own: uint32(os.Getuid()), origins: http.NewCrossOriginProtection()}
	s.roles.Store(o.Roles)
	return s
}

// Listen adds a TCP listener, with TLS when that names a certificate. Profiles are served only when withProfiles is set:
// they show memory.
func (s *Server) Listen(address string, secure TLS, withProfiles bool) (net.Addr, error) {
	config, err := secure.load()
	if err != nil {
		return nil, fmt.Errorf("listen for admin: %w", err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for admin: %w", err)
	}
	addr := l.Addr()
	d := door{tokens: config != nil || addr.(*net.TCPAddr).IP.IsLoopback()}
	mux := s.reading()
	if withProfiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	}
	s.changing(mux, d)
	if config != nil {
		s.tls = secure
		s.secure.Store(config)
		l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.secure.Load(), nil }})
	}
	s.listeners = append(s.listeners, listener{l, mux})
	return addr, nil
}

// ListenSocket adds the Unix socket: mode 0600, or 0666 when the role file names other users, whom the kernel then still
// tells apart. A socket left behind by a gateway that was killed is replaced; the caller makes sure, by the journal's
// lock, that no other gateway lives.
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
	s.socket = path
	if err := s.open(s.roles.Load()); err != nil {
		l.Close()
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", s.knownOnly(s.reading()))
	d := door{socket: true}
	s.changing(mux, d)
	for name, query := range s.o.Private {
		mux.HandleFunc("GET /api/v1/"+name, s.private(d, "GET "+name, query))
	}
	s.listeners = append(s.listeners, listener{l, mux})
	return nil
}

// changing adds the calls that change something.
func (s *Server) changing(mux *http.ServeMux, d door) {
	mux.HandleFunc("POST /-/reload", s.change(d, "POST /-/reload", Change{Role: Operator, Do: func(ctx context.Context, r *http.Request, by Caller) (any, error) {
		return map[string]bool{"ok": true}, s.o.Reload(ctx, r.URL.Query(), by)
	}}))
	for name, c := range s.o.Change {
		mux.HandleFunc(changePattern(name), s.change(d, name, c))
	}
}

// open lets those connect whom the roles name.
func (s *Server) open(roles *Roles) error {
	if s.socket == "" {
		return nil
	}
	mode := os.FileMode(0o600)
	if roles.Others(s.own) {
		mode = 0o666
	}
	if err := os.Chmod(s.socket, mode); err != nil {
		return fmt.Errorf("open admin socket: %w", err)
	}
	return nil
}

// Renew puts roles in force and reads the certificates of the TCP listener again: both, or with an error neither. A call
// in hand ends with the role that it began with.
func (s *Server) Renew(roles *Roles) error {
	config, err := s.tls.load()
	if err != nil {
		return fmt.Errorf("renew admin certificate: %w", err)
	}
	if err := s.open(roles); err != nil {
		return err
	}
	s.roles.Store(roles)
	if config != nil {
		s.secure.Store(config)
	}
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
		srv := &http.Server{Handler: l.handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: readTimeout, IdleTimeout: time.Minute,
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

// changePattern makes "POST journal/retry" a pattern of the mux.
func changePattern(name string) string {
	method, path, ok := strings.Cut(name, " ")
	if !ok {
		panic("console: change without a method: " + name)
	}
	return method + " /api/v1/" + path
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
