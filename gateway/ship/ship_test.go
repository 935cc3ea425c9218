package ship

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/crypto/signed"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/testbench/collector"
)

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// shelf is a store in memory.
type shelf struct {
	mu       sync.Mutex
	files    map[uint64][]byte // by first seq; next is first+10
	receipts map[uint64][]byte
	check    func([]byte) (gateway.Receipt, error)
	done     func() // told when nothing is left to ship
	rooted   bool   // roots of the records are stated, by range
}

func newShelf(n int) *shelf {
	s := &shelf{files: map[uint64][]byte{}, receipts: map[uint64][]byte{}, done: func() {}}
	for i := range uint64(n) {
		s.files[10*i] = archiveFile(10*i, 10*i+10, 1000+int(i))
	}
	return s
}

// archiveFile is what a collector takes for an archive.
func archiveFile(first, next uint64, size int) []byte {
	b := make([]byte, size)
	copy(b, "SLRARC01")
	binary.BigEndian.PutUint64(b[28:], first)
	binary.BigEndian.PutUint64(b[36:], next)
	return b
}

func (s *shelf) Unshipped() (a gateway.Archive, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, first := range slices.Sorted(maps.Keys(s.files)) {
		if s.receipts[first] == nil {
			return gateway.Archive{First: first, Next: first + 10, Bytes: int64(len(s.files[first]))}, true
		}
	}
	s.done()
	return a, false
}

func (s *shelf) Shipment(a gateway.Archive) (out gateway.Shipment, file io.ReadCloser, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.files[a.First]
	out = gateway.Shipment{Archive: gateway.Archive{First: a.First, Next: a.Next, Bytes: int64(len(b))}, SHA256: sha256.Sum256(b)}
	if s.rooted {
		out.Root = sha256.Sum256(b[:44])
	}
	return out, io.NopCloser(bytes.NewReader(b)), nil
}

func (s *shelf) Shipped(a gateway.Archive, receipt []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.check(receipt); err != nil {
		return err
	}
	s.receipts[a.First] = receipt
	return nil
}

// stand is a collector on loopback and a shipper to it.
type stand struct {
	c       *collector.Collector
	s       *Shipper
	store   *shelf
	dir     string
	key     *signed.Verifier
	address string
}

