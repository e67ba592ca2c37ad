/* Holds one stage of your port against the truth in a safetensors file of this project: the files of
 * reference_data/frontend and reference_data/encoder, and what `melfront parity dump` writes.
 * C99 and its library alone; link with -lm. Include it in one file. reference_data/README.md has the
 * steps; check.c is a program around it. */
#ifndef MELFRONT_CHECK_H
#define MELFRONT_CHECK_H

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    double noise;         /* rms of the error / floor.STAGE, the noise of a right float32 port */
    double max_abs;       /* the largest error, */
    uint64_t worst;       /* its index in your stage, row by row, */
    double mine, truth;   /* and the two values there */
    uint64_t compared;    /* values: all, or the 256 that the file holds of a large stage */
    char shape[64];       /* of the whole stage, such as "80 37" */
    char error[320];      /* why nothing was compared */
} melfront_result;

static uint64_t melfront_little_endian(const unsigned char *bytes, int count) {
    uint64_t value = 0;
    while (count--) value = value << 8 | bytes[count];
    return value;
}

static float melfront_float(const unsigned char *bytes) {
    uint32_t bits = (uint32_t)melfront_little_endian(bytes, 4);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The value of PREFIX + NAME in a JSON text, if it begins with `first`; else NULL. */
static const char *melfront_find(const char *text, const char *prefix, const char *name, char first) {
    char key[320];
    snprintf(key, sizeof key, "\"%s%s\"", prefix, name);
    while ((text = strstr(text, key))) {
        text += strlen(key);
        const char *value = text + strspn(text, " \t\r\n");
        if (*value != ':') continue;
        value += 1 + strspn(value + 1, " \t\r\n");
        if (*value == first) return value + 1;
    }
    return NULL;
}

/* Copies "80,37" or "80 37" up to a bracket or a quotation mark, with spaces; returns the product. */
static uint64_t melfront_sizes(const char *text, char *shape, size_t room) {
    uint64_t product = 1;
    size_t length = 0;
    shape[0] = 0;
    while (*text && !strchr("]\"", *text)) {
        char *end;
        uint64_t size = strtoull(text, &end, 10);
        if (end == text) return 0;
        product *= size;
        if (length < room)
            length += (size_t)snprintf(shape + length, room - length, length ? " %llu" : "%llu",
                                       (unsigned long long)size);
        text = end + strspn(end, ", ");
    }
    return product;
}

/* The index in the whole stage of value j of those that the file holds. */
static uint64_t melfront_position(const char *stage, uint64_t j, uint64_t size) {
    uint64_t h = 0xcbf29ce484222325;
    for (; *stage; stage++) h = (h ^ (unsigned char)*stage) * 0x100000001b3;
    h += (j + 1) * 0x9e3779b97f4a7c15;
    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9;
    h = (h ^ h >> 27) * 0x94d049bb133111eb;
    return (h ^ h >> 31) % size;
}

static int melfront_compare(FILE *file, const char *header, const char *stage, const float *mine,
                            uint64_t count, melfront_result *r) {
    const char *entry = melfront_find(header, "", stage, '{');
    const char *floor = melfront_find(header, "floor.", stage, '"');
    const char *sampled = melfront_find(header, "sampled.", stage, '"');
    const char *shape = entry ? melfront_find(entry, "", "shape", '[') : NULL;
    const char *dtype = entry ? melfront_find(entry, "", "dtype", '"') : NULL;
    const char *place = entry ? melfront_find(entry, "", "data_offsets", '[') : NULL;
    if (!floor || !shape || !dtype || !place || strncmp(dtype, dtype[1] == '6' ? "F64" : "F32", 3))
        return snprintf(r->error, sizeof r->error, "it has no stage '%.200s' with a floor", stage), 2;
    int width = dtype[1] == '6' ? 8 : 4;
    char *next;
    uint64_t begin = strtoull(place, &next, 10), end = strtoull(next + strspn(next, ", "), NULL, 10);
    uint64_t held = melfront_sizes(shape, r->shape, sizeof r->shape), whole = held;
    if (sampled) whole = melfront_sizes(sampled, r->shape, sizeof r->shape);
    if (whole != count || !count)
        return snprintf(r->error, sizeof r->error, "'%.100s' has %llu values (%s), yours has %llu", stage,
                        (unsigned long long)whole, r->shape, (unsigned long long)count), 2;
    if (held > whole || begin > LONG_MAX / 2 || end - begin != held * (uint64_t)width ||
        fseek(file, (long)begin, SEEK_CUR))
        return snprintf(r->error, sizeof r->error, "it is damaged at '%.200s'", stage), 2;
    double sum = 0;
    r->max_abs = -1;
    for (uint64_t j = 0; j < held; j++) {
        unsigned char bytes[8];
        if (fread(bytes, 1, (size_t)width, file) != (size_t)width)
            return snprintf(r->error, sizeof r->error, "it is cut short"), 2;
        uint64_t i = held < whole ? melfront_position(stage, j, whole) : j;
        uint64_t bits = melfront_little_endian(bytes, width);
        double truth = melfront_float(bytes);
        if (width == 8) memcpy(&truth, &bits, sizeof truth);
        double away = fabs(mine[i] - truth);
        sum += away * away;
        if (!(away <= r->max_abs) && !isnan(r->max_abs)) /* the first NaN is the worst */
            r->max_abs = away, r->worst = i, r->mine = mine[i], r->truth = truth;
    }
    r->compared = held;
    r->noise = sqrt(sum / (double)held) / strtod(floor, NULL);
    return !(r->noise <= 2);
}

/* 0: right, at most 2 units of noise. 1: wrong. 2: nothing was compared, and r->error says why. */
static int melfront_check(const char *reference, const char *stage, const float *mine, uint64_t count,
                          melfront_result *r) {
    memset(r, 0, sizeof *r);
    FILE *file = fopen(reference, "rb");
    if (!file) return snprintf(r->error, sizeof r->error, "it cannot be opened"), 2;
    unsigned char start[8];
    uint64_t length = fread(start, 1, 8, file) == 8 ? melfront_little_endian(start, 8) : 0;
    char *header = length && length < 1 << 24 ? (char *)malloc((size_t)length + 1) : NULL;
    int status = 2;
    if (!header || fread(header, 1, (size_t)length, file) != length || header[0] != '{') {
        snprintf(r->error, sizeof r->error, "it is cut short, or not a safetensors file");
    } else {
        header[length] = 0;
        status = melfront_compare(file, header, stage, mine, count, r);
    }
    free(header);
    fclose(file);
    return status;
}

#endif
