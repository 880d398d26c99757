/* One pass over a mask of 8-bit labels -> everything that histoprep/tiles/measure.py and
 * histoprep/lossy/ count in it. `histoprep/native/__init__.py` says what each output means; the
 * Python code that does the same is in these two and gives the same numbers, bit for bit.
 *
 * Labels become bits at once: where a pixel differs from its right neighbour (`across`) and from the
 * one below (`down`). A window is of one label where no such bit lies inside it, so that erosions
 * are ORs of shifted words of 64 pixels.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FAST __attribute__((target_clones("avx2", "default")))
#else
#define FAST
#endif

typedef uint64_t word;

enum { BLOCK = 8, CELL = 4, LABELS = 256, MIN_BORDERS = 4 };
enum { OK = 0, UNIFORM = 1, NO_MEMORY = 2 };

/* A step of the 5x5 chamfer metric in units of 1e-4 px. Sums of these are exact; those of OpenCV
 * are off by less than SLACK of them. */
enum { STRAIGHT = 10000, SLACK = 20, NO_OBSTACLE = 30000, THIN = 30000 };

/* Numbers of the whole mask; the order is that of `_NUMBERS`. */
enum {
    N_LABELS, N_CELL, N_OWN, N_SHIFTED, N_ROUGH = N_SHIFTED + 3, N_ACROSS, N_DOWN, N_CONTACTS,
    N_SOFT, N_NEAR, N_TURNS, N_ROW_ENDS, N_COLUMN_ENDS, N_UNSURE, N_NUMBERS
};

typedef struct {
    int height, width, words;
    const uint8_t *labels;
    word *across, *down, *rim, *border;
    int num_runs;
    int *row_start, *start, *end;
    uint8_t *of_run;
} Mask;

static inline int bits_of(word x) { return __builtin_popcountll(x); }
static inline int lowest(word x) { return __builtin_ctzll(x); }

/* Bits of the 64 or fewer pixels from a and b on that differ. */
static inline word differing(const uint8_t *a, const uint8_t *b, int count)
{
    word found = 0;
    int i = 0;
#if defined(__x86_64__)
    for (; i + 16 <= count; i += 16) {
        __m128i same = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(a + i)),
                                      _mm_loadu_si128((const __m128i *)(b + i)));
        found |= (word)(~_mm_movemask_epi8(same) & 0xFFFF) << i;
    }
#endif
    for (; i < count; i++)
        found |= (word)(a[i] != b[i]) << i;
    return found;
}

static inline word from_left(const word *row, int at, int by)
{
    return row[at] << by | (at ? row[at - 1] >> (64 - by) : 0);
}

static inline word from_right(const word *row, int at, int words, int by)
{
    return row[at] >> by | (at + 1 < words ? row[at + 1] << (64 - by) : 0);
}

