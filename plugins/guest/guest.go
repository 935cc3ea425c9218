// Package guest is the author's kit as files for the program to hand out: what a new project of a plugin begins with.
//
// The kit of each language lies in the folder of that language, what is around it in new/LANG and new/all. In those files
// NAME stands for the name of the plugin, and a word in braces and capitals for what the language has for it.
package guest

import (
	"embed"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed new go/sluice.go go/verdict.go go/plugin.go go/export_wasip1.go c/sluice.h rust/sluice.rs
//go:embed assemblyscript/sluice.ts assemblyscript/package.json assemblyscript/package-lock.json
var kit embed.FS

// language is what differs from one language to the next.
type language struct {
	id       string
	source   string            // file of the filter
	profile  string            // of the manifest
	tools    string            // to install
	notes    string            // for its README
	copies   map[string]string // file of the project → file of the kit
	produced map[string]string // file of the project → text
}

var languages = []language{
	{id: "go", source: "main.go", profile: "wasi-stub", tools: "Go 1.24 or newer, from https://go.dev/dl; it is built without network",
		notes: "`func filter(r *sluice.Request, v *sluice.Verdict)`. A panic is a trap. Nothing that the filter keeps from message to message may\n" +
			"change a verdict. `encoding/json` and `regexp` work, and cost much time per message. The module imports functions of WASI (profile\n" +
			"`wasi-stub`); the host's tell nothing: no files, no arguments, a clock that stands. The same version of Go makes the same bytes.",
		copies: map[string]string{"sluice/sluice.go": "go/sluice.go", "sluice/verdict.go": "go/verdict.go", "sluice/plugin.go": "go/plugin.go",
			"sluice/export_wasip1.go": "go/export_wasip1.go"},
		produced: map[string]string{
			"go.mod":        "module NAME\n\ngo 1.24\n\nrequire " + goPath + " v1.0.0\n\nreplace " + goPath + " => ./sluice\n",
			"sluice/go.mod": "module " + goPath + "\n\ngo 1.24\n"}},
	{id: "c", source: "filter.c", profile: "bare", tools: "`apt-get install clang lld`",
		notes: "No C library, two static regions, a stack of 8 KiB. Larger regions than 64 KiB: define `SLUICE_IN_BYTES` or `SLUICE_OUT_BYTES` before\n" +
			"the header, and `limits` in the manifest. `__builtin_trap()` is a trap. The same versions of clang and lld make the same bytes.",
		copies: map[string]string{"sluice/sluice.h": "c/sluice.h"}},
	{id: "rust", source: "filter.rs", profile: "bare", tools: "`apt-get install rustc libstd-rust-dev-wasm32 lld`",
		notes: "`no_std`, no allocator, a stack of 16 KiB. A panic is a trap. What a filter keeps from its configuration stands in statics.\n" +
			"The same versions of rustc and lld make the same bytes.",
		copies: map[string]string{"sluice/sluice.rs": "rust/sluice.rs"}},
	{id: "as", source: "filter.ts", profile: "bare", tools: "Node 20 or newer with npm; the first build fetches the compiler (`npm ci`)",
		notes: "Nothing is ever freed (runtime `stub`): a filter must not make objects, strings or arrays. `unreachable()` is a trap.\n" +
			"The version of the compiler stands in `package-lock.json`; the same one makes the same bytes.",
		copies: map[string]string{"sluice/sluice.ts": "assemblyscript/sluice.ts", "package.json": "assemblyscript/package.json",
			"package-lock.json": "assemblyscript/package-lock.json"},
		produced: map[string]string{".gitignore": "node_modules/\n"}},
}

const goPath = "github.com/sluice-edge/sluice/plugins/guest/go"

// Languages lists the ids that Project takes.
func Languages() (ids []string) {
	for _, l := range languages {
		ids = append(ids, l.id)
	}
	return ids
}

// Project returns the files of a new project, by their path in it, and which file the filter stands in; nil for a
// language that the kit does not have. build.sh is to be executable. Name is a plugin's name: it goes into the files as it is.
func Project(lang, name string) (files map[string][]byte, source string) {
	i := slices.IndexFunc(languages, func(l language) bool { return l.id == lang })
	if i < 0 {
		return nil, ""
	}
	l := &languages[i]
	fill := strings.NewReplacer("NAME", name, "{LANG}", l.id, "{PROFILE}", l.profile, "{TOOLS}", l.tools, "{SOURCE}", l.source, "{NOTES}", l.notes)
	files = map[string][]byte{}
	for _, folder := range []string{"new/all", "new/" + l.id} {
		fs.WalkDir(kit, folder, func(at string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files[strings.TrimPrefix(at, folder+"/")] = []byte(fill.Replace(string(file(at))))
			}
			return err
		})
	}
	for to, from := range l.copies {
		files[to] = file(from)
	}
	for to, text := range l.produced {
		files[to] = []byte(fill.Replace(text))
	}
	return files, l.source
}

// file is one of the kit's own.
func file(name string) []byte {
	data, err := kit.ReadFile(path.Clean(name))
	if err != nil {
		panic("guest: " + err.Error())
	}
	return data
}
