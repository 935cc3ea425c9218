//go:build ignore

/* geofence: a position inside a configured area is important data.
 *
 * Configuration, JSON:
 *   {"areas": [{"name": "…", "datum": "wgs84|gcj02|bd09", "points": [[lat, lon], …]},
 *              {"name": "…", "datum": "…", "center": [lat, lon], "radius_m": 500}],
 *    "label": false, "unreadable": "policy|important",
 *    "decoy": {"seed": "at least 16 characters, secret", "blur_m": 500, "copies": 2, "within_m": 20000}}
 *
 * For each position whose value was granted: inside any area, or on its border, both findings of the position are
 * regraded to important. A location finding without a readable position (an altitude, a geohash) goes with the others of
 * its message: it is regraded when any of them is inside; when the message has no readable position at all, "unreadable"
 * decides: leave it to the policy, or important. "label": true also puts VEH-LOC-SENSITIVEAREA on the whole message.
 *
 * Edges of polygons are straight lines in latitude and longitude; a polygon may not be wider than 180 degrees. A position
 * is converted to the datum of each area when both state theirs, and the area is then enlarged by 50 m, for what the
 * published formulas may be off by. Where a datum is not stated, the area is enlarged by the most that the datums can
 * differ: 1,000 m for an area in gcj02, else 1,700 m. Where published implementations do not agree on whether there is a
 * shift at all (a strip along the borders of its rectangle), nothing is converted and the margin is that of the two datums.
 *
 * Decoys: what leaves has a hole where positions are held back, and enough positions draw its edge. With "decoy" the hole
 * has another form: a fixed grid whose cells are taken as a whole, all that touch the area and some of those within blur_m
 * of it, which ones depends on the seed; and the same form stands in "copies" other places within within_m. A position
 * there gets the same verdict, but for the reason, which stays on the record. All of it is fixed: nothing is averaged out
 * by watching longer.
 */
#include "../guest/c/sluice.h"
#include "../guest/c/json.h"

enum { POINT = 1, TRACK = 2, DEST = 3, SENSITIVE_AREA = 4 }; /* labels of the manifest */
enum { REASON_INSIDE = 1, REASON_UNREADABLE = 2, REASON_DECOY = 3, REASON_UNCHECKED = 4 };
enum { MAX_AREAS = 256, MAX_POINTS = 4096, MAX_COPIES = 8 };
enum { MAX_WORK = 100000 }; /* steps for one message, each about as long as measuring one edge; positions beyond it count as inside */

typedef struct {
	double min_lat, max_lat, min_lon, max_lon;
	double lat, lon, radius;                       /* circle */
	double shift_lat[MAX_COPIES], shift_lon[MAX_COPIES]; /* where its copies stand */
	uint32_t first, n;                             /* polygon: points; a circle has none */
	uint8_t datum;
} area;

static area areas[MAX_AREAS];
static double points[MAX_POINTS][2];
static uint32_t areas_n, points_n, copies, work;
static uint64_t seed[2];
static double blur, within; /* metres; blur 0: no decoys */
static uint8_t configured, label_message, unreadable_is_important;

/* ---- numbers ---- */

#define RADIAN 0.017453292519943295
#define PI 3.141592653589793

/* sine of half turns, to 1e-15: sin(PI * t) */
static double sine(double t) {
	static const double step[] = {1 / 6., 1 / 20., 1 / 42., 1 / 72., 1 / 110., 1 / 156., 1 / 210., 1 / 272., 1 / 342.};
	double n = __builtin_rint(t), x = (t - n) * PI, q = x * x, sum = 1;
	for (int k = 8; k >= 0; k--) sum = 1 - q * step[k] * sum;
	return ((int64_t)n & 1) ? -x * sum : x * sum;
}

static double cosine(double degrees) { return sine(degrees / 180 + 0.5); }

static double root(double x) { return __builtin_sqrt(x); }

