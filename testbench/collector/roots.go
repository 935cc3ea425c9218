package collector

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/sluice-edge/sluice/crypto/signed"
)

// Fields of the header of a request: package gateway/ship, "Protocol".
const (
	headerRecords = "Sluice-Records"
	headerOf      = "Sluice-Records-Of"
)

// claim is what a gateway states of a range of records.
type claim struct {
	first, next uint64
	name        string // of the file that would hold it
	root        [32]byte
}

// maxClaims bounds the claims of one request.
const maxClaims = 16

// ofForm is a claim for a larger range.
var ofForm = regexp.MustCompile(`^(([0-9]{20})-([0-9]{20})) (sha-256=:[A-Za-z0-9+/=]{44}:)$`)

// digestOf reads a SHA-256 in a field of the header.
func digestOf(field string) (digest [32]byte, ok bool) {
	text, begins := strings.CutPrefix(field, "sha-256=:")
	text, ends := strings.CutSuffix(text, ":")
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if !begins || !ends || err != nil || len(b) != len(digest) {
		return digest, false
	}
	return [32]byte(b), true
}

// claimsOf lists what a request states of the records in its file, first, and of larger ranges that they were in.
func claimsOf(h http.Header, first, next uint64) (list []claim, err error) {
	bad := &refusal{http.StatusBadRequest, "root of the records is malformed"}
	if field := h.Get(headerRecords); field != "" {
		root, ok := digestOf(field)
		if !ok || root == ([32]byte{}) {
			return nil, bad
		}
		list = append(list, claim{first, next, fmt.Sprintf("%020d-%020d", first, next), root})
	}
	of := h.Values(headerOf)
	if len(of) > maxClaims {
		return nil, bad
	}
	for _, field := range of {
		m := ofForm.FindStringSubmatch(field)
		if m == nil {
			return nil, bad
		}
		c := claim{name: m[1]}
		var ok bool
		if c.first, err = strconv.ParseUint(m[2], 10, 63); err == nil {
			c.next, err = strconv.ParseUint(m[3], 10, 63)
		}
		if c.root, ok = digestOf(m[4]); !ok || err != nil || c.root == ([32]byte{}) || c.first > first || next > c.next || c.next-c.first <= next-first {
			return nil, bad
		}
		list = append(list, c)
	}
	return list, nil
}

// had returns the receipt for a file that holds the records of one of the claims; nil when there is none. Another root for a
// range that is kept is another history.
func had(dir string, claims []claim) (*signed.Receipt, error) {
	for _, c := range claims {
		if _, err := os.Stat(filepath.Join(dir, c.name)); errors.Is(err, fs.ErrNotExist) {
			continue // a root without its file is left of a crash
		}
		r, err := readRoot(dir, c.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if r.Root != c.root {
			return nil, &refusal{http.StatusConflict, "other records are kept of this range"}
		}
		if err := unaltered(filepath.Join(dir, c.name), r); err != nil {
			return nil, err
		}
		r.First, r.Next = c.first, c.next
		return r, syncDirs(dir)
	}
	return nil, nil
}

// unaltered checks that a file is still the one that a root was kept for.
func unaltered(path string, r *signed.Receipt) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err == nil && (uint64(n) != r.Bytes || [32]byte(h.Sum(nil)) != r.SHA256) {
		err = fmt.Errorf("%s is not the file any more that was kept", filepath.Base(path))
	}
	return err
}

const rootPrefix = "root-"

// keepRoot keeps what was stated of the records in a file, durably but for the name: root, SHA-256 and size of the file.
func keepRoot(dir, name string, out *signed.Receipt) error {
	if out.Root == ([32]byte{}) {
		return nil
	}
	tmp := filepath.Join(dir, ".tmp-"+rootPrefix+name)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%x %x %d\n", out.Root, out.SHA256, out.Bytes)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, rootPrefix+name))
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

// readRoot reads what keepRoot wrote.
func readRoot(dir, name string) (*signed.Receipt, error) {
	text, err := os.ReadFile(filepath.Join(dir, rootPrefix+name))
	if err != nil {
		return nil, err
	}
	var root, digest string
	r := new(signed.Receipt)
	if _, err := fmt.Sscanf(string(text), "%64s %64s %d\n", &root, &digest, &r.Bytes); err != nil {
		return nil, fmt.Errorf("read root of %s: %w", name, err)
	}
	for text, to := range map[string]*[32]byte{root: &r.Root, digest: &r.SHA256} {
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != len(to) {
			return nil, fmt.Errorf("read root of %s: malformed", name)
		}
		*to = [32]byte(b)
	}
	return r, nil
}
