package stand

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Metrics returns what a running gate shows of itself: by name, summed over labels.
func (g *Gate) Metrics(ctx context.Context) (map[string]float64, error) {
	r, err := g.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	sums := make(map[string]float64)
	for in := bufio.NewScanner(r.Body); in.Scan(); {
		name, value, ok := cutMetric(in.Text())
		if ok {
			sums[name] += value
		}
	}
	return sums, nil
}

// cutMetric reads one line of the text format.
func cutMetric(line string) (name string, value float64, ok bool) {
	at := strings.LastIndexByte(line, ' ')
	if at < 0 || strings.HasPrefix(line, "#") {
		return "", 0, false
	}
	value, err := strconv.ParseFloat(line[at+1:], 64)
	name, _, _ = strings.Cut(line[:at], "{")
	return name, value, err == nil
}

// IsReady reports whether the gate says that it is ready.
func (g *Gate) IsReady(ctx context.Context) bool {
	r, err := g.get(ctx, "/readyz")
	if err != nil {
		return false
	}
	r.Body.Close()
	return r.StatusCode == http.StatusOK
}

func (g *Gate) get(ctx context.Context, path string) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.Admin+path, nil)
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, fmt.Errorf("ask gate: %w", err)
	}
	return r, nil
}