/* Metres per degree of latitude and longitude at a latitude (WGS-84 ellipsoid, to 0.1 m). */
static void scale(double lat, double *m_lat, double *m_lon) {
	double c = cosine(lat);
	*m_lat = 111132.95 - 559.85 * (2 * c * c - 1);
	*m_lon = (111412.84 + 93.5 * 3) * c - 93.5 * 4 * c * c * c;
	if (*m_lon < 1) *m_lon = 1;
}

/* SipHash-2-4 of three words under the seed. */
static uint64_t keyed(uint64_t a, uint64_t b, uint64_t c) {
#define ROTATE(x, n) ((x) << (n) | (x) >> (64 - (n)))
	uint64_t v0 = seed[0] ^ 0x736f6d6570736575, v1 = seed[1] ^ 0x646f72616e646f6d, v2 = seed[0] ^ 0x6c7967656e657261, v3 = seed[1] ^ 0x7465646279746573;
	uint64_t in[4] = {a, b, c, (uint64_t)24 << 56};
	for (int i = 0; i < 8; i++) {
		if (i < 4) v3 ^= in[i];
		if (i == 4) v2 ^= 0xff;
		for (int k = 0; k < (i < 4 ? 2 : 1); k++) {
			v0 += v1; v1 = ROTATE(v1, 13); v1 ^= v0; v0 = ROTATE(v0, 32);
			v2 += v3; v3 = ROTATE(v3, 16); v3 ^= v2;
			v0 += v3; v3 = ROTATE(v3, 21); v3 ^= v0;
			v2 += v1; v1 = ROTATE(v1, 17); v1 ^= v2; v2 = ROTATE(v2, 32);
		}
		if (i < 4) v0 ^= in[i];
	}
	return v0 ^ v1 ^ v2 ^ v3;
}

/* A fraction from 0 up to 1 out of 32 bits of a hash. */
static double fraction(uint32_t bits) { return bits / 4294967296.0; }

/* ---- datums ---- */

typedef struct { double lat, lon; } place;

/* WGS-84 to GCJ-02, the published formula. */
static place to_gcj02(place p) {
	double x = p.lon - 105, y = p.lat - 35, xy = 0.1 * x * y, r = root(x < 0 ? -x : x) * 0.2;
	double waves = (20 * sine(6 * x) + 20 * sine(2 * x)) * 2 / 3;
	double lat = -100 + 2 * x + 3 * y + 0.2 * y * y + xy + r + waves + (20 * sine(y) + 40 * sine(y / 3)) * 2 / 3 + (160 * sine(y / 12) + 320 * sine(y / 30)) * 2 / 3;
	double lon = 300 + x + 2 * y + 0.1 * x * x + xy + r / 2 + waves + (20 * sine(x) + 40 * sine(x / 3)) * 2 / 3 + (150 * sine(x / 12) + 300 * sine(x / 30)) * 2 / 3;
	double s = sine(p.lat / 180), m = 1 - 0.00669342162296594323 * s * s, e = 6378245.0;
	place out = {p.lat + lat * 180 / (e * (1 - 0.00669342162296594323) / (m * root(m)) * PI), p.lon + lon * 180 / (e / root(m) * cosine(p.lat) * PI)};
	return out;
}

/* GCJ-02 to WGS-84, to a micrometre: the formula turned around by iteration. */
static place from_gcj02(place p) {
	place guess = p;
	for (int i = 0; i < 5; i++) {
		place there = to_gcj02(guess);
		guess.lat -= there.lat - p.lat;
		guess.lon -= there.lon - p.lon;
	}
	return guess;
}

/* Moves a point along and across its direction from 0, 0: the second shift of BD-09. sign 1 forth, -1 back. */
static place bd09_turn(place p, double sign) {
	double z = root(p.lat * p.lat + p.lon * p.lon), c = p.lon / z, s = p.lat / z;
	double d = sign * 0.000003 * sine(p.lon * 3000 / 180 + 0.5), cd = 1 - d * d / 2;
	z += sign * 0.00002 * sine(p.lat * 3000 / 180);
	place out = {z * (s * cd + c * d), z * (c * cd - s * d)};
	return out;
}

static place to_bd09(place p) {
	place out = bd09_turn(p, 1);
	out.lat += 0.006;
	out.lon += 0.0065;
	return out;
}

