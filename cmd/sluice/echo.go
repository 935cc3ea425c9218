package main

import (
	"fmt"
	"io"
	"time"

	yaml "go.yaml.in/yaml/v4"

	"github.com/sluice-edge/sluice/gateway/config"
)

// echoVerb prints the configuration as the gateway would take it: drop-ins merged, defaults filled in, variables
// expanded, paths absolute, secrets redacted.
func echoVerb(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("echo", "[-c FILE] [--json]")
	file := fs.String("c", defaultConfigFile, "configuration `file`")
	asJSON := fs.Bool("json", false, "print one line of JSON")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if len(rest) > 0 {
		return usage(stderr, fmt.Errorf("echo: unexpected argument %q", rest[0]), "type sluice echo -c "+rest[0])
	}
	c, r := loadConfig(*file, time.Now())
	if !r.OK() {
		return failProblems(stderr, r)
	}
	text, err := config.Encode(c, r)
	if err != nil {
		return fail(stderr, err)
	}
	if !*asJSON {
		_, err = stdout.Write(text)
	} else {
		var free map[string]any
		if err = yaml.Unmarshal(text, &free); err == nil {
			return printJSON(stdout, stderr, free)
		}
	}
	if err != nil {
		return fail(stderr, fmt.Errorf("write configuration: %w", err))
	}
	return exitGood
}
