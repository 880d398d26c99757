/* What `histoprep/neighbours/landmarks.py` does between its blurs and its descriptions, and means of
 * square cells; the same numbers, bit for bit.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FAST __attribute__((target_clones("avx2", "default")))
#else
#define FAST
#endif

enum { FIELDS = 12, MOST = 48, WIDEST = 1024, REACH = 4 };

static inline void shrink(const uint8_t *image, int height, int width, int64_t stride, int side,
                          int bits, uint8_t *restrict means, uint16_t *restrict sums)
{
    int columns = width / side, half = 1 << (bits - 1);
    for (int y = 0; y < height / side; y++) {
        memset(sums, 0, (size_t)width * sizeof(uint16_t));
        for (int row = 0; row < side; row++) {
            const uint8_t *restrict line = image + (int64_t)(y * side + row) * stride;
            for (int x = 0; x < width; x++)
                sums[x] += line[x];
        }
        for (int x = 0; x < columns; x++) {
            int sum = 0;
            for (int i = 0; i < side; i++)
                sum += sums[x * side + i];
            /* A half is rounded to the even number. */
            means[(size_t)y * columns + x] = (uint8_t)((sum + half - 1 + (sum >> bits & 1)) >> bits);
        }
    }
}

/* Means of cells of `side` x `side` pixels, rounded to even as OpenCV rounds them; `side` is 4 or 8
 * and divides both sides of the image, whose rows are `stride` bytes apart. */
FAST void histoprep_shrink(const uint8_t *image, int height, int width, int64_t stride, int side,
                           uint8_t *means, uint16_t *sums)
{
    if (side == 4)
        shrink(image, height, width, stride, 4, 4, means, sums);
    else
        shrink(image, height, width, stride, 8, 6, means, sums);
}

typedef struct {
    float size;
    int down, right, orientation;
} Landmark;

static inline float more(float a, float b) { return a > b ? a : b; }
static inline float less(float a, float b) { return a < b ? a : b; }

/* Mark the cells of a row, but for the first and last, that are larger or smaller than `limit` and
 * no neighbour of theirs is more so. */
static inline void mark_extremes(const float *restrict above, const float *restrict row,
                                 const float *restrict under, int width, float limit,
                                 uint8_t *restrict marks, float *restrict high,
                                 float *restrict low)
{
    for (int x = 0; x < width; x++) {
        high[x] = more(more(above[x], row[x]), under[x]);
        low[x] = less(less(above[x], row[x]), under[x]);
    }
    for (int x = 1; x < width - 1; x++) {
        float most = more(more(high[x - 1], high[x]), high[x + 1]);
        float least = less(less(low[x - 1], low[x]), low[x + 1]);
        marks[x] = ((row[x] >= most) & (row[x] > limit)) | ((row[x] <= least) & (row[x] < -limit));
    }
}

static inline int field_of(int down, int right, int height, int width, double margin)
{
    double x = (double)right / width, y = (double)down / height;
    double reach[4] = {x, 1 - x, y, 1 - y};
    int strip = 0;
    for (int i = 1; i < 4; i++)
        strip = reach[i] < reach[strip] ? i : strip;
    int lower = down * 2 / height, further = right * 2 / width;
    return reach[strip] < margin ? 4 + 2 * strip + (strip < 2 ? lower : further)
                                 : 2 * lower + further;
}

/* Put a landmark behind those of its field that are as large or larger. */
static inline void keep(Landmark *field, int *count, Landmark found)
{
    int at = *count;
    if (at == MOST && !(found.size > field[MOST - 1].size))
        return;
    if (at == MOST)
        at--;
    else
        (*count)++;
    for (; at && found.size > field[at - 1].size; at--)
        field[at] = field[at - 1];
    field[at] = found;
}

static inline float shifted(float before, float middle, float after)
{
    float bend = before + after - 2 * middle;
    float moved = (before - after) / (2 * (bend == 0 ? 1.0f : bend));
    return moved < -0.5f ? -0.5f : moved > 0.5f ? 0.5f : moved;
}

/* Find at most 48 landmarks in `blobs`, [height][width], oriented by the gradient of `around`.
 * `limits` are the least blob, and the shares of a gradient that are too near an axis or a diagonal;
 * `edge` cells along the border have none. Points of their surroundings are `across` and `along`,
 * [num_points]; where these lie in the image goes to `columns` and `rows`, [48][num_points].
 * `found` is [48][3]: row, column, orientation. Return how many there are, -1 for too wide an
 * image. */