static place from_bd09(place p) {
	p.lat -= 0.006;
	p.lon -= 0.0065;
	return bd09_turn(p, -1);
}

static int within_box(place p, double south, double north, double west, double east) { return p.lat > south && p.lat < north && p.lon > west && p.lon < east; }

/* p, which is in the datum from, as it stands in the datum to; margin is by what an area has to be enlarged then. */
static place converted(place p, uint32_t from, uint32_t to, double *margin) {
	*margin = 0;
	if (from == to && from != SLUICE_UNKNOWN_DATUM) return p;
	*margin = 1700;
	if (from == SLUICE_GCJ02 || to == SLUICE_GCJ02) *margin = from == SLUICE_WGS84 || to == SLUICE_WGS84 ? 800 : 1000;
	if (from == SLUICE_UNKNOWN_DATUM || to == SLUICE_UNKNOWN_DATUM) return p;
	if (!within_box(p, 3.88, 53.53, 73.68, 135.03)) { /* of the smaller published rectangle, with 0.02 degrees for the shift itself */
		if (from != SLUICE_BD09 && to != SLUICE_BD09 && !within_box(p, 0.80, 55.85, 71.98, 137.86)) *margin = 50; /* no shift beyond the larger one */
		return p;
	}
	*margin = 50;
	if (from == SLUICE_BD09) p = from_bd09(p);
	if (from == SLUICE_WGS84) p = to_gcj02(p);
	if (to == SLUICE_WGS84) p = from_gcj02(p);
	if (to == SLUICE_BD09) p = to_bd09(p);
	return p;
}

/* ---- areas ---- */

static int in_circle(const area *a, double lat, double lon, double add) {
	double m_lat, m_lon, dlon = lon - a->lon, reach = a->radius + add;
	if (dlon > 180) dlon -= 360;
	if (dlon < -180) dlon += 360;
	if ((lat - a->lat) * 110000 > reach || (a->lat - lat) * 110000 > reach) return 0; /* a degree of latitude is never shorter */
	scale((lat + a->lat) / 2, &m_lat, &m_lon);
	double y = (lat - a->lat) * m_lat, x = dlon * m_lon;
	return x * x + y * y <= reach * reach;
}

static int near_box(const area *a, double lat, double lon, double m_lat, double m_lon, double reach) {
	return lat >= a->min_lat - reach / m_lat && lat <= a->max_lat + reach / m_lat && lon >= a->min_lon - reach / m_lon && lon <= a->max_lon + reach / m_lon;
}

/* m_lat and m_lon: the scale at lat. */
static int in_polygon(const area *a, double lat, double lon, double m_lat, double m_lon, double add) {
	double reach = add + 0.05; /* the border itself is inside, to 5 cm */
	int inside = 0;
	if (!near_box(a, lat, lon, m_lat, m_lon, reach)) return 0;
	const double(*p)[2] = points + a->first;
	work += a->n;
	for (uint32_t i = 0, j = a->n - 1; i < a->n; j = i++) {
		double y1 = (p[j][0] - lat) * m_lat, x1 = (p[j][1] - lon) * m_lon, y2 = (p[i][0] - lat) * m_lat, x2 = (p[i][1] - lon) * m_lon;
		double dy = y2 - y1, dx = x2 - x1, square = dx * dx + dy * dy;
		double t = square > 0 ? -(x1 * dx + y1 * dy) / square : 0; /* foot of the perpendicular on the edge */
		if (t < 0) t = 0;
		if (t > 1) t = 1;
		double x = x1 + t * dx, y = y1 + t * dy;
		if (x * x + y * y <= reach * reach) return 1;
		if ((y1 > 0) != (y2 > 0) && x1 - y1 * dx / dy > 0) inside = !inside;
	}
	return inside;
}

