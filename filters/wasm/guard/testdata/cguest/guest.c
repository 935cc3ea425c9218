// A guest in C for the tests of package guard.
typedef unsigned char u8;
typedef int i32;
#define EXPORT(n) __attribute__((export_name(n)))

static u8 in[65536], out[65536];

EXPORT("buffer") i32 buffer(void) { return (i32)in; }

EXPORT("scan") i32 scan(i32 n) {
	i32 sum = 0, depth = 0, number = 0, digits = 0;
	for (i32 i = 0; i < n; i++) {
		u8 c = in[i];
		if (c >= '0' && c <= '9') {
			number = number * 10 + (c - '0');
			digits++;
			continue;
		}
		if (c == '{' || c == '[') depth++;
		else if (c == '}' || c == ']') depth--;
		if (digits == 11) sum += number ^ depth;
		number = digits = 0;
	}
	return sum;
}

static __attribute__((noinline)) void sort(u8 *b, i32 n) {
	if (n < 2) return;
	u8 pivot = b[n / 2];
	i32 i = 0, j = n - 1;
	for (;; i++, j--) {
		while (b[i] < pivot) i++;
		while (b[j] > pivot) j--;
		if (i >= j) break;
		u8 t = b[i];
		b[i] = b[j];
		b[j] = t;
	}
	sort(b, i);
	sort(b + i, n - i);
}

// work copies, sorts and divides.
EXPORT("work") i32 work(i32 n) {
	__builtin_memcpy(out, in, (unsigned long)n);
	sort(out, n);
	i32 sum = 0;
	for (i32 i = 0; i < n; i++) sum = sum * 31 + out[i] / (1 + i % 7);
	return sum;
}

EXPORT("recurse") i32 recurse(i32 n) {
	volatile i32 one = 1;
	return n == 0 ? 0 : recurse(n - 1) + one;
}