FAST int histoprep_find_landmarks(const float *blobs, const float *around, int height, int width,
                             int edge, const float *limits, double margin, const double *across,
                             const double *along, int num_points, int32_t *found, float *columns,
                             float *rows)
{
    Landmark fields[FIELDS][MOST];
    int counts[FIELDS] = {0}, number = 0;
    uint8_t marks[WIDEST];
    float line_high[WIDEST], line_low[WIDEST];
    if (width > WIDEST)
        return -1;
    for (int y = edge; y < height - edge; y++) {
        const float *row = blobs + (size_t)y * width;
        mark_extremes(row - width, row, row + width, width, limits[0], marks, line_high, line_low);
        for (int x = edge; x < width - edge; x++) {
            if (!marks[x])
                continue;
            float size = fabsf(row[x]);
            const float *near = around + (size_t)y * width + x;
            float gradient_x = near[1] - near[-1], gradient_y = near[width] - near[-width];
            float wide = fabsf(gradient_x), high = fabsf(gradient_y);
            float low = wide < high ? wide : high, top = wide < high ? high : wide;
            if (!(low >= limits[1] * top && low <= limits[2] * top))
                continue;
            int orientation = (gradient_x < 0) + 2 * (gradient_y < 0) + 4 * (wide < high);
            int field = field_of(y, x, height, width, margin);
            keep(fields[field], counts + field, (Landmark){size, y, x, orientation});
        }
    }
    for (int rank = 0; rank < MOST && number < MOST; rank++) {
        Landmark level[FIELDS];
        int size = 0;
        for (int field = 0; field < FIELDS; field++) {
            if (rank >= counts[field])
                continue;
            int at = size++;
            for (; at && fields[field][rank].size > level[at - 1].size; at--)
                level[at] = level[at - 1];
            level[at] = fields[field][rank];
        }
        if (!size)
            break;
        for (int i = 0; i < size && number < MOST; i++) {
            Landmark own = level[i];
            const float *at = blobs + (size_t)own.down * width + own.right;
            double down = own.down + (double)shifted(at[-width], *at, at[width]);
            double right = own.right + (double)shifted(at[-1], *at, at[1]);
            for (int point = 0; point < num_points; point++) {
                double x = own.orientation & 4 ? along[point] : across[point];
                double y = own.orientation & 4 ? across[point] : along[point];
                columns[number * num_points + point] = (float)(right + (own.orientation & 1 ? -x : x));
                rows[number * num_points + point] = (float)(down + (own.orientation & 2 ? -y : y));
            }
            found[3 * number] = own.down;
            found[3 * number + 1] = own.right;
            found[3 * number++ + 2] = own.orientation;
        }
    }
    return number;
}

static inline int64_t product_of(const int16_t *restrict a, const int16_t *restrict b, int count)
{
    int32_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += (int32_t)a[i] * b[i];
    return sum;
}

static inline int correlates(const uint8_t *field, int64_t field_stride, const uint8_t *part,
                             int64_t part_row, int64_t part_column, int height, int width,
                             int reach, double least)
{
    int high = height - 2 * reach, wide = width - 2 * reach, shifts = 2 * reach + 1;
    int16_t own[WIDEST], *all = malloc((size_t)height * width * sizeof(int16_t));
    int64_t sums[(2 * REACH + 1) * (2 * REACH + 1)] = {0}, number = (int64_t)high * wide;
    int64_t *lines = calloc((size_t)2 * height * shifts, sizeof(int64_t));
    int64_t total = 0, squares = 0;
    int found = all && lines ? 0 : -1;
    if (found < 0)
        goto done;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            all[(size_t)y * width + x] = field[y * field_stride + x];
    for (int y = 0; y < high; y++) {
        const uint8_t *row = part + (y + reach) * part_row + reach * part_column;
        for (int x = 0; x < wide; x++)
            own[x] = row[x * part_column];
        for (int x = 0; x < wide; x++)
            total += own[x];
        squares += product_of(own, own, wide);
        for (int down = 0; down < shifts; down++)
            for (int right = 0; right < shifts; right++)
                sums[down * shifts + right] +=
                    product_of(own, all + (size_t)(y + down) * width + right, wide);
    }
    /* Of each row of the field and each shift to the right: sum, and sum of squares. */
    for (int y = 0; y < height; y++)
        for (int right = 0; right < shifts; right++) {
            const int16_t *row = all + (size_t)y * width + right;
            int32_t sum = 0;
            for (int x = 0; x < wide; x++)
                sum += row[x];
            lines[2 * (y * shifts + right)] = sum;
            lines[2 * (y * shifts + right) + 1] = product_of(row, row, wide);
        }
    int64_t spread = number * squares - total * total;
    for (int down = 0; down < shifts && !found; down++)
        for (int right = 0; right < shifts && !found; right++) {
            int64_t sum = 0, square = 0;
            for (int y = down; y < down + high; y++) {
                sum += lines[2 * (y * shifts + right)];
                square += lines[2 * (y * shifts + right) + 1];
            }
            int64_t common = number * sums[down * shifts + right] - total * sum;
            double both = least * least * (double)spread * (double)(number * square - sum * sum);
            /* Nothing speaks against a part of one value. */
            found = !spread || (common > 0 && both > 0 && (double)common * (double)common >= both);
        }
done:
    free(all);
    free(lines);
    return found;
}

/* Whether an image correlates by `least` with some window of a field of `height` x `width`, moved by
 * at most `reach` (at most 4) from the middle; the image, whose rows and columns are `part_row` and
 * `part_column` bytes apart, is that large, too, and counts without its margins of `reach`. -1 where
 * memory is short. */
FAST int histoprep_correlates(const uint8_t *field, int64_t field_stride, const uint8_t *part,
                              int64_t part_row, int64_t part_column, int height, int width,
                              int reach, double least)
{
    return correlates(field, field_stride, part, part_row, part_column, height, width, reach, least);
}