/* Whether the place is inside the area or nearer than add. m_lat and m_lon: the scale at its latitude. */
static int in_area(const area *a, double lat, double lon, double m_lat, double m_lon, double add) {
	work++;
	if (a->n == 0) {
		work += 4;
		return in_circle(a, lat, lon, add);
	}
	double turn = lon > 179 ? -360 : lon < -179 ? 360 : 0; /* a margin may reach across 180 degrees */
	return in_polygon(a, lat, lon, m_lat, m_lon, add) || (turn != 0 && in_polygon(a, lat, lon + turn, m_lat, m_lon, add));
}

/* Whether the place is in the hole of area i or one of its copies: its cell of the grid touches the area, or is nearer than a
 * distance up to blur that the seed gives to this cell. */
static int in_hole(uint32_t i, double lat, double lon, double m_lat, double m_lon, double add) {
	const area *a = &areas[i];
	double cell = blur / 2;
	for (uint32_t k = 0; k <= copies; k++) {
		double la = lat, lo = lon;
		if (k > 0) la -= a->shift_lat[k - 1], lo -= a->shift_lon[k - 1];
		double most = add + cell * 2 + blur;
		work++;
		if (a->n != 0 && !near_box(a, la, lo, m_lat * 0.99, m_lon * 0.8, most) && lo > -179 && lo < 179) continue; /* far away, nearly always */
		if (a->n == 0 && ((la - a->lat) * 110000 > a->radius + most || (a->lat - la) * 110000 > a->radius + most)) continue;
		work += 16;
		double row = __builtin_floor(la * 111132.95 / cell), center_lat = (row + 0.5) * cell / 111132.95, r_lat, r_lon;
		if (center_lat > 90) center_lat = 90;
		if (center_lat < -90) center_lat = -90;
		scale(center_lat, &r_lat, &r_lon);
		double column = __builtin_floor(lo * r_lon / cell), center_lon = (column + 0.5) * cell / r_lon;
		uint64_t hash = keyed(i, (uint64_t)(int64_t)row, (uint64_t)(int64_t)column);
		if (in_area(a, center_lat, center_lon, r_lat, r_lon, add + 0.75 * cell + fraction((uint32_t)hash) * blur)) return 1;
	}
	return 0;
}

enum { ELSEWHERE, UNREADABLE, OUTSIDE, DECOY, UNCHECKED, INSIDE };

static uint8_t judge(const sluice_position *p) {
	place there[4];
	double margin[4], m_lat[4], m_lon[4];
	uint32_t known = 0;
	uint8_t mark = OUTSIDE;
	for (uint32_t i = 0; i < areas_n; i++) {
		const area *a = &areas[i];
		uint32_t d = a->datum;
		if (work > MAX_WORK) return UNCHECKED;
		if (!(known & 1u << d)) {
			place at = {p->lat, p->lon};
			there[d] = converted(at, p->datum, d, &margin[d]);
			scale(there[d].lat, &m_lat[d], &m_lon[d]);
			known |= 1u << d;
		}
		double lat = there[d].lat, lon = there[d].lon;
		if (in_area(a, lat, lon, m_lat[d], m_lon[d], margin[d])) return INSIDE;
		if (blur > 0 && mark == OUTSIDE && in_hole(i, lat, lon, m_lat[d], m_lon[d], margin[d])) mark = DECOY;
	}
	return mark;
}

/* ---- filter ---- */

static uint8_t marks[SLUICE_IN_BYTES / 32];

static void filter(const sluice_request *r, sluice_verdict *v) {
	const uint8_t *last = 0; /* both findings of a position share its value */
	uint8_t last_mark = 0, highest = 0;
	if (!configured) {
		sluice_fail(v);
		return;
	}
	work = 0;
	for (uint32_t i = 0; i < r->findings_n; i++) {
		sluice_finding f;
		sluice_position pos;
		sluice_finding_at(r, i, &f);
		marks[i] = ELSEWHERE;
		if (f.label < POINT || f.label > DEST) continue;
		if (!f.value || f.value != last) {
			last = f.value;
			last_mark = sluice_finding_position(&f, &pos) ? judge(&pos) : UNREADABLE;
		}
		marks[i] = last_mark;
		if (last_mark > highest) highest = last_mark;
	}
	if (highest == UNREADABLE ? !unreadable_is_important : highest < DECOY) return;
	sluice_reason(v, highest == INSIDE ? REASON_INSIDE : highest == UNCHECKED ? REASON_UNCHECKED : highest == DECOY ? REASON_DECOY : REASON_UNREADABLE);
	for (uint32_t i = 0; i < r->findings_n; i++)
		if (marks[i] >= DECOY || marks[i] == UNREADABLE) sluice_regrade(v, sluice_target(i), SLUICE_IMPORTANT);
	if (label_message) sluice_label(v, SENSITIVE_AREA);
}

