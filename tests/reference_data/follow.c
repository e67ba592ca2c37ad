/* The steps of reference_data/README.md, and a front end to check with them, in plain C.
 *
 *     cc -O2 -o follow follow.c -lm      (positions.h: the README's lines for step 3)
 *     ./follow reference_data frontend/speech.80.safetensors [FOLDER]
 *
 * prints each stage's noise and exits with 1 if one is above 2. Encoder stages, which this front end
 * does not compute, are read from FOLDER/STAGE.f32; missing files are skipped. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "positions.h"

#ifndef WINDOW
#define WINDOW 400 /* 399 gives the symmetric window, a mistake */
#endif
enum { N = 400, HOP = 160, K = N / 2 + 1, KEPT = 256 };

static void stop(const char *what, const char *name) {
    fprintf(stderr, "%s: %s\n", what, name);
    exit(2);
}

static char *slurp(const char *folder, const char *name, size_t *size) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*size + 1);
    if (fread(data, 1, *size, file) != *size) stop("cut short", path);
    data[*size] = 0;
    fclose(file);
    return data;
}

/* --- JSON: the value of a key, and the end of a value --- */

static const char *blank(const char *p) { return p + strspn(p, " \t\r\n,:"); }

static const char *end_of(const char *p) {
    int depth = 0;
    do {
        if (*p == '"') {
            for (p++; *p != '"'; p++) p += *p == '\\';
            p++;
        } else if (*p == '{' || *p == '[') {
            depth++, p++;
        } else if (*p == '}' || *p == ']') {
            depth--, p++;
        } else {
            p += strcspn(p, ",}] \n");
        }
        p = depth ? blank(p) : p;
    } while (depth);
    return p;
}

static const char *get(const char *object, const char *key) {
    for (const char *p = blank(object + 1); *p == '"';) {
        const char *name = p + 1, *end = end_of(p), *value = blank(end);
        if (strlen(key) == (size_t)(end - 1 - name) && !strncmp(key, name, strlen(key))) return value;
        p = blank(end_of(value));
    }
    return NULL;
}

static const char *said(const char *header, const char *prefix, const char *stage) {
    char key[600];
    snprintf(key, sizeof key, "%s%s", prefix, stage);
    const char *text = get(get(header, "__metadata__"), key);
    return text ? text + 1 : NULL; /* after the quotation mark */
}

/* --- a front end in float with sums in double --- */

static uint64_t clips, length, n_mels, frames;

static float *of(uint64_t count) { return calloc(count, sizeof(float)); }

static double hz(double mel) {
    return mel < 15 ? mel * 200 / 3 : 1000 * exp((mel - 15) * log(6.4) / 27);
}

static float *filters(void) { /* (M, K), Slaney's, 0 to 8000 Hz */
    const double top = 15 + 27 * log(8) / log(6.4);
    float *bank = of(n_mels * K);
    for (uint64_t m = 0; m < n_mels; m++) {
        double low = hz(top * m / (n_mels + 1)), mid = hz(top * (m + 1) / (n_mels + 1));
        double high = hz(top * (m + 2) / (n_mels + 1));
        for (int k = 0; k < K; k++) {
            double f = 40.0 * k, up = (f - low) / (mid - low), down = (high - f) / (high - mid);
            bank[m * K + k] = (float)(fmax(0, fmin(up, down)) * 2 / (high - low));
        }
    }
    return bank;
}

enum { PADDED, FRAMES, WINDOWED, SPECTRUM, POWER, MEL, LOG, CLAMPED, FEATURES, STAGES };
static const char *NAMES[] = {"padded", "frames",  "windowed", "spectrum", "power",
                              "mel",    "log",     "clamped",  "features"};
static float *stage[STAGES];
static uint64_t size[STAGES]; /* of one clip */

static void front_end(const float *x) { /* x: (clips, length) */
    const double pi = 3.14159265358979323846;
    uint64_t wide = length + N;
    frames = length / HOP;
    uint64_t sizes[] = {wide,         frames * N,      frames * N,      frames * K * 2, frames * K,
                        n_mels * frames, n_mels * frames, n_mels * frames, n_mels * frames};
    for (int s = 0; s < STAGES; s++) stage[s] = of(clips * (size[s] = sizes[s]));
    static double cosine[N], sine[N];
    for (int i = 0; i < N; i++) cosine[i] = cos(2 * pi * i / N), sine[i] = -sin(2 * pi * i / N);
    float *bank = filters();
    for (uint64_t c = 0; c < clips; c++, x += length) {
        float *part[STAGES];
        for (int s = 0; s < STAGES; s++) part[s] = stage[s] + c * size[s];
        for (uint64_t i = 0; i < wide; i++) {
            int64_t at = llabs((int64_t)i - N / 2), last = (int64_t)length - 1;
            part[PADDED][i] = x[at > last ? 2 * last - at : at];
        }
        for (uint64_t f = 0; f < frames; f++) {
            float *frame = part[FRAMES] + f * N, *windowed = part[WINDOWED] + f * N;
            for (int i = 0; i < N; i++) {
                frame[i] = part[PADDED][f * HOP + i];
                windowed[i] = frame[i] * (float)(0.5 - 0.5 * cos(2 * pi * i / WINDOW));
            }
            for (int k = 0; k < K; k++) {
                double re = 0, im = 0;
                for (int i = 0; i < N; i++) {
                    re += windowed[i] * cosine[i * k % N];
                    im += windowed[i] * sine[i * k % N];
                }
                float *z = part[SPECTRUM] + (f * K + k) * 2;
                z[0] = (float)re, z[1] = (float)im;
                part[POWER][f * K + k] = z[0] * z[0] + z[1] * z[1];
            }
        }
        float loudest = -INFINITY;
        for (uint64_t m = 0; m < n_mels; m++)
            for (uint64_t f = 0; f < frames; f++) {
                double sum = 0;
                for (int k = 0; k < K; k++) sum += bank[m * K + k] * part[POWER][f * K + k];
                part[MEL][m * frames + f] = (float)sum;
                part[LOG][m * frames + f] = log10f(fmaxf((float)sum, 1e-10f));
                loudest = fmaxf(loudest, part[LOG][m * frames + f]);
            }
        for (uint64_t i = 0; i < n_mels * frames; i++) {
            part[CLAMPED][i] = fmaxf(part[LOG][i], loudest - 8);
            part[FEATURES][i] = (part[CLAMPED][i] + 4) / 4;
        }
    }
}

