package keyring

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

const (
	privateSuffix = ".key"
	publicSuffix  = ".pub"
	privateTitle  = "sluice private key v1"
	publicTitle   = "sluice public key v1"
	maxFile       = 4096 // bytes; the largest file of the format has about 2,800
)

// FileError says what is wrong with a key file or folder, and what to type.
type FileError struct {
	Path    string
	Problem string
	Fix     string // may be empty
}

func (e *FileError) Error() string { return fmt.Sprintf("read key %q: %s", e.Path, e.Problem) }

// Hint says what to type.
func (e *FileError) Hint() string { return e.Fix }

// wantUse returns the error of a key of another use.
func wantUse(path string, have, want Use) error {
	if have == want {
		return nil
	}
	return &FileError{Path: path, Problem: fmt.Sprintf("a key for %s, not for %s", have, want),
		Fix: fmt.Sprintf("make one with: sluice keys new --use %s --id NAME --dir DIR", want)}
}

// ReadPrivate reads a private key file from anywhere. ErrNoKey when there is none. The caller destroys the key.
func ReadPrivate(path string) (*Private, error) {
	text, err := readFile(path, true)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	f, err := parse(text, privateTitle)
	if err != nil {
		return nil, &FileError{Path: path, Problem: err.Error(), Fix: "restore the file from a copy; it is never repaired"}
	}
	if n := len(f.key); !f.use.isSecretSize(n) {
		clear(f.key)
		return nil, &FileError{Path: path, Problem: fmt.Sprintf("a private key of %d bytes, want %d", n, secretSize)}
	}
	return &Private{Use: f.use, ID: f.id, Created: f.created, Generation: f.generation, secret: f.key}, nil
}

// ReadPublic reads a public key file from anywhere, of any use. ErrNoKey when there is none.
func ReadPublic(path string) (*Public, error) {
	text, err := readFile(path, false)
	if err != nil {
		return nil, err
	}
	p, err := ParsePublic(text)
	if err != nil {
		return nil, &FileError{Path: path, Problem: err.Error(), Fix: "ask the holder of the private key for: sluice keys export --id NAME --dir DIR"}
	}
	return p, nil
}

// ParsePublic reads the contents of a public key file.
func ParsePublic(text []byte) (*Public, error) {
	if bytes.HasPrefix(text, []byte(privateTitle)) {
		return nil, errors.New("holds a private key where a public one belongs")
	}
	if !bytes.HasPrefix(text, []byte("sluice ")) {
		return parseVerifier(text)
	}
	f, err := parse(text, publicTitle)
	if err != nil {
		return nil, err
	}
	if f.use != Recipient && f.use != Custodian && f.use != Plugin {
		return nil, fmt.Errorf("a key for %s has no such public file", f.use)
	}
	if !f.use.isPublicSize(len(f.key)) {
		return nil, fmt.Errorf("a public key of %d bytes, want %d", len(f.key), f.use.publicSize())
	}
	return &Public{Use: f.use, ID: f.id, Created: f.created, Key: f.key}, nil
}

// parseVerifier reads the one line of an audit key.
func parseVerifier(text []byte) (*Public, error) {
	line := strings.TrimSuffix(string(text), "\n")
	if _, err := note.NewVerifier(line); err != nil || strings.ContainsAny(line, "\r\n") {
		return nil, errors.New("not a public key file")
	}
	id, rest, _ := strings.Cut(line, "+")
	_, key64, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.DecodeString(key64)
	if err != nil || len(key) != 1+Audit.publicSize() || CheckID(id) != nil {
		return nil, errors.New("not a public key file")
	}
	return &Public{Use: Audit, ID: id, Key: key[1:]}, nil // key[0] is the algorithm, checked by NewVerifier
}

// readFile reads a small file whole; a private one only when nobody else could have read or exchanged it.
func readFile(path string, private bool) ([]byte, error) {
	named, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read key %q: %w", path, ErrNoKey)
	}
	if err != nil {
		return nil, fmt.Errorf("read key %q: %w", path, errors.Unwrap(err))
	}
	if private && named.Mode()&fs.ModeSymlink != 0 {
		return nil, &FileError{Path: path, Problem: "a symbolic link", Fix: "name the file itself, or copy it here with mode 0600"}
	}
	if !private {
		if named, err = os.Stat(path); err != nil {
			return nil, fmt.Errorf("read key %q: %w", path, errors.Unwrap(err))
		}
	}
	if !named.Mode().IsRegular() {
		return nil, &FileError{Path: path, Problem: "not a regular file"} // before opening: a pipe would block
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read key %q: %w", path, errors.Unwrap(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !os.SameFile(named, info) {
		return nil, &FileError{Path: path, Problem: "exchanged while it was read"}
	}
	if mode := info.Mode().Perm(); private && mode&0o077 != 0 {
		return nil, &FileError{Path: path, Problem: fmt.Sprintf("private key of mode %04o: others may use it", mode), Fix: fmt.Sprintf("chmod 600 %s", path)}
	} else if mode&0o002 != 0 {
		return nil, &FileError{Path: path, Problem: fmt.Sprintf("public key of mode %04o: others could exchange it", mode), Fix: fmt.Sprintf("chmod 644 %s", path)}
	}
	text := make([]byte, maxFile+1)
	n, err := io.ReadFull(f, text)
	if err == nil {
		return nil, &FileError{Path: path, Problem: "too long for a key file"}
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("read key %q: %w", path, err)
	}
	return text[:n], nil
}

