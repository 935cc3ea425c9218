package guest

import (
	"bytes"
	"regexp"
	"testing"
)

// Nothing in a project is left to fill in, and all of it is there.
func TestProjects(t *testing.T) {
	open := regexp.MustCompile(`\bNAME\b|\{[A-Z]+\}`)
	for _, lang := range Languages() {
		files, source := Project(lang, "speedguard")
		for _, name := range []string{source, "manifest.json", "plugin.yaml", "build.sh", "README.md", "testdata/messages.ndjson"} {
			if len(files[name]) == 0 {
				t.Errorf("%s: no %s", lang, name)
			}
		}
		for name, data := range files {
			if m := open.Find(data); m != nil && !bytes.HasPrefix([]byte(name), []byte("sluice/")) {
				t.Errorf("%s: %s in %s", lang, m, name)
			}
		}
	}
	if files, _ := Project("cobol", "speedguard"); files != nil {
		t.Error("a project in a language that the kit does not have")
	}
}
