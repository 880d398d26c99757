/* The nearest landmarks of each landmark, exactly: by comparing it with all those whose first numbers
 * are near enough. Among 10,000 tiles that is several times faster than a k-d tree in seven
 * dimensions, which has to look at a large part of them as well.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FAST __attribute__((target_clones("avx2", "default")))
#else
#define FAST
#endif

/* Differences beyond LIMIT are as good as it: LIMIT squared is more than the largest distance asked
 * for, and seven of them fit into 16 bits. */
enum { NUMBERS = 7, LIMIT = 63, STRETCH = 32 };

static inline void put(int32_t *distances, int32_t *places, int *count, int most, int distance,
                       int place)
{
    int at = *count;
    if (at == most) {
        if (distance > distances[at - 1] ||
            (distance == distances[at - 1] && place > places[at - 1]))
            return;
        at--;
    } else
        (*count)++;
    for (; at && (distances[at - 1] > distance ||
                  (distances[at - 1] == distance && places[at - 1] > place)); at--) {
        distances[at] = distances[at - 1];
        places[at] = places[at - 1];
    }
    distances[at] = distance;
    places[at] = place;
}

static inline int count_within(const int16_t *restrict sums, int limit)
{
    int16_t within = 0, most = (int16_t)limit;
    for (int i = 0; i < STRETCH; i++)
        within += sums[i] <= most;
    return within;
}

/* For each of some landmarks, at most `most` landmarks with a squared distance up to `limit` (at most
 * 3968), itself among them, the nearest first; of those that are as far, those with the lower number.
 * `numbers`, [7][padded], are theirs in the order of their bins, `names` the number of each and
 * `bins` its bin. Landmarks of bin b are those from `begin[b]` to `begin[b + 1]`; `near`,
 * [bins][near_bins], lists the bins that may hold such, -1 after the last. Those from `first` to
 * `after` are looked up; of the landmark with the number n, row n of `places` and `distances`,
 * [landmarks][most], and `counts` are filled. */
FAST void histoprep_find_nearest(const int16_t *numbers, int64_t padded, const int32_t *names,
                                 const int32_t *begin, const int32_t *bins, const int32_t *near,
                                 int near_bins, int limit, int most, int64_t first, int64_t after,
                                 int32_t *places, int32_t *distances, int32_t *counts)
{
    for (int64_t own = first; own < after; own++) {
        int64_t row = names[own];
        int32_t *place = places + row * most, *distance = distances + row * most;
        int count = 0, bound = limit;
        int16_t mine[NUMBERS];
        for (int i = 0; i < NUMBERS; i++)
            mine[i] = numbers[i * padded + own];
        const int32_t *list = near + (int64_t)bins[own] * near_bins;
        for (int i = 0; i < near_bins && list[i] >= 0; i++) {
            int64_t end = begin[list[i] + 1];
            for (int64_t at = begin[list[i]]; at < end; at += STRETCH) {
                int16_t sums[STRETCH] = {0};
                for (int axis = 0; axis < NUMBERS; axis++) {
                    const int16_t *restrict other = numbers + axis * padded + at;
                    int16_t value = mine[axis];
                    for (int j = 0; j < STRETCH; j++) {
                        int16_t apart = other[j] - value;
                        apart = apart < 0 ? -apart : apart;
                        apart = apart < LIMIT ? apart : LIMIT;
                        sums[j] += apart * apart;
                    }
                }
                if (!count_within(sums, bound))
                    continue;
                int whole = end - at < STRETCH ? (int)(end - at) : STRETCH;
                for (int j = 0; j < whole; j++)
                    if (sums[j] <= bound) {
                        put(distance, place, &count, most, sums[j], names[at + j]);
                        if (count == most)
                            bound = distance[most - 1];
                    }
            }
        }
        counts[row] = count;
    }
}