SLUICE_FILTER(filter)

/* ---- configuration ---- */

SMALL static void coordinate(json_reader *r, double at[2]) {
	json_expect(r, '[');
	at[0] = json_number(r);
	json_expect(r, ',');
	at[1] = json_number(r);
	json_expect(r, ']');
	if (!(at[0] >= -90 && at[0] <= 90 && at[1] >= -180 && at[1] <= 180)) json_fail(r, "coordinate is no [latitude, longitude] in degrees");
}

SMALL static uint8_t datum(json_reader *r) {
	char text[16];
	json_string(r, text, sizeof text);
	if (json_is(text, "wgs84")) return SLUICE_WGS84;
	if (json_is(text, "gcj02")) return SLUICE_GCJ02;
	if (json_is(text, "bd09")) return SLUICE_BD09;
	json_fail(r, "datum is none of wgs84, gcj02, bd09");
	return 0;
}

SMALL static void polygon(json_reader *r, area *a) {
	a->first = points_n;
	json_expect(r, '[');
	do {
		if (points_n == MAX_POINTS) {
			json_fail(r, "more than 4096 points");
			return;
		}
		double *at = points[points_n];
		coordinate(r, at);
		if (a->n == 0 || at[0] < a->min_lat) a->min_lat = at[0];
		if (a->n == 0 || at[0] > a->max_lat) a->max_lat = at[0];
		if (a->n == 0 || at[1] < a->min_lon) a->min_lon = at[1];
		if (a->n == 0 || at[1] > a->max_lon) a->max_lon = at[1];
		a->n++;
		points_n++;
	} while (json_more(r, ']'));
	if (a->n < 3) json_fail(r, "polygon has fewer than 3 points");
	else if (a->max_lon - a->min_lon > 180) json_fail(r, "polygon is wider than 180 degrees: cut it at 180 degrees of longitude");
}

SMALL static void read_area(json_reader *r) {
	static const char *const names[] = {"name", "datum", "points", "center", "radius_m"};
	enum { NAME = 1, DATUM = 2, POINTS = 4, CENTER = 8, RADIUS = 16 };
	uint32_t seen = 0;
	char text[16];
	double at[2];
	if (areas_n == MAX_AREAS) {
		json_fail(r, "more than 256 areas");
		return;
	}
	area *a = &areas[areas_n];
	a->n = 0;
	a->datum = SLUICE_UNKNOWN_DATUM;
	json_expect(r, '{');
	do switch (json_key(r, names, 5, &seen)) {
		case NAME: json_string(r, text, sizeof text); break;
		case DATUM: a->datum = datum(r); break;
		case POINTS: polygon(r, a); break;
		case CENTER:
			coordinate(r, at);
			a->lat = at[0];
			a->lon = at[1];
			break;
		case RADIUS:
			a->radius = json_number(r);
			if (!(a->radius >= 1 && a->radius <= 200000)) json_fail(r, "radius_m is not between 1 and 200000");
			break;
		}
	while (json_more(r, '}'));
	seen &= POINTS | CENTER | RADIUS;
	if (seen != POINTS && seen != (CENTER | RADIUS)) json_fail(r, "area needs either points, or center and radius_m");
	areas_n += !r->error;
}

/* The seed: its characters folded into the key of the hash. */
SMALL static void read_seed(json_reader *r) {
	uint32_t n = 0;
	json_expect(r, '"');
	for (; r->p < r->end && *r->p != '"' && *r->p != '\\' && *r->p >= ' '; r->p++, n++) {
		uint64_t mixed = keyed(*r->p, n, 0);
		seed[n & 1] ^= mixed;
		seed[~n & 1] += mixed;
	}
	if (n < 16) json_fail(r, "seed has fewer than 16 characters");
	json_expect(r, '"');
}

