package console

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Caller is who asks. Name is how the record calls it: "uid 1000", "token ci", "certificate dso".
type Caller struct {
	UID   uint32 // over the socket only
	PID   int32
	Name  string
	Roles []Role

	known bool // root, the gateway's own user, or in the role file
}

// door is a way in: the socket or a TCP listener.
type door struct {
	socket bool
	tokens bool // a token is not readable on the way: TLS, or loopback
}

// Change is a call that changes something.
type Change struct {
	Role    Role  // that its caller needs
	MaxBody int64 // bytes that may be sent along; 0: 1 MiB

	// Do does it. Its error is one that the caller can do something about; one with a method Hint says what. r.Body is bounded.
	Do func(ctx context.Context, r *http.Request, by Caller) (any, error)
}

// Refusal is a call that was refused because its caller lacks a role.
type Refusal struct {
	Call       string // method and path as registered
	Private    bool   // it would only have read
	Role       Role   // that it needs; "" any
	By         string
	Unrecorded int // refusals since the last one that were not handed on: there were too many
}

// Bounds of a body where a change does not say, of the slowest sender, and of refusals that are handed on.
const (
	maxChange     = 1 << 20
	slowestBody   = 64 << 10 // bytes a second
	maxRefusals   = 10       // a minute
	refusalWindow = time.Minute
)

// change answers callers who have the role that c needs.
func (s *Server) change(d door, call string, c Change) http.HandlerFunc {
	if !slices.Contains(roleNames, c.Role) {
		panic("console: " + call + " does not say which role it needs")
	}
	if c.MaxBody == 0 {
		c.MaxBody = maxChange
	}
	return func(w http.ResponseWriter, r *http.Request) {
		by, ok := s.allow(w, r, d, Refusal{Call: call, Role: c.Role})
		if !ok {
			return
		}
		if c.MaxBody > maxChange { // more than what the server's own limit is meant for
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTimeout + time.Duration(c.MaxBody/slowestBody)*time.Second))
		}
		r.Body = http.MaxBytesReader(w, r.Body, c.MaxBody)
		v, err := c.Do(r.Context(), r, by)
		if large := new(http.MaxBytesError); errors.As(err, &large) {
			writeJSON(w, http.StatusRequestEntityTooLarge, map[string]string{"error": fmt.Sprintf("more than %d bytes sent along", c.MaxBody)})
			return
		}
		if err != nil {
			answer := map[string]string{"error": err.Error()}
			if h := interface{ Hint() string }(nil); errors.As(err, &h) {
				answer["hint"] = h.Hint()
			}
			writeJSON(w, http.StatusUnprocessableEntity, answer)
			return
		}
		writeJSON(w, http.StatusOK, v)
	}
}

// private answers callers who have any role.
func (s *Server) private(d door, call string, query func(context.Context, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, ok := s.allow(w, r, d, Refusal{Call: call, Private: true}); ok {
			answer(w, r, query)
		}
	}
}

// allow finds out who asks and whether it has the role; otherwise it answers, logs and hands the refusal on.
func (s *Server) allow(w http.ResponseWriter, r *http.Request, d door, ref Refusal) (Caller, bool) {
	by, how := s.caller(r, d)
	if slices.Contains(by.Roles, ref.Role) || ref.Role == "" && len(by.Roles) > 0 {
		return by, true
	}
	ref.By = by.Name
	s.refuse(ref, by.known)
	need := "the role " + string(ref.Role)
	if ref.Role == "" {
		need = "a role"
	}
	writeJSON(w, http.StatusForbidden, map[string]string{"role": string(ref.Role),
		"error": fmt.Sprintf("this needs %s, and %s has %s: %s", need, by.Name, rolesText(by.Roles), how)})
	return Caller{}, false
}