// fields is a key file taken apart.
type fields struct {
	use        Use
	id         string
	created    time.Time
	generation int
	key        []byte
}

// parse takes a key file apart. Its errors never quote the text.
func parse(text []byte, title string) (fields, error) {
	var f fields
	line, rest, ok := bytes.Cut(text, []byte("\n"))
	if !ok || string(line) != title {
		if bytes.HasPrefix(text, []byte("sluice ")) {
			return f, fmt.Errorf("another kind or version of file, want %q", title)
		}
		return f, errors.New("not a key file")
	}
	next := func(name string) string {
		line, after, found := bytes.Cut(rest, []byte("\n"))
		value, named := bytes.CutPrefix(line, []byte(name+": "))
		ok = ok && found && named
		if ok {
			rest = after
		}
		return string(value)
	}
	use, id, created := next("use"), next("id"), next("created")
	var err1, err2, err3, err4 error
	f.id = id
	f.use, err1 = ParseUse(use)
	f.created, err2 = time.Parse(time.RFC3339, created)
	canonical := created == f.created.UTC().Format(time.RFC3339)
	if f.use == AtRest {
		generation := next("generation")
		f.generation, err3 = strconv.Atoi(generation)
		canonical = canonical && f.generation > 0 && generation == strconv.Itoa(f.generation)
	}
	key64 := next("key")
	body := text[:len(text)-len(rest)]
	check := next("check")
	if !ok || len(rest) != 0 {
		return f, errors.New("truncated or damaged: a line is missing, misplaced or unknown")
	}
	if check != checkOf(body) {
		return f, errors.New("truncated or damaged: the check line does not fit")
	}
	f.key, err4 = base64.StdEncoding.Strict().DecodeString(key64)
	if errors.Join(err1, err2, err3, err4, CheckID(id)) != nil || !canonical {
		clear(f.key)
		return f, errors.New("a line has no valid value")
	}
	return f, nil
}

func checkOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:4])
}

// marshal writes the private file. The caller clears the slice.
func (k *Private) marshal() []byte {
	return marshal(privateTitle, k.Use, k.ID, k.Created, k.Generation, k.secret)
}

// marshal writes the public file.
func (p *Public) marshal() ([]byte, error) {
	if p.Use == Audit {
		line, err := p.Verifier()
		return []byte(line + "\n"), err
	}
	return marshal(publicTitle, p.Use, p.ID, p.Created, 0, p.Key), nil
}

func marshal(title string, use Use, id string, created time.Time, generation int, key []byte) []byte {
	b := make([]byte, 0, maxFile) // never grows: no copy of a key is left behind
	b = append(b, title+"\nuse: "+use.String()+"\nid: "+id+"\ncreated: "...)
	b = created.UTC().AppendFormat(b, time.RFC3339)
	if use == AtRest {
		b = strconv.AppendInt(append(b, "\ngeneration: "...), int64(generation), 10)
	}
	b = base64.StdEncoding.AppendEncode(append(b, "\nkey: "...), key)
	b = append(b, '\n')
	return append(b, "check: "+checkOf(b)+"\n"...)
}

// writeNew creates the file path with the given contents, whole or not at all, and never replaces one: ErrExists.
func writeNew(path string, text []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	defer func() {
		if err != nil {
			err = fmt.Errorf("create key %q: %w", path, err)
		}
	}()
	tmp, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if err = place(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// place gives the finished file its name. A link fails when the name is taken; a file system without links gets a
// look and a rename, which two processes at the same instant could both pass.
func place(from, to string) error {
	err := os.Link(from, to)
	if err == nil {
		return nil
	}
	if _, taken := os.Lstat(to); taken == nil || errors.Is(err, fs.ErrExist) {
		return ErrExists
	}
	return os.Rename(from, to)
}