/* --- the steps --- */

static const char *folder, *header, *numbers;

static float *read_clips(void) { /* step 1 */
    const char *names = said(header, "wav", "");
    length = strtoull(said(header, "length", ""), NULL, 10);
    float *x = NULL;
    for (clips = 0; *names != '"'; clips++) {
        char name[256];
        size_t bytes, n = strcspn(names, " \"");
        snprintf(name, sizeof name, "%.*s", (int)n, names);
        char *wav = slurp(folder, name, &bytes);
        if (!wav) stop("no such file", name);
        x = realloc(x, (clips + 1) * length * sizeof(float));
        memset(x + clips * length, 0, length * sizeof(float));
        memcpy(x + clips * length, wav + 58, bytes - 58);
        names += n + (names[n] == ' ');
    }
    return x;
}

static double value(const char *entry, uint64_t i) {
    const char *place = strchr(get(entry, "data_offsets"), '[') + 1;
    const char *start = numbers + strtoull(place, NULL, 10);
    float single;
    double wide;
    if (!strncmp(get(entry, "dtype"), "\"F64\"", 5)) return memcpy(&wide, start + i * 8, 8), wide;
    return memcpy(&single, start + i * 4, 4), single;
}

static uint64_t product(const char *sizes) {
    uint64_t all = 1;
    for (char *end; *sizes && !strchr("\"]", *sizes); sizes = end + strspn(end, ", "))
        all *= strtoull(sizes, &end, 10);
    return all;
}

/* Steps 3 and 4: whether the noise of `count` values of `mine` is at most 2. */
static int judge(const char *name, const char *entry, const float *mine, uint64_t count, double floor,
                 const char *sampled) {
    static uint64_t index[KEPT];
    uint64_t held = product(strchr(get(entry, "shape"), '[') + 1);
    if (sampled) positions(name, product(sampled), KEPT, index);
    if ((sampled ? product(sampled) : held) != count) stop("another shape", name);
    double sum = 0;
    for (uint64_t i = 0; i < held; i++) {
        double away = mine[sampled ? index[i] : i] - value(entry, i);
        sum += away * away;
    }
    double noise = sqrt(sum / (double)held) / floor;
    printf("%s %.3g\n", name, noise);
    return noise <= 2;
}

int main(int argc, char **argv) {
    if (argc < 3) stop("usage", "follow REFERENCE_DATA FILE [FOLDER]");
    size_t bytes;
    folder = argv[1];
    char *file = slurp(folder, argv[2], &bytes);
    if (!file) stop("no such file", argv[2]);
    uint64_t long_header;
    memcpy(&long_header, file, 8);
    numbers = file + 8 + long_header;
    header = file + 8;

    float *x = read_clips();
    n_mels = strtoull(said(header, "n_mels", ""), NULL, 10);
    front_end(x); /* step 2 */

    int right = 1;
    for (const char *p = blank(header + 1); *p == '"';) {
        char name[256];
        const char *end = end_of(p), *entry = blank(end);
        snprintf(name, sizeof name, "%.*s", (int)(end - p - 2), p + 1);
        p = blank(end_of(entry));
        if (!strcmp(name, "__metadata__")) continue;
        const float *mine = NULL;
        uint64_t count = 0;
        for (int s = 0; s < STAGES; s++)
            if (!strcmp(name, NAMES[s])) mine = stage[s], count = clips * size[s];
        if (!mine && argc > 3) {
            char raw[300];
            snprintf(raw, sizeof raw, "%s.f32", name);
            mine = (const float *)slurp(argv[3], raw, &bytes);
            count = bytes / sizeof(float);
        }
        if (!mine) continue;
        const char *floor = said(header, "floor.", name);
        if (!floor) stop("no floor", name);
        right &= judge(name, entry, mine, count, strtod(floor, NULL), said(header, "sampled.", name));
    }
    return !right;
}