// caller says who asks, and for one that lacks a role how to get it.
func (s *Server) caller(r *http.Request, d door) (by Caller, how string) {
	roles := s.roles.Load()
	if d.socket {
		peer, ok := r.Context().Value(callerKey{}).(Caller)
		if !ok {
			return Caller{Name: "an unknown user"}, "the system does not say who asks; send SIGHUP to reload"
		}
		by = Caller{UID: peer.UID, PID: peer.PID, Name: fmt.Sprintf("uid %d", peer.UID)}
		by.Roles, by.known = roles.ofUID(peer.UID, s.own), roles.known(peer.UID, s.own)
		if roles == nil {
			return by, fmt.Sprintf("ask as root or as the gateway's user (uid %d), or give %s the role in a role file (admin.roles)", s.own, by.Name)
		}
		return by, fmt.Sprintf("give %s the role in the role file (admin.roles) and reload with SIGHUP", by.Name)
	}
	nobody := Caller{Name: "nobody over TCP"}
	if roles == nil {
		return nobody, "ask on admin.sock in data_dir, or name callers in a role file (admin.roles)"
	}
	if err := s.origins.Check(r); err != nil {
		return nobody, "a page of another site does not speak for whoever looks at it"
	}
	if shown := r.Header.Values("Authorization"); len(shown) > 0 { // whoever shows a token is judged by it alone
		scheme, token, _ := strings.Cut(shown[0], " ")
		switch {
		case !d.tokens:
			return Caller{Name: "a token over plain TCP"}, "it could be read on the way: set admin.tls, or ask on this machine"
		case len(shown) > 1 || !strings.EqualFold(scheme, "Bearer"):
			return nobody, "send one header Authorization: Bearer TOKEN"
		}
		h, ok := roles.ofToken(token)
		if !ok {
			return Caller{Name: "an unknown token"}, "give its SHA-256 the role in the role file (admin.roles) and reload"
		}
		return Caller{Name: "token " + h.name, Roles: h.roles, known: true}, "give it the role in the role file (admin.roles) and reload"
	}
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nobody, "show a token (Authorization: Bearer TOKEN) or a client certificate that the role file (admin.roles) names"
	}
	leaf := r.TLS.VerifiedChains[0][0]
	sum := sha256.Sum256(leaf.Raw)
	h, ok := find(roles.certificates, sum)
	if !ok {
		return Caller{Name: "certificate " + hex.EncodeToString(sum[:])}, "give its SHA-256 the role in the role file (admin.roles) and reload"
	}
	by = Caller{Name: "certificate " + h.name, Roles: h.roles, known: true}
	if time.Now().After(leaf.NotAfter) { // since the connection was made
		by.Roles = nil
		return by, "the certificate has expired"
	}
	return by, "give it the role in the role file (admin.roles) and reload"
}

// refuse logs a refusal and hands it on, unless there were too many: those are counted and told with the next.
func (s *Server) refuse(ref Refusal, known bool) {
	b := &s.strangers
	if known { // strangers cannot hide what somebody with a name tries
		b = &s.named
	}
	var ok bool
	if ref.Unrecorded, ok = b.take(time.Now()); !ok {
		return
	}
	s.o.Log.Warn("call refused: the caller lacks the role", "call", ref.Call, "role", ref.Role, "by", ref.By, "unrecorded", ref.Unrecorded)
	s.o.Refused(ref)
}

// bucket lets maxRefusals pass in each window and counts the others.
type bucket struct {
	mu     sync.Mutex // guards what follows
	began  time.Time
	passed int
	missed int
}

// take reports whether one more may pass, and how many did not since the last that did.
func (b *bucket) take(now time.Time) (missed int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.began) >= refusalWindow {
		b.began, b.passed = now, 0
	}
	if b.passed == maxRefusals {
		b.missed++
		return 0, false
	}
	b.passed++
	missed, b.missed = b.missed, 0
	return missed, true
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

// knownOnly keeps reading over the socket to those whom its mode kept it to: root, the gateway's own user and whom the
// role file names, for whose sake everybody can connect.
func (s *Server) knownOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		roles := s.roles.Load()
		by, ok := r.Context().Value(callerKey{}).(Caller)
		if ok && !roles.known(by.UID, s.own) || !ok && roles.Others(s.own) {
			writeJSON(w, http.StatusForbidden, map[string]string{"error": "admin.sock answers root, the gateway's user and users in the role file (admin.roles); ask on admin.listen"})
			return
		}
		next.ServeHTTP(w, r)
	})
}
