// LayerNorm for layer_norm_cffi.py and layer_norm_library.py, which say how it is built.
#include <math.h>
#include <stddef.h>

void layer_norm(const float *x, const float *weight, const float *bias, float eps, float *out,
                ptrdiff_t rows, ptrdiff_t n) {
    #pragma omp parallel for
    for (ptrdiff_t r = 0; r < rows; r++) {
        const float *in = x + r * n;
        float *to = out + r * n;
        double sum = 0, square = 0;
        #pragma omp simd reduction(+ : sum)
        for (ptrdiff_t i = 0; i < n; i++) sum += in[i];
        const float mean = (float)(sum / n);
        #pragma omp simd reduction(+ : square)
        for (ptrdiff_t i = 0; i < n; i++) square += (in[i] - mean) * (in[i] - mean);
        const float scale = (float)(1 / sqrt(square / n + eps));
        #pragma omp simd
        for (ptrdiff_t i = 0; i < n; i++) to[i] = (in[i] - mean) * scale * weight[i] + bias[i];
    }
}
