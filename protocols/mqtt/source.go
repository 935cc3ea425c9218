package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
)

// Source takes in what devices publish over MQTT 3.1.1.
type Source struct {
	name   string
	config SourceConfig
	log    *slog.Logger
	users  *users // nil: no passwords
	hints  *hints
	tls    atomic.Pointer[tls.Config] // nil: plain TCP
	expiry atomic.Int64               // of the certificate, seconds since 1970

	mu       sync.Mutex // guards what follows
	listener net.Listener
	sessions map[string]*session // by client id
}

// NewSource prepares a source: it loads certificates and users but does not listen yet. Zero fields of c take their
// documented defaults; c is expected to have passed Check.
func NewSource(name string, c SourceConfig, log *slog.Logger) (*Source, error) {
	config.Defaults(&c)
	s := &Source{name: name, config: c, log: log, hints: newHints(name, log), sessions: map[string]*session{}}
	if scheme, _, err := splitListen(c.Listen); err != nil {
		return nil, fmt.Errorf("open source %q: %w", name, err)
	} else if scheme == "tls" {
		if err := s.ReloadTLS(); err != nil {
			return nil, err
		}
	}
	if c.UsersFile != "" {
		u, err := loadUsers(c.UsersFile)
		if err != nil {
			return nil, fmt.Errorf("open source %q: %w", name, err)
		}
		s.users = u
	}
	return s, nil
}

// ReloadTLS reads certificate, key and client authorities again, for connections from now on. On error the old ones stay
// in force. Without TLS it does nothing. Safe for concurrent use.
func (s *Source) ReloadTLS() error {
	if scheme, _, _ := splitListen(s.config.Listen); scheme != "tls" {
		return nil
	}
	fresh, expiry, err := sourceTLS(&s.config.TLS)
	if err != nil {
		return fmt.Errorf("open source %q: %w", s.name, err)
	}
	s.expiry.Store(expiry.Unix())
	s.tls.Store(fresh)
	return nil
}

// KeepTLS returns a function that puts the certificate in force now in force again, whatever was read since.
func (s *Source) KeepTLS() (back func()) {
	kept, expiry := s.tls.Load(), s.expiry.Load()
	return func() {
		s.expiry.Store(expiry)
		s.tls.Store(kept)
	}
}

// ReloadUsers reads the users file again, for logins from now on. On error the old users stay in force. Without a users
// file it does nothing. Safe for concurrent use.
func (s *Source) ReloadUsers() error {
	if s.users == nil {
		return nil
	}
	if err := s.users.load(s.config.UsersFile); err != nil {
		return fmt.Errorf("open source %q: %w", s.name, err)
	}
	return nil
}

// CertExpiry returns when the certificate in force ends, the zero time without TLS.
func (s *Source) CertExpiry() time.Time {
	if s.tls.Load() == nil {
		return time.Time{}
	}
	return time.Unix(s.expiry.Load(), 0)
}

// Listen binds the address, so that Addr is known and devices may connect; Run then takes them in. Run calls it when
// nobody has. After Run ended it may be called again.
func (s *Source) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		return nil
	}
	_, address, _ := strings.Cut(s.config.Listen, "://")
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("open source %q: %w", s.name, err)
	}
	s.listener = l
	return nil
}

// Addr returns the address that is listened on, nil while none is.
func (s *Source) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// stopWithin is how long a source that stops waits for what is in hand, whatever DrainTimeout allows a connection: the
// power may go next.
const stopWithin = 900 * time.Millisecond

// Run takes devices in until ctx ends. It then stops reading, waits for what is in hand, up to DrainTimeout and not longer
// than 900 ms, acknowledges that and returns when every connection is closed. It returns early only when it cannot listen.
func (s *Source) Run(ctx context.Context, gate gateway.Gate) error {
	if err := s.Listen(); err != nil {
		return err
	}
	s.mu.Lock()
	l := s.listener
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // shows in Accept
	defer stop()
	s.log.Info("source up", "source", s.name, "listen", l.Addr().String())

	var running sync.WaitGroup
	late, expire := context.WithCancel(context.WithoutCancel(ctx))
	defer expire()
	s.accept(ctx, late, l, gate, &running)
	s.mu.Lock()
	s.listener = nil
	s.mu.Unlock()
	limit := time.AfterFunc(max(goodbye, min(s.config.DrainTimeout, stopWithin)), expire)
	defer limit.Stop()
	running.Wait()
	s.log.Info("source down", "source", s.name)
	return nil
}

// accept starts a session for every connection until ctx ends; none outlives late. Errors of the system, such as too many open files, are
// waited out.
func (s *Source) accept(ctx, late context.Context, l net.Listener, gate gateway.Gate, running *sync.WaitGroup) {
	const longest = time.Second
	pause, full := time.Duration(0), false
	slots := make(chan struct{}, s.config.MaxConnections)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close() // nothing was read from it
			}
			return
		}
		if err != nil {
			if pause == 0 {
				s.log.Error("accept connection", "source", s.name, "err", err)
			}
			pause = min(max(2*pause, 5*time.Millisecond), longest)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		pause = 0
		select {
		case slots <- struct{}{}:
			full = false
		default:
			if !full {
				s.log.Warn("connection refused: max_connections reached", "source", s.name)
			}
			full = true
			_ = conn.Close() // nothing was read from it
			continue
		}
		session := newSession(ctx, late, s, gate, conn)
		running.Go(func() {
			defer func() { <-slots }()
			session.serve()
		})
	}
}

// enter makes the session the one of its client id. A former one is closed, and its reader has ended when enter returns
// true, so that the client's messages stay in order. [MQTT-3.1.4-2] False: it did not end before ctx did.
func (s *Source) enter(ctx context.Context, fresh *session) bool {
	s.mu.Lock()
	former := s.sessions[fresh.id]
	s.sessions[fresh.id] = fresh
	s.mu.Unlock()
	if former == nil {
		return true
	}
	former.kill()
	select {
	case <-former.reader:
		return true
	case <-ctx.Done():
		return false
	}
}

// forget takes the session out unless another has taken its client id over.
func (s *Source) forget(old *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[old.id] == old {
		delete(s.sessions, old.id)
	}
}

// ended counts and logs why a session ended.
func (s *Source) ended(old *session, err error) {
	var frame *ConnError
	var no *refused
	switch {
	case errors.As(err, &frame):
		old.gate.Refuse(s.name, gateway.RefusedMalformed, 1)
	case errors.As(err, &no) && no.reason != "":
		old.gate.Refuse(s.name, no.reason, 1)
	default:
		s.log.Debug("connection ended", "source", s.name, "device", s.hints.device(old.id), "err", err)
		return
	}
	if s.hints.first(err.Error() + " " + s.hints.device(old.id)) {
		s.log.Warn("connection refused", "source", s.name, "device", s.hints.device(old.id), "err", err)
	}
}
