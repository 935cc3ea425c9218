package keyring

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Ring is a folder of keys.
type Ring struct{ dir string }

// ErrNoKey means that the folder holds no key of that id.
var ErrNoKey = errors.New("no such key")

// ErrExists means that a key of that id exists: no file is ever overwritten.
var ErrExists = errors.New("a key of that id exists")

// Open returns the ring of a folder. The folder need not exist: it is created, mode 0700, with the first key. A folder
// in which others may write is refused, because they could exchange keys.
func Open(dir string) (*Ring, error) {
	if err := checkDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &Ring{dir}, nil
}

// checkDir refuses what is no folder and folders that others may write to.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("open key folder %q: %w", dir, errors.Unwrap(err))
	}
	if !info.IsDir() {
		return &FileError{Path: dir, Problem: "not a folder", Fix: "name the folder that holds the .key files"}
	}
	if info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return &FileError{Path: dir, Problem: fmt.Sprintf("folder of mode %04o: others could exchange keys", info.Mode().Perm()),
			Fix: fmt.Sprintf("chmod 700 %s", dir)}
	}
	return nil
}

// Dir returns the folder.
func (r *Ring) Dir() string { return r.dir }

// PrivatePath returns the file of the private part of a key, whether it exists or not.
func (r *Ring) PrivatePath(id string) string { return filepath.Join(r.dir, id+privateSuffix) }

// PublicPath returns the file of the public part of a key, whether it exists or not.
func (r *Ring) PublicPath(id string) string { return filepath.Join(r.dir, id+publicSuffix) }

// CheckID reports what is wrong with an id, nil if nothing is.
func CheckID(id string) error {
	ok := len(id) > 0 && len(id) <= 63
	for i, c := range []byte(id) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = ok && (alnum || i > 0 && (c == '.' || c == '-' || c == '_'))
	}
	if !ok {
		return fmt.Errorf("key id %q: want a letter or digit, then letters, digits, dots, hyphens or underscores, at most 63", id)
	}
	return nil
}

// Ensure makes sure that a key of a gateway-only use exists, and creates it if not: created says so. An existing key
// of another use, or one that cannot be read, is an error.
func (r *Ring) Ensure(use Use, id string) (created bool, err error) {
	if !use.GatewayOnly() {
		return false, fmt.Errorf("key %q: a key for %s is never created by the gateway", id, use)
	}
	k, err := r.Private(use, id)
	if errors.Is(err, ErrNoKey) {
		if err = r.Generate(use, id); err == nil {
			return true, nil
		}
		if !errors.Is(err, ErrExists) {
			return false, err
		}
		k, err = r.Private(use, id) // another process was faster
	}
	if err != nil {
		return false, err
	}
	defer k.Destroy()
	if !use.HasPublic() {
		return false, nil
	}
	if _, err := os.Lstat(r.PublicPath(id)); errors.Is(err, fs.ErrNotExist) {
		return false, r.writePublic(k) // the process that created the key did not come this far
	}
	return false, nil
}

// Generate creates a key and writes its files. ErrExists when a file of that id exists.
func (r *Ring) Generate(use Use, id string) error { return r.generate(use, id, secretSize) }

// GeneratePlugin is Generate for a plugin key that signs with Ed25519 and ML-DSA-65.
func (r *Ring) GeneratePlugin(id string) error { return r.generate(Plugin, id, 2*secretSize) }

func (r *Ring) generate(use Use, id string, size int) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if use == InvalidUse || use > lastUse {
		return fmt.Errorf("key %q: no use given", id)
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("create key folder %q: %w", r.dir, errors.Unwrap(err))
	}
	if err := checkDir(r.dir); err != nil {
		return err
	}
	for _, path := range []string{r.PrivatePath(id), r.PublicPath(id)} {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("create key %q: %w", path, ErrExists)
		}
	}
	k := &Private{Use: use, ID: id, Created: time.Now().UTC().Truncate(time.Second), secret: make([]byte, size)}
	defer k.Destroy()
	if err := r.draw(k); err != nil {
		return err
	}
	text := k.marshal()
	defer clear(text)
	if err := writeNew(r.PrivatePath(id), text, 0o600); err != nil {
		return err
	}
	if use.HasPublic() {
		return r.writePublic(k)
	}
	return nil
}

// draw fills in the secret, and the generation of an at-rest key.
func (r *Ring) draw(k *Private) error {
	if k.Use != AtRest {
		_, err := rand.Read(k.secret)
		return err
	}
	others, err := r.AtRest()
	if err != nil {
		return err
	}
	k.Generation = 1
	if len(others) > 0 {
		k.Generation = others[0].Generation + 1
	}
	for taken := true; taken; {
		rand.Read(k.secret) // never returns an error
		taken = slices.ContainsFunc(others, func(o *Private) bool { return o.Tag() == k.Tag() })
	}
	for _, o := range others {
		o.Destroy()
	}
	return nil
}

func (r *Ring) writePublic(k *Private) error {
	p, err := k.Public()
	if err != nil {
		return err
	}
	text, err := p.marshal()
	if err != nil {
		return err
	}
	return writeNew(r.PublicPath(k.ID), text, 0o644)
}

