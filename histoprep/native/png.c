/* Filtered rows of a PNG of one or three bytes a pixel -> its pixels. Source: Portable Network
 * Graphics specification, third edition, W3C 2025, section 9. Rows of label masks are mostly of one
 * value, so that those stretches are copied whole.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { STRETCH = 16, COLOURS = 3 };

static inline int all_equal(const uint8_t *values, uint8_t value)
{
    uint64_t first, second, wanted = 0x0101010101010101ull * value;
    memcpy(&first, values, 8);
    memcpy(&second, values + 8, 8);
    return first == wanted && second == wanted;
}

static inline uint8_t paeth(int left, int above, int corner)
{
    int from_left = abs(above - corner), from_above = abs(left - corner);
    int from_corner = abs(left + above - 2 * corner);
    if (from_left <= from_above && from_left <= from_corner)
        return (uint8_t)left;
    return (uint8_t)(from_above <= from_corner ? above : corner);
}

static inline void unfilter_row(int filter, const uint8_t *row, const uint8_t *above, uint8_t *out,
                                int width)
{
    uint8_t left = 0, corner = 0;
    switch (filter) {
    case 0:
        memcpy(out, row, width);
        return;
    case 2:
        for (int x = 0; x < width; x++)
            out[x] = row[x] + above[x];
        return;
    case 1:
        for (int x = 0; x < width;) {
            if (x + STRETCH <= width && all_equal(row + x, 0)) {
                memset(out + x, left, STRETCH);
                x += STRETCH;
                continue;
            }
            int end = x + STRETCH < width ? x + STRETCH : width;
            for (; x < end; x++)
                out[x] = left = row[x] + left;
        }
        return;
    case 3:
        for (int x = 0; x < width; x++)
            out[x] = left = row[x] + ((left + above[x]) >> 1);
        return;
    default:
        for (int x = 0; x < width;) {
            if (x + STRETCH <= width && corner == left && all_equal(row + x, 0) &&
                all_equal(above + x, left)) {
                memset(out + x, left, STRETCH);
                x += STRETCH;
                continue;
            }
            int end = x + STRETCH < width ? x + STRETCH : width;
            for (; x < end; x++) {
                left = row[x] + paeth(left, above[x], corner);
                corner = above[x];
                out[x] = left;
            }
        }
    }
}

static inline void unfilter_colours(int filter, const uint8_t *row, const uint8_t *above,
                                    uint8_t *out, int width)
{
    int left[COLOURS] = {0}, corner[COLOURS] = {0};
    const int bytes = width * COLOURS;
    switch (filter) {
    case 0:
        memcpy(out, row, bytes);
        return;
    case 1:
        for (int x = 0; x < bytes; x += COLOURS)
            for (int c = 0; c < COLOURS; c++)
                out[x + c] = left[c] = (uint8_t)(row[x + c] + left[c]);
        return;
    case 2:
        for (int x = 0; x < bytes; x++)
            out[x] = row[x] + above[x];
        return;
    case 3:
        for (int x = 0; x < bytes; x += COLOURS)
            for (int c = 0; c < COLOURS; c++)
                out[x + c] = left[c] = (uint8_t)(row[x + c] + ((left[c] + above[x + c]) >> 1));
        return;
    default:
        for (int x = 0; x < bytes; x += COLOURS)
            for (int c = 0; c < COLOURS; c++) {
                /* The predictor without branches: noise would mislead them. */
                int up = above[x + c], across = up - corner[c], down = left[c] - corner[c];
                int from_left = abs(across), from_above = abs(down), from_corner = abs(across + down);
                int other = from_above <= from_corner ? up : corner[c];
                int least = from_above <= from_corner ? from_above : from_corner;
                int guess = from_left <= least ? left[c] : other;
                out[x + c] = left[c] = (uint8_t)(row[x + c] + guess);
                corner[c] = up;
            }
    }
}

/* Undo the filters of `lines`, [height][1 + width], each row with its filter (0 to 4) first, into
 * `pixels`, [height][width]. `blank` is a row of zeros. */
void histoprep_unfilter(const uint8_t *lines, int height, int width, const uint8_t *blank,
                        uint8_t *pixels)
{
    const uint8_t *above = blank;
    for (int y = 0; y < height; y++) {
        const uint8_t *line = lines + (size_t)y * (width + 1);
        uint8_t *out = pixels + (size_t)y * width;
        unfilter_row(line[0], line + 1, above, out, width);
        above = out;
    }
}

/* The same of colours: [height][1 + 3 width] into [height][width][3]. */
void histoprep_unfilter_colours(const uint8_t *lines, int height, int width, const uint8_t *blank,
                                uint8_t *pixels)
{
    const uint8_t *above = blank;
    const size_t bytes = (size_t)width * COLOURS;
    for (int y = 0; y < height; y++) {
        const uint8_t *line = lines + (size_t)y * (bytes + 1);
        uint8_t *out = pixels + (size_t)y * bytes;
        unfilter_colours(line[0], line + 1, above, out, width);
        above = out;
    }
}
