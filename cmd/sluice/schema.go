package main

import (
	"fmt"
	"io"

	"github.com/sluice-edge/sluice/gateway/config"
)

// schemaVerb prints the JSON Schema of the configuration, for editors.
func schemaVerb(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("schema", "")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if len(rest) > 0 {
		return usage(stderr, fmt.Errorf("schema: unexpected argument %q", rest[0]), "type sluice schema > sluice.schema.json")
	}
	if _, err := stdout.Write(config.Schema(Config{}, "Sluice configuration")); err != nil {
		return fail(stderr, fmt.Errorf("write schema: %w", err))
	}
	return exitGood
}
