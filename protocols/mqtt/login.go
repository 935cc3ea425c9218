package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/argon2"
)

// Parameters of new hashes, for gateways with little memory: 19 MiB, two passes, one lane. A line carries its own
// parameters, within the limits.
const (
	hashMemory  = 19 << 10 // KiB
	hashTime    = 2
	hashThreads = 1
	hashSalt    = 16
	hashKey     = 32

	maxHashMemory  = 256 << 10 // KiB
	maxHashTime    = 16
	maxHashThreads = 8
)

// maxVerifying bounds the argon2id computations at one time: each takes the memory its line asks for.
const maxVerifying = 2

// password is one line of a users file.
type password struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

// HashPassword returns the hash of a password as it stands behind the colon of a users_file line:
// $argon2id$v=19$m=19456,t=2,p=1$SALT$KEY, base64 without padding.
func HashPassword(plain string) (string, error) {
	salt := make([]byte, hashSalt)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	key := argon2.IDKey([]byte(plain), salt, hashTime, hashMemory, hashThreads, hashKey)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, hashMemory, hashTime, hashThreads,
		b64.EncodeToString(salt), b64.EncodeToString(key)), nil
}

// parsePassword reads a hash and refuses parameters that are too weak to mean anything or too costly to compute.
func parsePassword(s string) (password, error) {
	var p password
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return p, fmt.Errorf("want $argon2id$v=19$m=…,t=…,p=…$SALT$KEY")
	}
	if parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, fmt.Errorf("want argon2 version %d", argon2.Version)
	}
	var threads uint32
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &threads); n != 3 || err != nil {
		return p, fmt.Errorf("want parameters m=…,t=…,p=…")
	}
	if p.memory < 8*threads || p.memory > maxHashMemory || p.time < 1 || p.time > maxHashTime || threads < 1 || threads > maxHashThreads {
		return p, fmt.Errorf("want m up to %d, t from 1 to %d, p from 1 to %d", maxHashMemory, maxHashTime, maxHashThreads)
	}
	p.threads = uint8(threads)
	var err error
	if p.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil || len(p.salt) < 8 || len(p.salt) > 64 {
		return p, fmt.Errorf("want a salt of 8 to 64 bytes in base64 without padding")
	}
	if p.key, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(p.key) < 16 || len(p.key) > 64 {
		return p, fmt.Errorf("want a key of 16 to 64 bytes in base64 without padding")
	}
	return p, nil
}

func (p *password) matches(plain []byte) bool {
	key := argon2.IDKey(plain, p.salt, p.time, p.memory, p.threads, uint32(len(p.key)))
	return subtle.ConstantTimeCompare(key, p.key) == 1
}

// users verifies logins against a users file. Safe for concurrent use.
type users struct {
	slots chan struct{} // one per running computation
	salt  [32]byte      // of the digests in good

	mu    sync.Mutex // guards what follows
	lines map[string]password
	good  map[string][32]byte // digest of the password that last passed, so that a storm of reconnects costs no argon2id
}

// loadUsers reads a users file.
func loadUsers(file string) (*users, error) {
	u := &users{slots: make(chan struct{}, maxVerifying)}
	if _, err := rand.Read(u.salt[:]); err != nil {
		return nil, fmt.Errorf("load users: %w", err)
	}
	return u, u.load(file)
}

// load replaces the lines by those of the file; on error the old ones stay in force.
func (u *users) load(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("load users: %w", err)
	}
	lines := map[string]password{}
	scan := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSpace(scan.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return fmt.Errorf("load users: %s:%d: want NAME:HASH", file, n)
		}
		if _, twice := lines[name]; twice {
			return fmt.Errorf("load users: %s:%d: name stands twice", file, n)
		}
		p, err := parsePassword(hash)
		if err != nil {
			return fmt.Errorf("load users: %s:%d: %w", file, n, err)
		}
		lines[name] = p
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("load users: %s: %w", file, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lines, u.good = lines, map[string][32]byte{}
	return nil
}

// verify reports whether the password is the user's. An unknown user costs as much as a wrong password, so that the time
// does not tell them apart. It waits for one of few computing slots; ctx bounds that.
func (u *users) verify(ctx context.Context, name string, plain []byte) bool {
	digest := u.digest(name, plain)
	u.mu.Lock()
	p, known := u.lines[name]
	last, passed := u.good[name]
	if !known {
		for _, p = range u.lines { // any line: only its cost counts
			break
		}
	}
	u.mu.Unlock()
	if passed && hmac.Equal(last[:], digest[:]) {
		return true
	}
	if p.key == nil {
		return false // no users at all
	}
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		return false
	}
	if !p.matches(plain) || !known {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if now, still := u.lines[name]; !still || !bytes.Equal(now.key, p.key) {
		return false // the file was replaced in between
	}
	u.good[name] = digest
	return true
}

// digest is what is remembered of a password: useless outside of this process.
func (u *users) digest(name string, plain []byte) (d [32]byte) {
	mac := hmac.New(sha256.New, u.salt[:])
	fmt.Fprintf(mac, "%d:%s", len(name), name)
	mac.Write(plain)
	mac.Sum(d[:0])
	return d
}