// Private reads the private part of a key. ErrNoKey when there is none; a key of another use is an error.
func (r *Ring) Private(use Use, id string) (*Private, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	k, err := ReadPrivate(r.PrivatePath(id))
	if err != nil {
		return nil, err
	}
	err = wantUse(r.PrivatePath(id), k.Use, use)
	if err == nil && k.ID != id {
		err = &FileError{Path: r.PrivatePath(id), Problem: fmt.Sprintf("holds the key %q", k.ID),
			Fix: fmt.Sprintf("rename the file to %s%s", k.ID, privateSuffix)}
	}
	if err != nil {
		k.Destroy()
		return nil, err
	}
	return k, nil
}

// Public returns the public part of a key, from its file or, where only the private part is here, derived from that.
// ErrNoKey when there is neither.
func (r *Ring) Public(id string) (*Public, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	p, err := ReadPublic(r.PublicPath(id))
	if !errors.Is(err, ErrNoKey) {
		return p, err
	}
	k, err := ReadPrivate(r.PrivatePath(id))
	if err != nil {
		return nil, err
	}
	defer k.Destroy()
	return k.Public()
}

// AtRest returns all at-rest keys, the current one first, then by falling generation. The caller destroys them.
// A key file that cannot be read is an error: what it sealed could not be opened.
func (r *Ring) AtRest() ([]*Private, error) {
	infos, err := r.List()
	if err != nil {
		return nil, err
	}
	var keys []*Private
	for _, in := range infos {
		if in.Err != nil && in.HasPrivate {
			return nil, in.Err
		}
		if in.Use != AtRest || in.Err != nil {
			continue
		}
		k, err := r.Private(AtRest, in.ID)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b *Private) int {
		if a.Generation != b.Generation {
			return b.Generation - a.Generation
		}
		return strings.Compare(a.ID, b.ID)
	})
	return keys, nil
}

// Info describes one key of a ring.
type Info struct {
	ID          string
	Use         Use // InvalidUse when Err is set
	Created     time.Time
	Generation  int
	HasPrivate  bool   // <id>.key is here
	HasPublic   bool   // <id>.pub is here
	Fingerprint string // of the public part; of a token or at-rest key its Tag, 8 hexadecimal digits
	Err         error  // why the key cannot be used
}

// List describes every key of the folder by rising id. A folder that does not exist is empty. Keys that cannot be read
// are listed with their error.
func (r *Ring) List() ([]Info, error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read key folder %q: %w", r.dir, errors.Unwrap(err))
	}
	found := map[string]*Info{}
	var ids []string
	for _, e := range entries {
		id, private := strings.CutSuffix(e.Name(), privateSuffix)
		public := false
		if !private {
			id, public = strings.CutSuffix(e.Name(), publicSuffix)
		}
		if !private && !public || CheckID(id) != nil {
			continue
		}
		if found[id] == nil {
			found[id] = &Info{ID: id}
			ids = append(ids, id)
		}
		found[id].HasPrivate = found[id].HasPrivate || private
		found[id].HasPublic = found[id].HasPublic || public
	}
	slices.Sort(ids)
	infos := make([]Info, 0, len(ids))
	for _, id := range ids {
		in := found[id]
		if in.Err = r.describe(in); in.Err != nil {
			*in = Info{ID: id, HasPrivate: in.HasPrivate, HasPublic: in.HasPublic, Err: in.Err}
		}
		infos = append(infos, *in)
	}
	return infos, nil
}

// describe reads the files of one key and compares its parts.
func (r *Ring) describe(in *Info) error {
	var derived *Public
	if in.HasPrivate {
		k, err := ReadPrivate(r.PrivatePath(in.ID))
		if err != nil {
			return err
		}
		defer k.Destroy()
		in.Use, in.Created, in.Generation = k.Use, k.Created, k.Generation
		if !k.Use.HasPublic() {
			in.Fingerprint = fmt.Sprintf("%08x", k.Tag())
			return nil
		}
		if derived, err = k.Public(); err != nil {
			return err
		}
		in.Fingerprint = derived.Fingerprint()
	}
	if !in.HasPublic {
		return nil
	}
	p, err := ReadPublic(r.PublicPath(in.ID))
	if err != nil {
		return err
	}
	if derived != nil && (derived.Use != p.Use || !slices.Equal(derived.Key, p.Key)) {
		return &FileError{Path: r.PublicPath(in.ID), Problem: "not the public part of the private key beside it", Fix: "move one of the two files away"}
	}
	if derived == nil {
		in.Use, in.Created = p.Use, p.Created
	}
	in.Fingerprint = p.Fingerprint()
	return nil
}

// Export returns the file of a key's public part, or with private set the file of its private part, ready to be written
// elsewhere. The caller clears the slice of a private one.
func (r *Ring) Export(id string, private bool) ([]byte, error) {
	if private {
		if err := CheckID(id); err != nil {
			return nil, err
		}
		k, err := ReadPrivate(r.PrivatePath(id))
		if err != nil {
			return nil, err
		}
		defer k.Destroy()
		return k.marshal(), nil
	}
	p, err := r.Public(id)
	if err != nil {
		return nil, err
	}
	return p.marshal()
}
