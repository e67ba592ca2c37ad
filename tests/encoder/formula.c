/* The formula weights, implemented only from the docstring of encoder/formula.py.
 *
 *     cc -O1 -o formula formula.c -lm
 *     ./formula layers.0.fc1.weight 1536 384 > fc1.f32
 *
 * writes the tensor of that name (after "model.encoder.") and shape to stdout, as float32 in the
 * machine's byte order. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Mean and standard deviation in sixteenths, by the ending of a name. The first match counts. */
static const struct { const char *ending; int mean, std; } STATISTICS[] = {
    {"conv1.weight", 0, 12},   {"conv2.weight", 0, 14},    {"conv1.bias", -6, 12},
    {"conv2.bias", -8, 14},    {"q_proj.weight", 0, 14},   {"k_proj.weight", 0, 14},
    {"v_proj.weight", 0, 8},   {"out_proj.weight", 0, 8},  {"q_proj.bias", 0, 8},
    {"v_proj.bias", 0, 2},     {"out_proj.bias", 0, 6},    {"fc1.weight", 0, 8},
    {"fc2.weight", 0, 12},     {"fc1.bias", -24, 10},      {"fc2.bias", 0, 6},
    {"self_attn_layer_norm.weight", 26, 8},                {"final_layer_norm.weight", 30, 8},
    {"layer_norm.weight", 20, 4},                          {"layer_norm.bias", 0, 10},
};

static int ends_with(const char *name, const char *ending) {
    size_t n = strlen(name), m = strlen(ending);
    return n >= m && strcmp(name + n - m, ending) == 0;
}

static uint64_t floor_sqrt(uint64_t x) {
    uint64_t root = (uint64_t)sqrt((double)x);
    while (root * root > x) root--;
    while ((root + 1) * (root + 1) <= x) root++;
    return root;
}

static uint64_t fnv1a(const char *name) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return h;
}

static float element(uint64_t seed, uint64_t i, int64_t mean, int64_t scale) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z = z ^ z >> 31;
    int64_t a = z & 0xffff, b = z >> 16 & 0xffff, c = z >> 32 & 0xffff, d = z >> 48;
    int64_t s = 2 * (a + b + c) - 196605;
    if (d < 1024) s *= 8;
    return (float)(mean * (1 << 28) + s * scale) / 4294967296.0f;
}

static float position(uint64_t t, uint64_t column, uint64_t state) {
    uint64_t half = state / 2, j = column % half;
    double angle = (double)t / pow(10000.0, (double)j / (double)(half - 1));
    double value = column < half ? sin(angle) : cos(angle);
    return (float)(rint(value * 4096) / 4096);
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: formula NAME SIZE...\n"), 2;
    const char *name = argv[1];
    uint64_t first = strtoull(argv[2], NULL, 10), fan_in = 1;
    for (int i = 3; i < argc; i++) fan_in *= strtoull(argv[i], NULL, 10);

    int positions = strcmp(name, "embed_positions.weight") == 0, row = -1;
    int rows = sizeof STATISTICS / sizeof *STATISTICS;
    for (int i = 0; i < rows && row < 0; i++)
        if (ends_with(name, STATISTICS[i].ending)) row = i;
    if (!positions && row < 0) return fprintf(stderr, "no formula for %s\n", name), 2;

    uint64_t seed = fnv1a(name), variance = 0;
    int64_t mean = 0, scale = 0;
    if (!positions) {
        mean = STATISTICS[row].mean;
        scale = STATISTICS[row].std;
        variance = (uint64_t)(scale * scale) << 24;
        scale = argc == 3 ? scale << 12 : (int64_t)floor_sqrt(variance / fan_in);
    }
    for (uint64_t i = 0; i < first * fan_in; i++) {
        float w = positions ? position(i / fan_in, i % fan_in, fan_in) : element(seed, i, mean, scale);
        fwrite(&w, sizeof w, 1, stdout);
    }
    return 0;
}
