// Package collector is a small reference of the server that gateways ship their archives to. The protocol is that of
// package gateway/ship. It keeps each file under DIR/<gateway>/<first>-<next>, synced with its folder before it signs for
// it, and never overwrites one: the same bytes again are answered with a receipt again, and so are, with a receipt for the
// file that it has, others of the same records, by the root that was stated of them, which lies beside the file as
// root-<first>-<next>. Others are refused, and so is a range that overlaps another, because a log has one history.
package collector

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-edge/sluice/crypto/signed"
)

// Options say what a collector keeps and how.
type Options struct {
	Dir    string         // made when it does not exist
	Signer *signed.Signer // of receipts
	Token  string         // wanted of gateways; empty: none
	Max    int64          // bytes of one file; 0: 256 MiB
	Fault  Fault          // what it does wrong
	Clock  func() time.Time
}

// Fault is what a collector does wrong, for tests of gateways.
type Fault string

// The faults.
const (
	NoFault      Fault = ""
	WrongDigest  Fault = "wrong-digest"  // the receipt states another digest
	WrongGateway Fault = "wrong-gateway" // … another gateway
	WrongRange   Fault = "wrong-range"   // … another range
	Unsigned     Fault = "unsigned"      // … and is not signed
	Replay       Fault = "replay"        // the receipt of the first file, for ever
	Endless      Fault = "endless"       // the answer does not end
	Silent       Fault = "silent"        // there is none
	Redirect     Fault = "redirect"      // it is elsewhere
	Broken       Fault = "broken"        // 500
)

// Faults lists them all.
var Faults = []Fault{WrongDigest, WrongGateway, WrongRange, Unsigned, Replay, Endless, Silent, Redirect, Broken}

// nameForm is the path of an archive.
var nameForm = regexp.MustCompile(`^/([A-Za-z0-9_-]{1,64})/([0-9]{20})-([0-9]{20})$`)

// Collector is an http.Handler. It is safe for concurrent use.
type Collector struct {
	o Options

	mu    sync.Mutex // guards the names in the folder and what follows
	fault Fault
	first []byte // the first receipt, to be replayed
}

// New makes a collector on a folder.
func New(o Options) (*Collector, error) {
	if o.Max == 0 {
		o.Max = 256 << 20
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open collector: %w", err)
	}
	return &Collector{o: o, fault: o.Fault}, nil
}

// SetFault changes what it does wrong.
func (c *Collector) SetFault(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = f
}

// refusal is an answer other than a receipt.
type refusal struct {
	status int
	why    string
}

func (r *refusal) Error() string { return r.why }

// ServeHTTP implements http.Handler.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	fault := c.fault
	c.mu.Unlock()
	switch fault {
	case Silent:
		io.Copy(io.Discard, io.LimitReader(r.Body, c.o.Max))
		<-r.Context().Done()
		return
	case Redirect:
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		return
	case Broken:
		http.Error(w, "broken on purpose", http.StatusInternalServerError)
		return
	}
	receipt, fresh, err := c.put(r, fault)
	var no *refusal
	switch {
	case errors.As(err, &no):
		http.Error(w, no.why, no.status)
		return
	case err != nil:
		http.Error(w, "file is not kept", http.StatusInternalServerError)
		return
	}
	c.mu.Lock()
	if c.first == nil {
		c.first = receipt
	}
	if fault == Replay {
		receipt = c.first
	}
	c.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if fresh {
		w.WriteHeader(http.StatusCreated)
	}
	w.Write(receipt)
	for fault == Endless {
		if _, err := w.Write(receipt); err != nil {
			return
		}
	}
}

