/* native.c: runs a plugin as a program of this machine, to compare it with its module.
 *
 *   clang -DPLUGIN='"/path/plugin.c"' native.c
 *
 * Standard input: u32 length and configuration, u32 length and request, again and again. Standard output: for each, i32 what
 * sluice_configure returned, and when that is 0, i32 what sluice_filter returned and so many bytes of the verdict.
 */
#include <unistd.h>
#include PLUGIN

static int all(ssize_t (*step)(int, void *, size_t), int fd, void *p, size_t n) {
	for (char *at = p; n > 0;) {
		ssize_t did = step(fd, at, n);
		if (did <= 0) return 0;
		at += did;
		n -= (size_t)did;
	}
	return 1;
}

static ssize_t out(int fd, void *p, size_t n) { return write(fd, p, n); }

static int get(uint32_t *n) { return all(read, 0, n, 4) && *n <= SLUICE_IN_BYTES && all(read, 0, sluice_in, *n); }

int main(void) {
	uint32_t n;
	sluice_arena(SLUICE_IN_BYTES, 65536);
	while (get(&n)) {
		int32_t refused = sluice_configure((int32_t)n);
		if (!get(&n) || !all(out, 1, &refused, 4)) return 1;
		if (refused) continue;
		int32_t answer = sluice_filter((int32_t)n);
		if (!all(out, 1, &answer, 4) || (answer > 0 && !all(out, 1, sluice_out, (size_t)answer))) return 1;
	}
	return 0;
}
