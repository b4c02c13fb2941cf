/* The leaf kernels of every instruction set this machine can run, against loops in double precision. For machines whose
   Python the tests do not run in: .ci/full builds it for AArch64 and runs it under qemu.

   cc -O3 -ffp-contract=off -Irnncore/_kernels tests/leaf_selftest.c rnncore/_kernels/simd/[a-z]*.c -lm */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simd/leaf.h"

enum { N = 7, MAX = 70 };
#define LOG2E 1.44269504088896340736
static const int sizes[] = {1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 70};

static int wide; /* whether the table under test is float64's */
static int failures;

static double get(const void *p, long i) { return wide ? ((const double *)p)[i] : ((const float *)p)[i]; }
static void put(void *p, long i, double x)
{
    if (wide)
        ((double *)p)[i] = x;
    else
        ((float *)p)[i] = (float)x;
}
static double draw(void) { return 4.0 * rand() / RAND_MAX - 2.0; }
static void fill(void *p, long n)
{
    for (long i = 0; i < n; i++)
        put(p, i, draw());
}
static void check(const char *what, const char *isa, double actual, double expected)
{
    if (!(fabs(actual - expected) <= (wide ? 1e-13 : 2e-5) * (1 + fabs(expected))) && failures++ < 20)
        printf("%s %s float%d: %.17g instead of %.17g\n", isa, what, wide ? 64 : 32, actual, expected);
}
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double relu(double x) { return x > 0 ? x : 0; }
static double (*const functions[])(double) = {tanh, relu, sigmoid};

/* W (G*H, K), each gate times its scale, as panels.h lays it out */
static long pack(void *out, const void *W, const double *scale, int G, int H, int K, int width)
{
    int groups = (H + width - 1) / width, vectors = G * groups;
    for (int v = 0, count; v < vectors; v += count) {
        count = vectors - v >= 4 ? 4 : vectors - v >= 2 ? 2 : 1;
        for (int k = 0; k < K; k++)
            for (int q = 0; q < count; q++)
                for (int lane = 0; lane < width; lane++) {
                    int gate = (v + q) % G, unit = (v + q) / G * width + lane;
                    put(out, ((long)v * K + (long)k * count + q) * width + lane,
                        unit < H ? scale[gate] * get(W, (long)(gate * H + unit) * K + k) : 0);
                }
    }
    return vectors;
}