func newStand(t *testing.T, files int, more func(*Config)) *stand {
	t.Helper()
	signer, err := signed.NewSigner("collector-1", [32]byte{3})
	if err != nil {
		t.Fatal(err)
	}
	key, err := signed.NewVerifier(signer.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	st := &stand{store: newShelf(files), dir: t.TempDir(), key: key}
	if st.c, err = collector.New(collector.Options{Dir: st.dir, Signer: signer, Token: "secret"}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(st.c)
	t.Cleanup(server.Close)
	st.address = server.URL
	config := Config{URL: server.URL, Token: "secret", Timeout: 300 * time.Millisecond}
	if more != nil {
		more(&config)
	}
	st.store.check = Check("vgw-0001", key)
	if st.s, err = New("vgw-0001", config, key, st.store, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return st
}

// run ships until nothing is left or the shipper paused n times after failures; it returns these pauses.
func (st *stand) run(t *testing.T, n int) (pauses []time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	st.store.done = cancel
	st.s.pause = func(_ context.Context, d time.Duration) {
		if pauses = append(pauses, d); len(pauses) >= n {
			cancel()
		}
	}
	st.s.Run(ctx)
	return pauses
}

func TestArchivesAreShippedOnceAndInOrder(t *testing.T) {
	st := newStand(t, 5, nil)
	st.run(t, 1)
	if len(st.store.receipts) != 5 {
		t.Fatalf("%d receipts: %+v", len(st.store.receipts), st.s.Status())
	}
	for first, want := range st.store.files {
		got, err := os.ReadFile(filepath.Join(st.dir, fmt.Sprintf("vgw-0001/%020d-%020d", first, first+10)))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("archive %d: %v", first, err)
		}
	}
	clear(st.store.receipts) // as if the box had lost them: the same files get receipts again
	st.run(t, 1)
	if s := st.s.Status(); len(st.store.receipts) != 5 || !s.Answering || s.Sent != 10 || s.Bytes != 2*(5*1000+10) || s.Failed != 0 {
		t.Fatalf("%d receipts, %+v", len(st.store.receipts), s)
	}
}

func TestNothingIsBelievedButAReceiptForTheFile(t *testing.T) {
	for _, fault := range collector.Faults {
		t.Run(string(fault), func(t *testing.T) {
			st := newStand(t, 3, nil)
			if fault == collector.Replay { // it has to have one
				st.store.files = map[uint64][]byte{0: st.store.files[0]}
				st.run(t, 1)
				st.store.files = newShelf(3).files
			}
			had := len(st.store.receipts)
			st.c.SetFault(fault)
			pauses := st.run(t, 3)
			s := st.s.Status()
			if len(st.store.receipts) != had || s.Answering || s.Failed == 0 || s.Err == "" || len(pauses) != 3 {
				t.Fatalf("%d receipts, %+v, %v", len(st.store.receipts), s, pauses)
			}
			for i, d := range pauses {
				if most := pauseFirst << i; d < most/2 || d > most {
					t.Fatalf("pauses %v", pauses)
				}
			}
			st.c.SetFault(collector.NoFault)
			st.run(t, 9)
			if s := st.s.Status(); len(st.store.receipts) != 3 || !s.Answering {
				t.Fatalf("after the fault: %d receipts, %+v", len(st.store.receipts), s)
			}
		})
	}
}

func TestACollectorRefusesWhatDoesNotFit(t *testing.T) {
	st := newStand(t, 1, nil)
	st.run(t, 1)
	good := st.store.files[0]
	put := func(path string, body []byte, alter func(*http.Request)) int {
		t.Helper()
		req, err := http.NewRequest(http.MethodPut, st.address+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(body)
		req.Header.Set("Authorization", "Bearer secret")
		req.Header.Set("Content-Digest", "sha-256=:"+base64Of(digest[:])+":")
		if alter != nil {
			alter(req)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	name := fmt.Sprintf("/vgw-0001/%020d-%020d", 0, 10)
	other := append(archiveFile(0, 10, 999), 1)
	for what, c := range map[string]struct {
		path  string
		body  []byte
		alter func(*http.Request)
		want  int
	}{
		"the same file again":         {name, good, nil, 200},
		"another file under its name": {name, other, nil, 409},
		"a range that overlaps":       {fmt.Sprintf("/vgw-0001/%020d-%020d", 5, 15), archiveFile(5, 15, 900), nil, 409},
		"another gateway's":           {fmt.Sprintf("/vgw-0002/%020d-%020d", 5, 15), archiveFile(5, 15, 900), nil, 201},
		"the next one":                {fmt.Sprintf("/vgw-0001/%020d-%020d", 10, 15), archiveFile(10, 15, 900), nil, 201},
		"a wrong token":               {name, good, func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, 401},
		"a wrong digest":              {name, good, func(r *http.Request) { r.Header.Set("Content-Digest", "sha-256=:"+base64Of(make([]byte, 32))+":") }, 400},
		"no digest":                   {name, good, func(r *http.Request) { r.Header.Del("Content-Digest") }, 400},
		"another range than its own":  {fmt.Sprintf("/vgw-0001/%020d-%020d", 20, 30), good, nil, 400},
		"no archive":                  {fmt.Sprintf("/vgw-0001/%020d-%020d", 20, 30), []byte("hello"), nil, 400},
		"a path upwards":              {"/..%2f..%2fetc/x", good, nil, 400},
		"a short number":              {"/vgw-0001/0-10", good, nil, 400},
	} {
		if got := put(c.path, c.body, c.alter); got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
	left, err := filepath.Glob(filepath.Join(st.dir, "*", ".tmp-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// put sends a file to the collector as a gateway would and returns the answer.
func (st *stand) put(t *testing.T, name string, body []byte, fields ...string) (status int, answer []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, st.address+name, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(body)
	req.Header.Set("Authorization", "Bearer secret")
	req.Header.Set("Content-Digest", "sha-256=:"+base64Of(digest[:])+":")
	for ; len(fields) > 1; fields = fields[2:] {
		req.Header.Set(fields[0], fields[1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer
}

func TestArchivesBehindAHoleAreShippedAndNobodySignsForTheHole(t *testing.T) {
	st := newStand(t, 5, func(c *Config) { c.Timeout = time.Minute })
	hole := st.store.files[20]
	delete(st.store.files, 20) // records 20 to 29 were lost to damage
	st.run(t, 1)
	if s := st.s.Status(); len(st.store.receipts) != 4 || !s.Answering || s.Failed != 0 {
		t.Fatalf("%d receipts, %+v", len(st.store.receipts), s)
	}
	for first, text := range st.store.receipts {
		if r, err := st.key.ParseVerifyReceipt(text); err != nil || r.First != first || r.Next != first+10 {
			t.Fatalf("receipt for %d is for %d to %d, %v", first, r.First, r.Next, err)
		}
	}
	name := func(first, next uint64) string { return fmt.Sprintf("/vgw-0001/%020d-%020d", first, next) }
	for what, c := range map[string]struct {
		name string
		body []byte
		want int
	}{
		"the hole, with what is in front of it": {name(20, 30), st.store.files[10], 400},
		"the hole, with nothing":                {name(20, 30), nil, 400},
		"the hole and what is behind it":        {name(20, 40), archiveFile(20, 40, 900), 409},
		"what is in front of it and the hole":   {name(10, 30), archiveFile(10, 30, 900), 409},
		"all over it":                           {name(0, 50), archiveFile(0, 50, 900), 409},
		"a part of a file that it has":          {name(30, 35), archiveFile(30, 35, 900), 409},
	} {
		status, answer := st.put(t, c.name, c.body)
		if _, err := st.key.ParseVerifyReceipt(answer); status != c.want || err == nil {
			t.Errorf("%s: %d, want %d; signed: %v", what, status, c.want, err == nil)
		}
	}
	if files, err := filepath.Glob(filepath.Join(st.dir, "vgw-0001", "*")); err != nil || len(files) != 4 {
		t.Fatalf("files %q, %v", files, err)
	}
	if status, answer := st.put(t, name(20, 30), hole); status != 201 { // it was found after all
		t.Fatalf("%d %s", status, answer)
	}
}

func TestATokenStaysWithItsCollector(t *testing.T) {
	var got []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = append(got, r.Header.Get("Authorization")) }))
	defer elsewhere.Close()
	here := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusPermanentRedirect)
	}))
	defer here.Close()
	st := newStand(t, 1, func(c *Config) { c.URL = here.URL })
	st.run(t, 1)
	if s := st.s.Status(); len(got) > 0 || !strings.Contains(s.Err, "308") {
		t.Fatalf("%d requests elsewhere, %+v", len(got), s)
	}
}

func TestACollectorThatIsAwayIsAskedAgain(t *testing.T) {
	st := newStand(t, 2, func(c *Config) { c.URL = "http://127.0.0.1:1" })
	pauses := st.run(t, 14)
	if len(pauses) != 14 || pauses[13] < pauseLast/2 || pauses[13] > pauseLast || st.s.Status().Failed != 14 {
		t.Fatalf("pauses %v", pauses)
	}
	if err := st.s.Status().Err; strings.Contains(err, "secret") {
		t.Fatalf("error %q", err)
	}
}

func TestAReceiptIsCheckedInEveryField(t *testing.T) {
	signer, err := signed.NewSigner("collector-1", [32]byte{3})
	if err != nil {
		t.Fatal(err)
	}
	key, err := signed.NewVerifier(signer.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range [][32]byte{{}, {7}} {
		good := signed.Receipt{Gateway: "vgw-0001", First: 10, Next: 20, Bytes: 1000, SHA256: [32]byte{1}, Root: root, At: time.Unix(1_790_000_000, 0)}
		out := gateway.Shipment{Archive: gateway.Archive{First: 10, Next: 20, Bytes: 1000}, SHA256: [32]byte{1}, Root: [32]byte{7},
			Was: []gateway.RootedRange{{First: 5, Next: 30, Root: [32]byte{8}}}}
		check := func(alter func(*signed.Receipt), fresh bool) bool {
			r := good
			alter(&r)
			text, err := signer.SignReceipt(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Check("vgw-0001", key)(text)
			if err == nil && got.By != "collector-1" {
				t.Fatalf("by %q", got.By)
			}
			return err == nil && answers(&got, &out, fresh)
		}
		rooted := root != [32]byte{}
		for what, c := range map[string]struct {
			alter func(*signed.Receipt)
			want  bool
		}{
			"as it is":                {func(*signed.Receipt) {}, true},
			"another gateway":         {func(r *signed.Receipt) { r.Gateway = "vgw-0002" }, false},
			"another first":           {func(r *signed.Receipt) { r.First-- }, false},
			"another next":            {func(r *signed.Receipt) { r.Next++ }, false},
			"another size":            {func(r *signed.Receipt) { r.Bytes++ }, rooted},
			"another digest":          {func(r *signed.Receipt) { r.SHA256[31]++ }, rooted},
			"another root":            {func(r *signed.Receipt) { r.Root[31]++ }, false},
			"the larger range":        {func(r *signed.Receipt) { r.First, r.Next, r.Root = 5, 30, [32]byte{8} }, true},
			"its range, another root": {func(r *signed.Receipt) { r.First, r.Next, r.Root = 5, 30, [32]byte{7} }, false},
			"its range, no root":      {func(r *signed.Receipt) { r.First, r.Next, r.Root = 5, 30, [32]byte{} }, false},
		} {
			if got := check(c.alter, false); got != c.want {
				t.Errorf("root %v, %s: %v", rooted, what, got)
			}
			if got := check(c.alter, true); got != (what == "as it is") {
				t.Errorf("root %v, %s, fresh: %v", rooted, what, got)
			}
		}
	}
}

func TestOtherBytesOfTheSameRecordsAreAnsweredWithAReceiptForWhatIsKept(t *testing.T) {
	st := newStand(t, 2, func(c *Config) { c.Timeout = time.Minute })
	st.store.rooted = true
	st.run(t, 1)
	before := st.kept(t, 0)
	clear(st.store.receipts)
	st.store.files[0] = archiveFile(0, 10, 5000) // as a repair writes it again
	st.run(t, 1)
	if s := st.s.Status(); s.Failed != 0 || st.kept(t, 0) != before || before.Bytes != 1000 || before.Root == [32]byte{} {
		t.Fatalf("%+v, %+v, before %+v", s, st.kept(t, 0), before)
	}
	if files, err := filepath.Glob(filepath.Join(st.dir, "vgw-0001", "0*")); err != nil || len(files) != 2 {
		t.Fatalf("files %q, %v", files, err)
	}
	of := fmt.Sprintf("%020d-%020d ", 0, 10)
	part := fmt.Sprintf("/vgw-0001/%020d-%020d", 0, 5)
	for what, c := range map[string]struct {
		name, field, value string
		body               []byte
		want               int
	}{
		"a part, of the same records":    {part, HeaderOf, of + digestField(before.Root), archiveFile(0, 5, 900), 200},
		"a part, of other records":       {part, HeaderOf, of + digestField([32]byte{1}), archiveFile(0, 5, 900), 409},
		"a part, of it is not said what": {part, "X", "", archiveFile(0, 5, 900), 409},
		"a part of a part":               {part, HeaderOf, fmt.Sprintf("%020d-%020d ", 0, 3) + digestField(before.Root), archiveFile(0, 5, 900), 400},
		"a part, of nothing":             {part, HeaderOf, of + "sha-256=::", archiveFile(0, 5, 900), 400},
		"other records":                  {fmt.Sprintf("/vgw-0001/%020d-%020d", 0, 10), HeaderRecords, digestField([32]byte{1}), st.store.files[0], 409},
		"no root":                        {fmt.Sprintf("/vgw-0001/%020d-%020d", 0, 10), HeaderRecords, "sha-256=:AA==:", st.store.files[0], 400},
		"another gateway's":              {fmt.Sprintf("/vgw-0002/%020d-%020d", 0, 5), HeaderOf, of + digestField(before.Root), archiveFile(0, 5, 900), 201},
	} {
		status, answer := st.put(t, c.name, c.body, c.field, c.value)
		if status != c.want {
			t.Errorf("%s: %d, want %d: %s", what, status, c.want, answer)
		}
		if r, err := st.key.ParseVerifyReceipt(answer); status == 200 && (err != nil || r.Next != 10 || r.Root != before.Root || r.SHA256 != before.SHA256) {
			t.Errorf("%s: receipt %+v, %v", what, r, err)
		}
	}
}

// kept returns the receipt that the store has, without its time.
func (st *stand) kept(t *testing.T, first uint64) signed.Receipt {
	t.Helper()
	r, err := st.key.ParseVerifyReceipt(st.store.receipts[first])
	if err != nil {
		t.Fatal(err)
	}
	r.At = time.Time{}
	return r
}