static inline int gcd(int a, int b)
{
    while (b) {
        int rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Set bits of [begin, end) of a row of bits. */
static inline int count_between(const word *row, int begin, int end)
{
    int first = begin >> 6, last = (end - 1) >> 6, count = 0;
    word low = ~(word)0 << (begin & 63), high = ~(word)0 >> (63 - ((end - 1) & 63));
    if (first == last)
        return bits_of(row[first] & low & high);
    count = bits_of(row[first] & low) + bits_of(row[last] & high);
    for (int at = first + 1; at < last; at++)
        count += bits_of(row[at]);
    return count;
}

/* Fill `across` and `down`; return the number of steps across. */
static inline int find_steps(Mask *m, int *num_down)
{
    int steps = 0, below = 0;
    for (int y = 0; y < m->height; y++) {
        const uint8_t *row = m->labels + (size_t)y * m->width;
        word *across = m->across + (size_t)y * m->words, *down = m->down + (size_t)y * m->words;
        for (int at = 0; at < m->words; at++) {
            int left = m->width - 64 * at, whole = left < 64 ? left : 64;
            int pairs = left - 1 < 64 ? left - 1 : 64;
            across[at] = differing(row + 64 * at, row + 64 * at + 1, pairs);
            steps += bits_of(across[at]);
            down[at] = y + 1 < m->height
                           ? differing(row + 64 * at, row + 64 * at + m->width, whole) : 0;
            below += bits_of(down[at]);
        }
    }
    *num_down = below;
    return steps;
}

/* Fill `rim` (5x5 window of several labels) and `border` (3x3). */
static inline void find_rims(Mask *m, word *wide, word *high, word *wide3, word *high3)
{
    int n = m->words, rows = m->height;
    for (int y = 0; y < rows; y++) {
        const word *a = m->across + (size_t)y * n, *d = m->down + (size_t)y * n;
        for (int at = 0; at < n; at++) {
            word a1 = from_left(a, at, 1), d1 = from_left(d, at, 1) | from_right(d, at, n, 1) | d[at];
            size_t here = (size_t)y * n + at;
            wide3[here] = a[at] | a1;
            wide[here] = a[at] | a1 | from_left(a, at, 2) | from_right(a, at, n, 1);
            high3[here] = d1;
            high[here] = d1 | from_left(d, at, 2) | from_right(d, at, n, 2);
        }
    }
    for (int y = 0; y < rows; y++) {
        word *rim = m->rim + (size_t)y * n, *border = m->border + (size_t)y * n;
        memset(rim, 0, n * sizeof(word));
        memset(border, 0, n * sizeof(word));
        for (int near = -2; near <= 2; near++) {
            int other = y + near;
            if (other < 0 || other >= rows)
                continue;
            const word *w = wide + (size_t)other * n, *h = high + (size_t)other * n;
            for (int at = 0; at < n; at++)
                rim[at] |= w[at] | (near < 2 ? h[at] : 0);
            if (near == -2 || near == 2)
                continue;
            const word *w3 = wide3 + (size_t)other * n, *h3 = high3 + (size_t)other * n;
            for (int at = 0; at < n; at++)
                border[at] |= w3[at] | (near < 1 ? h3[at] : 0);
        }
    }
}

static inline void find_runs(Mask *m)
{
    int run = 0;
    for (int y = 0; y < m->height; y++) {
        const word *across = m->across + (size_t)y * m->words;
        int begin = 0;
        m->row_start[y] = run;
        for (int at = 0; at < m->words; at++)
            for (word left = across[at]; left; left &= left - 1) {
                int after = 64 * at + lowest(left) + 1;
                m->start[run] = begin;
                m->end[run++] = begin = after;
            }
        m->start[run] = begin;
        m->end[run++] = m->width;
    }
    m->row_start[m->height] = m->num_runs = run;
}

static inline int root_of(int *parent, int run)
{
    while (parent[run] != run)
        run = parent[run] = parent[parent[run]];
    return run;
}

/* Join runs of one label that touch in neighbouring rows, also by a corner; count regions. */
static inline void count_regions(const Mask *m, int *parent, int *area, int min_area,
                                 int64_t *regions, int64_t *specks)
{
    for (int run = 0; run < m->num_runs; run++)
        parent[run] = run, area[run] = 0;
    for (int y = 1; y < m->height; y++) {
        int upper = m->row_start[y - 1], lower = m->row_start[y];
        int last_upper = lower, last_lower = m->row_start[y + 1];
        while (upper < last_upper && lower < last_lower) {
            if (m->of_run[upper] == m->of_run[lower] && m->start[upper] <= m->end[lower] &&
                m->start[lower] <= m->end[upper]) {
                int a = root_of(parent, upper), b = root_of(parent, lower);
                if (a != b)
                    parent[a < b ? b : a] = a < b ? a : b;
            }
            /* The one that ends first meets nothing more, but for the corner behind it. */
            if (m->end[upper] < m->end[lower])
                upper++;
            else if (m->end[upper] > m->end[lower])
                lower++;
            else {
                /* Both end here: each touches the other's next one by a corner. */
                for (int turn = 0; turn < 2; turn++) {
                    int u = turn ? upper + 1 : upper, l = turn ? lower : lower + 1;
                    if (u < last_upper && l < last_lower && m->of_run[u] == m->of_run[l]) {
                        int a = root_of(parent, u), b = root_of(parent, l);
                        if (a != b)
                            parent[a < b ? b : a] = a < b ? a : b;
                    }
                }
                upper++, lower++;
            }
        }
    }
    for (int run = 0; run < m->num_runs; run++)
        area[root_of(parent, run)] += m->end[run] - m->start[run];
    for (int run = 0; run < m->num_runs; run++)
        if (parent[run] == run) {
            regions[m->of_run[run]]++;
            specks[m->of_run[run]] += area[run] < min_area;
        }
}

static inline int cell_size(const Mask *m, uint8_t *column_differs, uint8_t *row_differs)
{
    int divisor = 0, borders = 0, n = m->words;
    for (int x = 1; x < m->width; x++)
        if (column_differs[x])
            divisor = gcd(divisor, x), borders++;
    int by_rows = 0;
    for (int y = 0; y + 1 < m->height; y++) {
        const word *down = m->down + (size_t)y * n;
        word any = 0;
        for (int at = 0; at < n; at++)
            any |= down[at];
        row_differs[y + 1] = any != 0;
        if (any)
            by_rows = gcd(by_rows, y + 1), borders++;
    }
    if (divisor == 1 || borders < MIN_BORDERS)
        return 1;
    return gcd(divisor, by_rows);
}

/* Bytes of the first `count` that are not 0. */
static inline int mixed_bytes(const word *row, int count)
{
    const uint8_t *bytes = (const uint8_t *)row;
    int found = 0;
    for (int i = 0; i < count; i++)
        found += bytes[i] != 0;
    return found;
}

/* Count 8x8 blocks of several labels: on the grid of the corner, then moved by half a block to the
 * right, down, and both, where steps along the lines of the corner's grid do not count. */
static inline void count_blocks(const Mask *m, word *own, word *moved, int32_t *numbers)
{
    const word in_block = 0x7F7F7F7F7F7F7F7Full, in_cell = 0x7777777777777777ull;
    int n = m->words, rows = m->height / BLOCK, columns = m->width / BLOCK;
    for (int j = 0; j < rows; j++)
        for (int low = 0; low < 2; low++) {
            int begin = BLOCK * j + CELL * low;
            if (low && j + 1 == rows)
                continue;
            memset(own, 0, n * sizeof(word));
            memset(moved, 0, n * sizeof(word));
            for (int y = begin; y < begin + BLOCK; y++) {
                const word *a = m->across + (size_t)y * n, *d = m->down + (size_t)y * n;
                int steps_count = y + 1 < begin + BLOCK && !(low && y % CELL == CELL - 1);
                word chosen = steps_count ? ~(word)0 : 0;
                for (int at = 0; at < n; at++) {
                    own[at] |= (a[at] & in_block) | (d[at] & chosen);
                    moved[at] |= (a[at] & in_cell) | (d[at] & chosen);
                }
            }
            for (int at = 0; at < n; at++)
                moved[at] = from_right(moved, at, n, CELL);
            numbers[low ? N_SHIFTED + 1 : N_OWN] += mixed_bytes(own, columns);
            numbers[N_SHIFTED + 2 * low] += mixed_bytes(moved, columns - 1);
        }
}

static inline void count_rough(const Mask *m, int32_t *numbers)
{
    int n = m->words, rough = 0;
    for (int y = 0; y < m->height; y++) {
        const word *a = m->across + (size_t)y * n, *d = m->down + (size_t)y * n;
        word inside = (y + 1) % BLOCK ? ~(word)0 : 0;
        for (int at = 0; at < n; at++)
            rough += bits_of(a[at] & 0x7F7F7F7F7F7F7F7Full) + bits_of(d[at] & inside);
    }
    numbers[N_ROUGH] = rough;
}

/* Ends of long runs by their place modulo a period: `begins` where a shorter run follows, `stops`
 * where one came before. */
typedef struct {
    int period, ends;
    int32_t begins[BLOCK], stops[BLOCK];
} Ends;

static inline void ends_of_rows(const Mask *m, Ends *ends, int32_t *stamps)
{
    int period = ends->period;
    int32_t *begun = stamps, *stopped = stamps + m->width;
    memset(stamps, 0, 2 * (size_t)m->width * sizeof(int32_t));
    for (int y = 0; y < m->height; y++) {
        int first = m->row_start[y], after = m->row_start[y + 1], stripe = y / period + 1;
        for (int run = first + 1; run < after; run++) {
            int x = m->start[run];
            int long_before = x - m->start[run - 1] >= period, long_behind = m->end[run] - x >= period;
            if (long_before && !long_behind && run + 1 < after) {
                ends->ends++;
                if (begun[x] != stripe)
                    begun[x] = stripe, ends->begins[x % period]++;
            }
            if (!long_before && long_behind && run - 1 > first) {
                ends->ends++;
                if (stopped[x] != stripe)
                    stopped[x] = stripe, ends->stops[x % period]++;
            }
        }
    }
}

typedef struct {
    int row;
    uint8_t long_before, is_first;
} Step;

static inline void note_end(const Mask *m, Ends *ends, const Step *step, int x, int behind,
                            int is_last, uint8_t *begun, uint8_t *stopped)
{
    int long_behind = behind >= ends->period;
    size_t place = (size_t)(x / ends->period) * m->height + step->row;
    if (step->long_before && !long_behind && !is_last) {
        ends->ends++;
        if (!begun[place])
            begun[place] = 1, ends->begins[step->row % ends->period]++;
    }
    if (!step->long_before && long_behind && !step->is_first) {
        ends->ends++;
        if (!stopped[place])
            stopped[place] = 1, ends->stops[step->row % ends->period]++;
    }
}

static inline void ends_of_columns(const Mask *m, Ends *ends, Step *last, uint8_t *marks)
{
    size_t size = (size_t)(m->width / ends->period + 1) * m->height;
    uint8_t *begun = marks, *stopped = marks + size;
    memset(marks, 0, 2 * size);
    for (int x = 0; x < m->width; x++)
        last[x].row = 0, last[x].is_first = 2;
    for (int y = 0; y + 1 < m->height; y++) {
        const word *down = m->down + (size_t)y * m->words;
        for (int at = 0; at < m->words; at++)
            for (word left = down[at]; left; left &= left - 1) {
                int x = 64 * at + lowest(left);
                Step *step = last + x;
                int behind = y + 1 - step->row, known = step->is_first != 2;
                if (known)
                    note_end(m, ends, step, x, behind, 0, begun, stopped);
                step->row = y + 1;
                step->long_before = behind >= ends->period;
                step->is_first = !known;
            }
    }
    for (int x = 0; x < m->width; x++)
        if (last[x].is_first != 2)
            note_end(m, ends, last + x, x, m->height - last[x].row, 1, begun, stopped);
}

static inline void count_turns(const Mask *m, int32_t *numbers)
{
    for (int y = 0; y < m->height; y++) {
        const uint8_t *row = m->labels + (size_t)y * m->width;
        for (int run = m->row_start[y] + 2; run < m->row_start[y + 1]; run++) {
            int x = m->start[run], before = m->start[run - 1];
            if (x - before >= BLOCK)
                continue;
            numbers[N_NEAR]++;
            numbers[N_TURNS] += (row[x] > row[x - 1]) != (row[before] > row[before - 1]);
        }
    }
}

/* Take the values of a row into the least and the most that there were. */
static inline void take_extremes(const uint8_t *restrict row, uint8_t *restrict low,
                                 uint8_t *restrict high, int width)
{
    for (int x = 0; x < width; x++) {
        low[x] = row[x] < low[x] ? row[x] : low[x];
        high[x] = row[x] > high[x] ? row[x] : high[x];
    }
}

/* Extremes of the rows around y, in `low` and `high`, which begin two columns before the mask. */
static inline void extremes(const Mask *m, int y, uint8_t *low, uint8_t *high)
{
    int first = y < 2 ? 0 : y - 2, last = y + 2 < m->height ? y + 2 : m->height - 1;
    const uint8_t *row = m->labels + (size_t)first * m->width;
    memcpy(low + 2, row, m->width);
    memcpy(high + 2, row, m->width);
    for (int other = first + 1; other <= last; other++)
        take_extremes(m->labels + (size_t)other * m->width, low + 2, high + 2, m->width);
}

static inline uint8_t least_of_five(const uint8_t *values)
{
    uint8_t least = values[0];
    for (int i = 1; i < 5; i++)
        least = values[i] < least ? values[i] : least;
    return least;
}

static inline uint8_t most_of_five(const uint8_t *values)
{
    uint8_t most = values[0];
    for (int i = 1; i < 5; i++)
        most = values[i] > most ? values[i] : most;
    return most;
}

/* Count contacts, and pixels with a smaller and a larger label near, of labels without a core. */
static inline void count_contacts(const Mask *m, const int64_t *core, uint8_t *low, uint8_t *high,
                                  int32_t *numbers, int64_t *between)
{
    int contacts = 0, soft = 0;
    memset(low, 255, m->width + 4);
    memset(high, 0, m->width + 4);
    for (int y = 0; y < m->height; y++) {
        const word *a = m->across + (size_t)y * m->words, *d = m->down + (size_t)y * m->words;
        const uint8_t *row = m->labels + (size_t)y * m->width;
        int is_ready = 0;
        for (int at = 0; at < m->words; at++)
            for (word left = a[at] | d[at]; left; left &= left - 1) {
                int bit = lowest(left), x = 64 * at + bit;
                if (!is_ready)
                    extremes(m, y, low, high), is_ready = 1;
                int span = most_of_five(high + x) - least_of_five(low + x);
                if (a[at] >> bit & 1) {
                    contacts += span >= 2;
                    soft += abs(row[x] - row[x + 1]) < span;
                }
                if (d[at] >> bit & 1) {
                    contacts += span >= 2;
                    soft += abs(row[x] - row[x + m->width]) < span;
                }
            }
        for (int run = m->row_start[y]; run < m->row_start[y + 1]; run++) {
            if (core[m->of_run[run]])
                continue;
            if (!is_ready)
                extremes(m, y, low, high), is_ready = 1;
            uint8_t own = row[m->start[run]];
            for (int x = m->start[run]; x < m->end[run]; x++)
                between[m->of_run[run]] +=
                    least_of_five(low + x) < own && own < most_of_five(high + x);
        }
    }
    numbers[N_CONTACTS] = contacts;
    numbers[N_SOFT] = soft;
}

/* Distances to borders of labels, for the depth of each label: the largest one of its pixels. */

typedef struct {
    int height, width, step, row, column;
    const uint8_t *is_border;
    const uint16_t *nearest;
} Field;

typedef struct {
    int label, y, x, value;
} Deep;

typedef struct {
    const float *distance;
    const uint8_t *is_unsure;
    int reach, even;
} Metric;

/* Length of the shortest chamfer path, in units of 1e-4 px. */
static inline int chamfer(int a, int b)
{
    int most = a > b ? a : b, least = a > b ? b : a;
    int flat = 10000 * most + 1969 * least, steep = 7969 * most + 6031 * least;
    return flat > steep ? flat : steep;
}

/* Distance of a pixel to the nearest border pixel; less exact, but below `enough`, if it is. */
static inline int distance_of(const Field *f, int y, int x, int enough)
{
    const uint16_t *row = f->nearest + (size_t)y * f->width;
    int found = STRAIGHT * row[x];
    /* Most pixels are refused by a border far on their left or right. */
    for (int far = 4; STRAIGHT * far < found; far *= 2) {
        int left = x >= far ? chamfer(far, row[x - far]) : found;
        int right = x + far < f->width ? chamfer(far, row[x + far]) : found;
        found = left < found ? left : found;
        found = right < found ? right : found;
    }
    for (int far = 1; STRAIGHT * far < found && found >= enough; far++) {
        if (x >= far) {
            int value = chamfer(far, row[x - far]);
            found = value < found ? value : found;
        }
        if (x + far < f->width) {
            int value = chamfer(far, row[x + far]);
            found = value < found ? value : found;
        }
    }
    return found;
}

/* Look for the deepest pixels of labels in every `every`th row. Only those within SLACK of the best
 * are kept, of equal ones up to `even` the first. Return how many candidates there are, -1 for too
 * many. */
static inline int search_rows(const Field *f, const Mask *m, const uint8_t *wanted, int *best,
                              int first, int every, Deep *deep, int most, int even)
{
    int count = 0, kept[LABELS];
    memset(kept, 0, sizeof kept);
    for (int y = first; y < f->height; y += every) {
        int whole_row = f->row + y * f->step;
        const uint16_t *nearest = f->nearest + (size_t)y * f->width;
        for (int run = m->row_start[whole_row]; run < m->row_start[whole_row + 1]; run++) {
            int label = m->of_run[run];
            if (!wanted[label])
                continue;
            int begin = (m->start[run] - f->column + f->step - 1) / f->step;
            int end = (m->end[run] - f->column + f->step - 1) / f->step;
            for (int x = begin; x < end;) {
                int enough = best[label] - SLACK, value = STRAIGHT * nearest[x];
                if (value >= enough && value)
                    value = distance_of(f, y, x, enough);
                if (value < enough || !value) {
                    x += value < enough ? (enough - value + STRAIGHT - 1) / STRAIGHT : 1;
                    continue;
                }
                best[label] = value > best[label] ? value : best[label];
                if (deep && (value > even || value > kept[label])) {
                    kept[label] = value > kept[label] ? value : kept[label];
                    if (count == most)
                        return -1;
                    deep[count++] = (Deep){label, y, x, value};
                }
                x++;
            }
        }
    }
    return count;
}

/* Return what OpenCV has for a candidate; negative where that depends on where it lies. */
static inline float exact_distance(const Field *f, const Metric *metric, const Deep *at)
{
    float found = 1e9f;
    int size = 2 * metric->reach + 1, most = at->value + SLACK;
    for (int across = -most / STRAIGHT; across <= most / STRAIGHT; across++) {
        int x = at->x + across;
        if (x < 0 || x >= f->width)
            continue;
        int high = f->nearest[(size_t)at->y * f->width + x];
        if (chamfer(abs(across), high) > most)
            continue;
        if (abs(across) > metric->reach || high > metric->reach)
            return -1.0f;
        for (int side = -1; side <= 1; side += 2) {
            int y = at->y + side * high;
            if (y < 0 || y >= f->height || !f->is_border[(size_t)y * f->width + x])
                continue;
            /* From the border pixel to the candidate. */
            size_t place = (size_t)(metric->reach - side * high) * size + metric->reach - across;
            if (metric->is_unsure[place])
                return -1.0f;
            float value = metric->distance[place];
            found = value < found ? value : found;
        }
    }
    return found;
}

static inline void find_nearest(int height, int width, const uint8_t *restrict is_border,
                                uint16_t *restrict nearest)
{
    for (int x = 0; x < width; x++)
        nearest[x] = is_border[x] ? 0 : NO_OBSTACLE;
    for (int y = 1; y < height; y++) {
        const uint8_t *here = is_border + (size_t)y * width;
        uint16_t *row = nearest + (size_t)y * width;
        const uint16_t *above = row - width;
        for (int x = 0; x < width; x++) {
            uint16_t next = above[x] + (above[x] < NO_OBSTACLE);
            row[x] = here[x] ? 0 : next;
        }
    }
    for (int y = height - 2; y >= 0; y--) {
        uint16_t *row = nearest + (size_t)y * width;
        const uint16_t *under = row + width;
        for (int x = 0; x < width; x++) {
            uint16_t next = under[x] + 1;
            row[x] = next < row[x] ? next : row[x];
        }
    }
}

/* Depth of each wanted label in a field; return whether all are sure. Those up to THIN are rounded
 * where `is_half`, as they are looked for again. */
static inline int find_depths(const Field *f, const Mask *m, const Metric *metric,
                              const uint8_t *wanted, int is_half, Deep *deep, int most_deep,
                              float *depth)
{
    int best[LABELS];
    memset(best, 0, sizeof best);
    search_rows(f, m, wanted, best, f->height > 8 ? 4 : 0, 8, NULL, 0, 0);
    int count = search_rows(f, m, wanted, best, 0, 1, deep, most_deep, metric->even);
    if (count < 0)
        return 0;
    /* A radius is at most half the side of the mask, however deep its label is. */
    int side = m->height < m->width ? m->height : m->width;
    int limit = STRAIGHT / 4 * side + STRAIGHT;
    for (int label = 0; label < LABELS; label++)
        if (wanted[label])
            depth[label] = is_half && (best[label] <= THIN || best[label] > limit)
                               ? (float)best[label] / STRAIGHT : 0.0f;
    for (int i = 0; i < count; i++) {
        int label = deep[i].label, value = best[label];
        if (deep[i].value < value - SLACK || (is_half && (value <= THIN || value > limit)))
            continue;
        if (value >= STRAIGHT * NO_OBSTACLE / 2)
            return 0;
        float exact = exact_distance(f, metric, deep + i);
        if (exact < 0)
            return 0;
        depth[label] = exact > depth[label] ? exact : depth[label];
    }
    return 1;
}

static void expand(uint64_t *whole, uint32_t *half)
{
    for (int byte = 0; byte < 256; byte++) {
        uint8_t each[8];
        for (int i = 0; i < 8; i++)
            each[i] = byte >> i & 1;
        memcpy(whole + byte, each, 8);
        uint8_t even[4] = {each[0], each[2], each[4], each[6]};
        memcpy(half + byte, even, 4);
    }
}

/* Fill the depths at half size, and for thin labels those at full size. Return whether sure. */
static inline int measure_depths(const Mask *m, const Metric *metric, const uint8_t *present,
                                 uint8_t *is_border, uint16_t *nearest, Deep *deep, int most_deep,
                                 float *half_depth, float *whole_depth)
{
    uint64_t eight[256];
    uint32_t four[256];
    uint8_t line[8 * 1024 + 64], thin[LABELS];
    expand(eight, four);
    if (m->width > 8 * 1024)
        return 0;
    int height = (m->height + 1) / 2, width = (m->width + 1) / 2, bytes = (m->width + 7) / 8;
    for (int y = 0; y < height; y++) {
        const uint8_t *bits = (const uint8_t *)(m->border + (size_t)2 * y * m->words);
        for (int i = 0; i < bytes; i++)
            memcpy(line + 4 * i, four + bits[i], 4);
        memcpy(is_border + (size_t)y * width, line, width);
    }
    find_nearest(height, width, is_border, nearest);
    Field field = {height, width, 2, 0, 0, is_border, nearest};
    if (!find_depths(&field, m, metric, present, 1, deep, most_deep, half_depth))
        return 0;
    int top = m->height, bottom = 0, left = m->width, right = 0;
    for (int label = 0; label < LABELS; label++)
        thin[label] = present[label] && half_depth[label] <= 3.0f;
    for (int y = 0; y < m->height; y++)
        for (int run = m->row_start[y]; run < m->row_start[y + 1]; run++)
            if (thin[m->of_run[run]]) {
                top = y < top ? y : top;
                bottom = y + 1;
                left = m->start[run] < left ? m->start[run] : left;
                right = m->end[run] > right ? m->end[run] : right;
            }
    if (top >= bottom)
        return 1;
    height = bottom - top, width = right - left;
    for (int y = 0; y < height; y++) {
        const uint8_t *bits = (const uint8_t *)(m->border + (size_t)(top + y) * m->words);
        for (int i = left / 8; i < (right + 7) / 8; i++)
            memcpy(line + 8 * (i - left / 8), eight + bits[i], 8);
        memcpy(is_border + (size_t)y * width, line + left % 8, width);
    }
    find_nearest(height, width, is_border, nearest);
    field = (Field){height, width, 1, top, left, is_border, nearest};
    return find_depths(&field, m, metric, thin, 0, deep, most_deep, whole_depth);
}

/* Memory that this thread keeps for its next mask: pages that are new each time cost as much as a
 * third of the counting. NULL where there is no more. */
static uint8_t *room(int which, size_t bytes)
{
    static _Thread_local uint8_t *kept[2];
    static _Thread_local size_t sizes[2];
    if (sizes[which] < bytes) {
        free(kept[which]);
        kept[which] = malloc(bytes);
        sizes[which] = kept[which] ? bytes : 0;
    }
    return kept[which];
}

static void *take(uint8_t **at, size_t bytes)
{
    void *here = *at;
    *at += (bytes + 63) / 64 * 64;
    return here;
}

/* See `histoprep/native/__init__.py`. `counts` is [6][256]: ids, pixels, core pixels, regions,
 * specks, pixels between; `ends` is [4][2][8]; `depths` is [2][256]; `differs` is [width + height].
 * Return OK, UNIFORM or NO_MEMORY. */
FAST int histoprep_measure_mask(const uint8_t *labels, int height, int width, int min_area,
                                const float *distance, const uint8_t *is_unsure, int reach,
                                int even, int32_t *numbers, int64_t *counts, int32_t *ends, float *depths,
                                uint8_t *differs)
{
    Mask m = {.height = height, .width = width, .words = (width + 63) / 64, .labels = labels};
    size_t words = (size_t)m.words * height, pixels = (size_t)height * width;
    uint8_t *bits = room(0, 8 * words * sizeof(word) + 1024);
    if (!bits)
        return NO_MEMORY;
    uint8_t *at = (uint8_t *)(((uintptr_t)bits + 63) / 64 * 64);
    word *planes[8];
    for (int i = 0; i < 8; i++)
        planes[i] = take(&at, words * sizeof(word));
    m.across = planes[0], m.down = planes[1], m.rim = planes[2], m.border = planes[3];
    memset(numbers, 0, N_NUMBERS * sizeof(int32_t));
    numbers[N_ACROSS] = find_steps(&m, &numbers[N_DOWN]);
    if (!numbers[N_ACROSS] && !numbers[N_DOWN])
        return UNIFORM;
    find_rims(&m, planes[4], planes[5], planes[6], planes[7]);

    size_t runs = (size_t)numbers[N_ACROSS] + height;
    int most_deep = 1 << 14;
    size_t marks = 2 * (size_t)(width / CELL + 2) * height;
    size_t needed = 64 * 24 + (runs * 4 + height + 1) * sizeof(int) + runs + 2 * m.words * sizeof(word)
                    + 2 * (size_t)width * sizeof(int32_t) + width * sizeof(Step) + marks
                    + 2 * ((size_t)width + 4) + pixels * 3 + 2 * ((size_t)height + width)
                    + most_deep * sizeof(Deep);
    uint8_t *scratch = room(1, needed);
    if (!scratch)
        return NO_MEMORY;
    at = (uint8_t *)(((uintptr_t)scratch + 63) / 64 * 64);
    m.start = take(&at, runs * sizeof(int));
    m.end = take(&at, runs * sizeof(int));
    m.row_start = take(&at, (height + 1) * sizeof(int));
    m.of_run = take(&at, runs);
    int *parent = take(&at, runs * sizeof(int)), *area = take(&at, runs * sizeof(int));
    word *own = take(&at, m.words * sizeof(word)), *moved = take(&at, m.words * sizeof(word));
    int32_t *stamps = take(&at, 2 * (size_t)width * sizeof(int32_t));
    Step *last = take(&at, width * sizeof(Step));
    uint8_t *marked = take(&at, marks), *low = take(&at, width + 4), *high = take(&at, width + 4);
    uint16_t *nearest = take(&at, pixels * sizeof(uint16_t));
    uint8_t *is_border = take(&at, pixels);
    Deep *deep = take(&at, most_deep * sizeof(Deep));

    /* Labels by their value first, by their position among the ids at the end. */
    int64_t of_label[6][LABELS];
    float half_depth[LABELS], whole_depth[LABELS];
    uint8_t present[LABELS];
    memset(of_label, 0, sizeof of_label);
    memset(half_depth, 0, sizeof half_depth);
    memset(whole_depth, 0, sizeof whole_depth);
    find_runs(&m);
    memset(differs, 0, (size_t)width + height);
    for (int y = 0; y < height; y++)
        for (int run = m.row_start[y]; run < m.row_start[y + 1]; run++) {
            uint8_t label = labels[(size_t)y * width + m.start[run]];
            int length = m.end[run] - m.start[run];
            m.of_run[run] = label;
            differs[m.start[run]] = 1;
            of_label[1][label] += length;
            of_label[2][label] +=
                length - count_between(m.rim + (size_t)y * m.words, m.start[run], m.end[run]);
        }
    differs[0] = 0;
    for (int label = 0; label < LABELS; label++)
        numbers[N_LABELS] += present[label] = of_label[1][label] > 0;
    count_regions(&m, parent, area, min_area, of_label[3], of_label[4]);
    numbers[N_CELL] = cell_size(&m, differs, differs + width);
    if (height >= 2 * BLOCK && width >= 2 * BLOCK) {
        count_blocks(&m, own, moved, numbers);
        count_rough(&m, numbers);
        for (int i = 0; i < 4; i++) {
            Ends found = {.period = i % 2 ? CELL : BLOCK};
            if (i < 2)
                ends_of_rows(&m, &found, stamps);
            else
                ends_of_columns(&m, &found, last, marked);
            memcpy(ends + 16 * i, found.begins, sizeof found.begins);
            memcpy(ends + 16 * i + 8, found.stops, sizeof found.stops);
            if (i % 2 == 0)
                numbers[i ? N_COLUMN_ENDS : N_ROW_ENDS] = found.ends;
        }
        count_turns(&m, numbers);
        if (numbers[N_LABELS] > 2)
            count_contacts(&m, of_label[2], low, high, numbers, of_label[5]);
    }
    Metric metric = {distance, is_unsure, reach, even};
    numbers[N_UNSURE] = !measure_depths(&m, &metric, present, is_border, nearest, deep, most_deep,
                                        half_depth, whole_depth);
    int position = 0;
    for (int label = 0; label < LABELS; label++)
        if (present[label]) {
            counts[position] = label;
            for (int i = 1; i < 6; i++)
                counts[LABELS * i + position] = of_label[i][label];
            depths[position] = half_depth[label];
            depths[LABELS + position] = whole_depth[label];
            position++;
        }
    return OK;
}

static void deviations_of(const int32_t *counts, int period, int64_t *number, double *found)
{
    int64_t sum = 0;
    for (int i = 0; i < period; i++)
        sum += counts[i];
    *number += sum;
    sum = sum > 1 ? sum : 1;
    double spread = sqrt((double)(sum * (period - 1)) / (double)(period * period));
    for (int i = 0; i < period; i++)
        found[i] = ((double)counts[i] - (double)sum / (double)period) / spread;
}

/* How many standard deviations ends of long runs are above chance at the offset where the fewer of
 * both kinds are most: scores of that offset and of offset 0 (`scores`), the offset and the number of
 * ends (`numbers`). `period` is at most 8. */
void histoprep_best_offset(const int32_t *begins, const int32_t *stops, int period, double *scores,
                           int64_t *numbers)
{
    double first[BLOCK], second[BLOCK];
    numbers[0] = numbers[1] = 0;
    deviations_of(begins, period, numbers + 1, first);
    deviations_of(stops, period, numbers + 1, second);
    for (int i = 0; i < period; i++) {
        first[i] = second[i] < first[i] ? second[i] : first[i];
        if (first[i] > first[numbers[0]])
            numbers[0] = i;
    }
    scores[0] = first[numbers[0]];
    scores[1] = first[0];
}

/* Whether, of a mask enlarged by group / kept, no group of columns (or rows) is broken from some
 * offset on: of its columns after the first fewer than `kept` differ from the one before. Ratios are
 * tried in order; return the first that holds and its offset, or -1. */
FAST int histoprep_find_enlarged(const uint8_t *differs, int width, const int32_t *ratios,
                                 int num_ratios, int32_t *offset)
{
    for (int i = 0; i < num_ratios; i++) {
        int group = ratios[2 * i], kept = ratios[2 * i + 1];
        int number = (width - group + 1) / group, num_whole = group, changes = 0;
        uint8_t broken[64] = {0};
        for (int at = 1; at < group; at++)
            changes += differs[at];
        for (int begin = 0, place = 0; begin < group * number && num_whole; begin++) {
            if (changes >= kept && !broken[place])
                broken[place] = 1, num_whole--;
            /* Of the group that begins at the next column. */
            if (begin + 1 < group * number)
                changes += differs[begin + group] - differs[begin + 1];
            place = place + 1 < group ? place + 1 : 0;
        }
        if (num_whole) {
            for (*offset = 0; broken[*offset]; (*offset)++)
                ;
            return i;
        }
    }
    return -1;
}