static void check_cell(const struct leaf *leaf, int G, int H, int function)
{
    static double W[4 * MAX * MAX], U[4 * MAX * MAX], b[4 * MAX], x[N * MAX], h_0[N * MAX], c_0[N * MAX];
    static double h[N * MAX], c[N * MAX], y[N * (MAX + 3)], gates[N * 4 * MAX], a[N * 4 * MAX];
    static _Alignas(64) double W_packed[8 * 80 * MAX], U_packed[8 * 80 * MAX], b_packed[8 * 80], z[8 * 80 * N];
    fill(W, (long)G * H * H), fill(U, (long)G * H * H), fill(b, G * H), fill(x, N * H), fill(h_0, N * H), fill(c_0, N * H);
    static const double lstm[] = {-LOG2E, -LOG2E, 2 * LOG2E, -LOG2E}, rnn[] = {2 * LOG2E, 1, -LOG2E};
    const double *scale = G == 4 ? lstm : &rnn[function];
    long vectors = pack(W_packed, W, scale, G, H, H, leaf->width);
    pack(U_packed, U, scale, G, H, H, leaf->width), pack(b_packed, b, scale, G, H, 1, leaf->width);

    /* in two parts, of rows and of vectors, as a crew would */
    const long half = vectors / 8 * 4, first = N / 3;
    leaf->project(z, b_packed, x, W_packed, H, 0, vectors, first, 0, N);
    leaf->project(z, b_packed, (char *)x + first * H * (wide ? 8 : 4), W_packed, H, 0, half, N - first, first, N);
    leaf->project(z, b_packed, (char *)x + first * H * (wide ? 8 : 4), W_packed, H, half, vectors, N - first, first, N);
    struct panel_step step = {
        .h = h, .c = c, .gates = G == 4 ? gates : NULL, .y = y, .h_before = h_0, .c_before = c_0, .z = z, .panels = U_packed,
        .n = N, .I = H, .H = H, .v_1 = half, .rows = N, .y_stride = H + 3,
    };
    (G == 4 ? leaf->lstm_step : leaf->rnn_step[function])(&step);
    step.v_0 = half, step.v_1 = vectors, step.y = NULL, step.backwards = 1;
    step.x = x, step.bias = b_packed, step.panels_ih = W_packed, step.z = NULL; /* x and h in one pass */
    (G == 4 ? leaf->lstm_step : leaf->rnn_step[function])(&step);
    for (int r = 0; r < N; r++)
        for (int j = 0; j < H && j < half * leaf->width / G; j++)
            check("y", leaf->isa, get(y, r * (H + 3) + j), get(h, r * H + j));
    for (int r = 0; r < N; r++)
        for (int g = 0; g < G * H; g++) {
            double sum = get(b, g);
            for (int k = 0; k < H; k++)
                sum += get(x, r * H + k) * get(W, (long)g * H + k) + get(h_0, r * H + k) * get(U, (long)g * H + k);
            put(a, r * G * H + g, sum);
        }
    for (int r = 0; r < N; r++)
        for (int j = 0; j < H; j++) {
            const long i = r * H + j, row = (long)r * G * H;
            if (G == 1) {
                check("rnn_step", leaf->isa, get(h, i), functions[function](get(a, i)));
                continue;
            }
            double c_t = sigmoid(get(a, row + H + j)) * get(c_0, i) + sigmoid(get(a, row + j)) * tanh(get(a, row + 2 * H + j));
            check("lstm_step c", leaf->isa, get(c, i), c_t);
            check("lstm_step h", leaf->isa, get(h, i), sigmoid(get(a, row + 3 * H + j)) * tanh(c_t));
            check("lstm_step o", leaf->isa, get(gates, row + 3 * H + j), sigmoid(get(a, row + 3 * H + j)));
        }
}

static void check_limits(const struct leaf *leaf)
{
    static _Alignas(64) double chains[CHAINS * 16], x[3 * 8 * 16], sink[16];
    const int n = 3 * 8 * leaf->width;
    memset(chains, 0, sizeof chains);
    check("multiply_add", leaf->isa, leaf->multiply_add(chains, 100), 200.0 * CHAINS * leaf->width);
    for (int i = 0; i < CHAINS * leaf->width; i++)
        check("multiply_add", leaf->isa, get(chains, i), 2);
    for (int i = 0; i < n; i++)
        put(x, i, i < leaf->width ? i + 1 : 0); /* the rest leaves an exclusive or as it is */
    leaf->read(sink, x, n, 3);
    for (int i = 0; i < leaf->width; i++)
        check("read", leaf->isa, get(sink, i), i + 1);
}

int main(void)
{
    const struct leaf *tables;
    for (int k = 0; (tables = leaf_tables(k)) != NULL; k++)
        for (wide = 0; wide < 2; wide++) {
            const struct leaf *leaf = &tables[wide];
            static double x[1000], y[1000];
            fill(x, 1000);
            for (int f = 0; f < NONLINEARITIES; f++) {
                leaf->map[f](y, x, 997);
                for (int i = 0; i < 997; i++)
                    check("map", leaf->isa, get(y, i), functions[f](get(x, i)));
            }
            leaf->exp(y, x, 997);
            for (int i = 0; i < 997; i++)
                check("exp", leaf->isa, get(y, i), exp(get(x, i)));
            for (unsigned s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                for (int f = 0; f < NONLINEARITIES; f++)
                    check_cell(leaf, 1, sizes[s], f);
                check_cell(leaf, 4, sizes[s], 0);
            }
            check_limits(leaf);
            printf("%s float%d: %d elements a vector, %d failures\n", leaf->isa, wide ? 64 : 32, leaf->width, failures);
        }
    return failures != 0;
}
