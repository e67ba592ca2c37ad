/* Says PASS or WRONG of a file of raw float32, little-endian, row by row: one stage of your port.
 *
 *     cc -std=c99 -O2 -o check check.c -lm
 *     ./check ../frontend/speech.80.safetensors features features.f32
 *
 * Exit status: 0 PASS, 1 WRONG, 2 nothing was compared. */
#include "melfront_check.h"

static int stop(const char *name, const char *why) {
    fprintf(stderr, "check: %s: %s\n", name, why);
    return 2;
}

/* The floats of a whole file; NULL, with the reason, if it is not a file of floats. */
static float *read_floats(const char *name, uint64_t *count, const char **why) {
    FILE *file = fopen(name, "rb");
    *why = "it cannot be opened";
    if (!file) return NULL;
    size_t size = 0, room = 1 << 16, got;
    unsigned char *bytes = malloc(room), *more;
    while (bytes && (got = fread(bytes + size, 1, room - size, file)) > 0)
        if ((size += got) == room) {
            more = realloc(bytes, room *= 2);
            if (!more) free(bytes);
            bytes = more;
        }
    *why = ferror(file) ? "it cannot be read" : size % 4 ? "its size is not a multiple of 4 bytes" : NULL;
    fclose(file);
    float *values = bytes ? malloc(size + 4) : NULL;
    if (!values) *why = "too little memory";
    for (size_t i = 0; values && i < size / 4; i++) values[i] = melfront_float(bytes + 4 * i);
    free(bytes);
    *count = size / 4;
    if (!*why) return values;
    free(values);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return stop("usage", "check REFERENCE.safetensors STAGE MINE.f32");
    uint64_t count;
    const char *why;
    float *mine = read_floats(argv[3], &count, &why);
    if (!mine) return stop(argv[3], why);
    melfront_result r;
    int status = melfront_check(argv[1], argv[2], mine, count, &r);
    free(mine);
    if (status == 2) return stop(argv[1], r.error);
    printf("%s  %s  %.3g x noise   max abs %.3g   worst at", argv[2], status ? "WRONG" : "PASS", r.noise,
           r.max_abs);
    uint64_t sizes[64], axes = 0, left = r.worst; /* the index as one of each axis */
    for (char *text = r.shape, *end; *text && axes < 64; text = end) sizes[axes++] = strtoull(text, &end, 10);
    for (uint64_t axis = 0; axis < axes; axis++) {
        uint64_t below = 1;
        for (uint64_t inner = axis + 1; inner < axes; inner++) below *= sizes[inner];
        printf(" %llu", (unsigned long long)(left / below));
        left %= below;
    }
    printf(" of (%s): %.6g, expected %.6g   %llu of %llu values compared\n", r.shape, r.mine, r.truth,
           (unsigned long long)r.compared, (unsigned long long)count);
    return status;
}