SMALL static void read_decoy(json_reader *r) {
	static const char *const names[] = {"seed", "blur_m", "copies", "within_m"};
	uint32_t seen = 0;
	double n = 0;
	blur = 500;
	within = 20000;
	copies = 2;
	json_expect(r, '{');
	do switch (json_key(r, names, 4, &seen)) {
		case 1: read_seed(r); break;
		case 2:
			blur = json_number(r);
			if (!(blur >= 50 && blur <= 20000)) json_fail(r, "blur_m is not between 50 and 20000");
			break;
		case 4:
			n = json_number(r);
			if (!(n >= 0 && n <= MAX_COPIES && n == (double)(uint32_t)n)) {
				json_fail(r, "copies is no whole number between 0 and 8");
				break;
			}
			copies = (uint32_t)n;
			break;
		case 8:
			within = json_number(r);
			if (!(within >= 1000 && within <= 500000)) json_fail(r, "within_m is not between 1000 and 500000");
			break;
		}
	while (json_more(r, '}'));
	if (!(seen & 1)) json_fail(r, "decoy has no seed");
}

/* Where the copies of each area stand: in any direction, between a quarter of within_m and all of it. */
SMALL static void place_copies(void) {
	for (uint32_t i = 0; i < areas_n; i++)
		for (uint32_t k = 0; k < copies; k++) {
			area *a = &areas[i];
			uint64_t hash = keyed(i, k, 1);
			double m_lat, m_lon, far = within * (0.25 + 0.75 * fraction((uint32_t)hash)), turn = 2 * fraction((uint32_t)(hash >> 32));
			scale(a->n ? (a->min_lat + a->max_lat) / 2 : a->lat, &m_lat, &m_lon);
			a->shift_lat[k] = far * sine(turn) / m_lat;
			a->shift_lon[k] = far * sine(turn + 0.5) / m_lon;
		}
}

SMALL static void read_config(json_reader *r) {
	static const char *const names[] = {"areas", "label", "unreadable", "decoy"};
	uint32_t seen = 0;
	char text[16];
	json_expect(r, '{');
	if (json_peek(r) == '}') r->p++;
	else do switch (json_key(r, names, 4, &seen)) {
		case 1:
			json_expect(r, '[');
			do read_area(r);
			while (json_more(r, ']'));
			break;
		case 2:
			label_message = json_bool(r);
			break;
		case 4:
			json_string(r, text, sizeof text);
			unreadable_is_important = (uint8_t)json_is(text, "important");
			if (!unreadable_is_important && !json_is(text, "policy")) json_fail(r, "unreadable is neither policy nor important");
			break;
		case 8: read_decoy(r); break;
		}
	while (json_more(r, '}'));
	json_end(r);
	if (!areas_n) json_fail(r, "no areas");
}

SMALL static int32_t configure(const uint8_t *json, uint32_t len) {
	static char text[128];
	json_reader r = {json, json + len, 0};
	areas_n = points_n = copies = 0;
	seed[0] = seed[1] = 0;
	blur = 0;
	label_message = unreadable_is_important = configured = 0;
	read_config(&r);
	if (!r.error) {
		if (blur > 0) place_copies();
		configured = 1;
		return 0;
	}
	uint32_t n = 0;
	for (const char *s = "area "; *s; s++) text[n++] = *s; /* the one that was being read, counted from 1 */
	uint32_t number = areas_n + 1, unit = 100;
	for (; unit > number; unit /= 10) {}
	for (; unit; unit /= 10) text[n++] = (char)('0' + number / unit % 10);
	text[n++] = ':';
	text[n++] = ' ';
	for (const char *s = r.error; *s && n < sizeof text - 1; s++) text[n++] = *s;
	text[n] = 0;
	return sluice_refuse(text);
}

SLUICE_CONFIGURE(configure)