// put keeps the file of a request and returns the receipt for it. fresh is false when it was kept before.
func (c *Collector) put(r *http.Request, fault Fault) (receipt []byte, fresh bool, err error) {
	m := nameForm.FindStringSubmatch(r.URL.Path)
	if r.Method != http.MethodPut || m == nil {
		return nil, false, &refusal{http.StatusBadRequest, "want PUT /GATEWAY/FIRST-NEXT"}
	}
	if want := "Bearer " + c.o.Token; c.o.Token != "" && subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte(want)) != 1 {
		return nil, false, &refusal{http.StatusUnauthorized, "token is not good"}
	}
	out := signed.Receipt{Gateway: m[1]}
	if out.First, err = strconv.ParseUint(m[2], 10, 63); err == nil {
		out.Next, err = strconv.ParseUint(m[3], 10, 63)
	}
	if err != nil || out.Next <= out.First || r.ContentLength < 0 {
		return nil, false, &refusal{http.StatusBadRequest, "range or length is no archive's"}
	}
	if r.ContentLength > c.o.Max {
		return nil, false, &refusal{http.StatusRequestEntityTooLarge, "file is too large"}
	}
	digest, ok := digestOf(r.Header.Get("Content-Digest"))
	if !ok {
		return nil, false, &refusal{http.StatusBadRequest, "digest is missing"}
	}
	claims, err := claimsOf(r.Header, out.First, out.Next)
	if err != nil {
		return nil, false, err
	}
	if len(claims) > 0 && claims[0].name == m[2]+"-"+m[3] {
		out.Root = claims[0].root
	}
	dir := filepath.Join(c.o.Dir, m[1])
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, false, err
	}
	c.mu.Lock()
	has, err := had(dir, claims)
	c.mu.Unlock()
	if err != nil {
		return nil, false, err
	}
	if has != nil { // whatever the body is, its records are here
		has.Gateway, has.At = out.Gateway, c.o.Clock()
		receipt, err = c.sign(*has, fault)
		return receipt, false, err
	}
	tmp := filepath.Join(dir, ".tmp-"+rand.Text())
	defer os.Remove(tmp)
	if err := keep(tmp, io.LimitReader(r.Body, c.o.Max+1), &out); err != nil {
		return nil, false, err
	}
	if out.Bytes != uint64(r.ContentLength) || out.SHA256 != digest {
		return nil, false, &refusal{http.StatusBadRequest, "length or digest are not those of the body"}
	}
	c.mu.Lock()
	fresh, err = place(tmp, dir, m[2]+"-"+m[3], &out)
	c.mu.Unlock()
	if err != nil {
		return nil, false, err
	}
	out.At = c.o.Clock()
	receipt, err = c.sign(out, fault)
	return receipt, fresh, err
}

// keep writes a body to a file, synced, and fills in its size and digest. What does not begin like an archive of the
// range is refused.
func keep(path string, body io.Reader, out *signed.Receipt) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), body)
	if err != nil {
		return err
	}
	out.Bytes, out.SHA256 = uint64(n), [32]byte(h.Sum(nil))
	var head [44]byte // of an archive: magic, key id, salt, first, next
	if _, err := f.ReadAt(head[:], 0); err != nil || string(head[:8]) != "SLRARC01" ||
		binary.BigEndian.Uint64(head[28:]) != out.First || binary.BigEndian.Uint64(head[36:]) != out.Next {
		return &refusal{http.StatusBadRequest, "body is no archive of this range"}
	}
	return f.Sync()
}

// place gives a file its name, unless the name or a part of its range is taken by another.
func place(tmp, dir, name string, out *signed.Receipt) (fresh bool, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, f := range files {
		var first, next uint64
		if n, _ := fmt.Sscanf(f.Name(), "%020d-%020d", &first, &next); n != 2 || next <= out.First || first >= out.Next {
			continue
		}
		if f.Name() != name {
			return false, &refusal{http.StatusConflict, "another file holds some of these records"}
		}
		kept, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return false, err
		}
		defer kept.Close()
		h := sha256.New()
		if _, err := io.Copy(h, kept); err != nil {
			return false, err
		}
		if [32]byte(h.Sum(nil)) != out.SHA256 {
			return false, &refusal{http.StatusConflict, "another file has this name"}
		}
		if err := keepRoot(dir, name, out); err != nil {
			return false, err
		}
		return false, syncDirs(dir) // a crash may have come before the first one
	}
	if err := keepRoot(dir, name, out); err != nil {
		return false, err
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return false, err
	}
	return true, syncDirs(dir)
}

// syncDirs makes the names in a gateway's folder, and its own, durable.
func syncDirs(dir string) error {
	for _, path := range []string{dir, filepath.Dir(dir)} {
		d, err := os.Open(path)
		if err != nil {
			return err
		}
		err = d.Sync()
		d.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// sign writes the receipt, or the wrong one.
func (c *Collector) sign(r signed.Receipt, fault Fault) ([]byte, error) {
	switch fault {
	case WrongDigest:
		r.SHA256[0] ^= 1
	case WrongGateway:
		r.Gateway += "-2"
	case WrongRange:
		r.Next++
	}
	text, err := c.o.Signer.SignReceipt(r)
	if fault == Unsigned && err == nil {
		text = text[:strings.LastIndex(string(text), "— ")]
	}
	return text, err
}
