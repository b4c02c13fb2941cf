/* The leaf kernels of every instruction set this machine can run, against loops in double precision. For machines whose
   Python the tests do not run in: .ci/full builds it for AArch64 and runs it under qemu.

   Arrays have the exact size; behind each lies memory that no read or write survives: a page without access or, with
   -fsanitize=address, the sanitizer's own.

   cc -O3 -ffp-contract=off -Irnncore/_kernels tests/leaf_selftest.c rnncore/_kernels/simd/[a-z]*.c -lm */

#define _GNU_SOURCE
#include <complex.h>
#undef I /* leaf.h has a size of this name */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "simd/leaf.h"

#if defined(__has_feature) && !defined(__SANITIZE_ADDRESS__) /* clang's way to say it */
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__
#endif
#endif

enum { N = 16, MAX = 215, GAP = 3, MOST_ARRAYS = 100 };
#define LOG2E 1.44269504088896340736
/* H, I, K: partial vectors; panels of 4, 2 and 1; batches of up to 3 panels; products of one term and of many */
static const int sizes[][3] = {
    {1, 1, 1},   {2, 3, 1},   {3, 2, 5},    {5, 5, 5},   {8, 1, 7},   {15, 16, 4},  {16, 15, 33},
    {17, 17, 2}, {24, 13, 3}, {27, 4, 9}, {33, 8, 70}, {48, 12, 5}, {50, 3, 8}, {64, 64, 64},
    {70, 70, 3}, {100, 5, 6}, {150, 5, 9}, {215, 11, 6},
};

static const struct leaf *leaf; /* the table under test */
static int wide;                /* whether it is float64's */
static int failures;

/* --- arrays, numbers ---------------------------------------------------------------------------------------------- */

static struct {
    void *start;
    size_t size;
} arrays[MOST_ARRAYS];
static int used;

static double get(const void *p, long i) { return wide ? ((const double *)p)[i] : ((const float *)p)[i]; }
static void put(void *p, long i, double x)
{
    if (wide)
        ((double *)p)[i] = x;
    else
        ((float *)p)[i] = (float)x;
}
static size_t bytes(long n) { return (size_t)n * (wide ? sizeof(double) : sizeof(float)); }
static void *at(const void *p, long i) { return p ? (char *)p + bytes(i) : NULL; }

/* An array of n elements, NaN: what a kernel leaves out is no number. */
static void *array(long n)
{
#ifdef __SANITIZE_ADDRESS__
    const size_t size = bytes(n);
    void *start;
    if (posix_memalign(&start, 64, size) || used == MOST_ARRAYS)
        abort();
    char *p = start;
#else
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes(n) + page - 1) / page * page, size = whole + page;
    char *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || used == MOST_ARRAYS || mprotect(start + whole, page, PROT_NONE))
        abort();
    char *p = start + whole - bytes(n);
#endif
    arrays[used].start = start, arrays[used++].size = size;
    for (long i = 0; i < n; i++)
        put(p, i, NAN);
    return p;
}

/* Forget all arrays but the first `keep`. */
static void release(int keep)
{
    while (used > keep) {
        used--;
#ifdef __SANITIZE_ADDRESS__
        free(arrays[used].start);
#else
        munmap(arrays[used].start, arrays[used].size);
#endif
    }
}

static void *copy(const void *p, long n) { return memcpy(array(n), p, bytes(n)); }

/* n numbers within the bounds */
static void *draw(long n, double bound)
{
    void *p = array(n);
    for (long i = 0; i < n; i++)
        put(p, i, bound * (2.0 * rand() / RAND_MAX - 1));
    return p;
}

static void check(const char *what, double actual, double expected)
{
    if (!(fabs(actual - expected) <= (wide ? 1e-13 : 2e-5) * (1 + fabs(expected))) && failures++ < 20)
        printf("%s %s float%d: %.17g instead of %.17g\n", leaf->isa, what, wide ? 64 : 32, actual, expected);
}
static void check_all(const char *what, const void *actual, const double *expected, long n)
{
    for (long i = 0; i < n; i++)
        check(what, get(actual, i), expected[i]);
}
static void check_true(const char *what, int holds)
{
    if (!holds && failures++ < 20)
        printf("%s %s float%d: failed\n", leaf->isa, what, wide ? 64 : 32);
}

/* --- definitions -------------------------------------------------------------------------------------------------- */

/* Of complex numbers: the imaginary part of f(x + i STEP), divided by STEP, is f'(x), and nothing cancels. */
#define STEP 1e-30
typedef double complex number;

static number sigmoid(number x) { return 1 / (1 + cexp(-x)); }
static number relu(number x) { return creal(x) > 0 ? x : 0; }
static number identity(number x) { return x; }
static number (*const functions[])(number) = {ctanh, relu, sigmoid, identity};

/* Gates' sums, i f g o, become their values; returns h. */
static number lstm(number a[4], number c_before, const double w[3], number *c)
{
    a[0] = sigmoid(a[0] + w[0] * c_before), a[1] = sigmoid(a[1] + w[1] * c_before), a[2] = ctanh(a[2]);
    *c = a[1] * c_before + a[0] * a[2];
    a[3] = sigmoid(a[3] + w[2] * *c);
    return a[3] * ctanh(*c);
}

/* n r z s_n; the reset after the product */
static number gru(number a[4], number h_before)
{
    a[1] = sigmoid(a[1]), a[2] = sigmoid(a[2]), a[0] = ctanh(a[0] + a[1] * a[3]);
    return (1 - a[2]) * a[0] + a[2] * h_before;
}

/* r z n, whose sum is complete; the reset before the product */
static number gru_original(number a[3], number h_before)
{
    a[0] = sigmoid(a[0]), a[1] = sigmoid(a[1]), a[2] = ctanh(a[2]);
    return (1 - a[1]) * a[2] + a[1] * h_before;
}

/* --- panels ------------------------------------------------------------------------------------------------------- */

static const double lstm_scales[] = {-LOG2E, -LOG2E, 2 * LOG2E, -LOG2E}, gru_scales[] = {-LOG2E, -LOG2E, 2 * LOG2E},
                    rnn_scales[] = {2 * LOG2E, 1, -LOG2E, 1};

static int panel_vectors(int left) { return left >= 4 ? 4 : left >= 2 ? 2 : 1; }

/* W (G*H, K), each gate times its scale, as panels.h lays it out: of the same vectors a panel for each gate or,
   interleaved, the gates by turns in one */
static void *pack(const void *W, const double *scale, int G, int H, int K, int interleaved)
{
    const int width = leaf->width, groups = (H + width - 1) / width, vectors = interleaved ? G * groups : groups;
    void *out = array((long)G * groups * width * K);
    long i = 0;
    for (int v = 0, count; v < vectors; v += count) {
        count = panel_vectors(vectors - v);
        const int abreast = count < leaf->abreast ? count : leaf->abreast;
        for (int panel = 0; panel < (interleaved ? 1 : G); panel++)
            for (int first = v; first < v + count; first += abreast)
                for (int k = 0; k < K; k++)
                    for (int q = first; q < first + abreast; q++)
                        for (int lane = 0; lane < width; lane++) {
                            int gate = interleaved ? q % G : panel, unit = (interleaved ? q / G : q) * width + lane;
                            put(out, i++, unit < H ? scale[gate] * get(W, (long)(gate * H + unit) * K + k) : 0);
                        }
    }
    return out;
}

/* A layer, its input, and the sums over x (with the bias) and over h_before, rows of G*H. K is 0 without recurrence. */
static struct layer {
    int G, interleaved, vectors, H, I, K;
    const void *x, *h_before, *W_hh, *bias, *panels_ih, *panels_hh;
    double of_x[N * 4 * MAX], of_h[N * 4 * MAX];
} l;

static void product(double *out, const void *bias, const void *a, const void *W, int m, int K)
{
    for (int r = 0; r < N; r++)
        for (int g = 0; g < m; g++) {
            double sum = bias ? get(bias, g) : 0;
            for (int k = 0; k < K; k++)
                sum += get(a, (long)r * K + k) * get(W, (long)g * K + k);
            out[(long)r * m + g] = sum;
        }
}

static void draw_layer(const double *scales, int G, int interleaved, int H, int I, int K)
{
    const int groups = (H + leaf->width - 1) / leaf->width;
    const void *W_ih = draw((long)G * H * I, 2 / sqrt(I)), *b = draw(G * H, 1);
    l.G = G, l.interleaved = interleaved, l.vectors = interleaved ? G * groups : groups, l.H = H, l.I = I, l.K = K;
    l.x = draw((long)N * I, 2), l.panels_ih = pack(W_ih, scales, G, H, I, interleaved);
    l.bias = pack(b, scales, G, H, 1, interleaved);
    product(l.of_x, b, l.x, W_ih, G * H, I);
    l.h_before = K ? draw((long)N * K, 2) : NULL;
    l.W_hh = K ? draw((long)G * H * K, 2 / sqrt(K)) : NULL;
    l.panels_hh = K ? pack(l.W_hh, scales, G, H, K, interleaved) : NULL;
    product(l.of_h, NULL, l.h_before, l.W_hh, G * H, K);
}

/* Ways to do the same step, in all combinations: the step forms the sums over x itself; cut by rows, into tiles of all
   sizes; cut by vectors, as a crew would, or into slices; from the last unit to the first; nothing kept but the state; begun
   with, of one panel's units, or if nothing is kept of all. */
enum { FUSED = 1, ROWS = 2, VECTORS = 4, BACKWARDS = 8, BARE = 16, BEGUN = 32, WAYS = 64 };

struct part {
    int r_0, r_1, v_0, v_1;
};

/* The parts of one way. Vectors: the first panel, the last one, and what is between. */
static int parts_of(int way, struct part parts[16])
{
    static const int rows[] = {0, N, 0, 2, 3, 9, N}; /* whole, 6 + 5 + 5; or 2, 1, 6, and 4 + 3 */
    const int left = l.vectors % 4, last = l.vectors - (left == 0 ? 4 : left == 3 ? 1 : left);
    const int vectors[] = {0, l.vectors, 0, l.vectors > 4 ? 4 : last, last, l.vectors};
    int count = 0;
    for (int i = way & ROWS ? 2 : 0; i < (way & ROWS ? 6 : 1); i++)
        for (int k = way & VECTORS ? 2 : 0; k < (way & VECTORS ? 5 : 1); k++)
            if (vectors[k] < vectors[k + 1])
                parts[count++] = (struct part){rows[i], rows[i + 1], vectors[k], vectors[k + 1]};
    return count;
}

/* A step to begin with: its sums over x as the way has them */
static struct panel_step step_of(int way)
{
    struct panel_step step = {.h_before = l.h_before, .panels = l.panels_hh, .bias = l.bias, .panels_ih = l.panels_ih,
                              .n = N, .I = l.I, .H = l.H, .K = l.K, .backwards = (way & BACKWARDS) != 0,
                              .shared = (way & BACKWARDS) != 0, .far = (way & BACKWARDS) != 0};
    if (way & FUSED) {
        step.x = l.x;
        return step;
    }
    struct part parts[16];
    const int gates = l.interleaved ? 1 : l.G;
    void *z = array((long)l.vectors * gates * N * leaf->width);
    for (int k = 0, count = parts_of(way, parts); k < count; k++)
        leaf->project(z, l.bias, at(l.x, (long)parts[k].r_0 * l.I), l.panels_ih, gates, l.I, parts[k].v_0, parts[k].v_1,
                      parts[k].r_1 - parts[k].r_0, parts[k].r_0, N);
    step.z = z, step.rows = N;
    return step;
}

/* Take a step, of a cell whose gates are so many columns of H. */
static void take(panel_step_function f, const struct panel_step *all, int columns, int way)
{
    struct part parts[16];
    for (int k = 0, count = parts_of(way, parts); k < count; k++) {
        const long r = parts[k].r_0;
        struct panel_step s = *all;
        s.h = at(s.h, r * s.H), s.c = at(s.c, r * s.H), s.gates = at(s.gates, r * columns * s.H);
        s.y = at(s.y, r * s.y_stride), s.inner = at(s.inner, r * s.H), s.c_before = at(s.c_before, r * s.H);
        s.h_before = at(s.h_before, r * s.K), s.x = at(s.x, r * s.I);
        s.n = parts[k].r_1 - r, s.v_0 = parts[k].v_0, s.v_1 = parts[k].v_1;
        s.row = s.z ? r : 0;
        if (way & BEGUN && s.z && s.K > 1) {
            const int gates = l.interleaved ? 1 : l.G;
            struct panel_step some = s;
            some.v_1 = s.v_1 - s.v_0 > 4 && !(way & BARE) ? s.v_0 + 4 : s.v_1;
            some.begun = s.begun = s.K / 2;
            leaf->begin(&some, gates, gates > 2 ? 2 : gates);
            s.begun_0 = some.v_0 * gates, s.begun_1 = some.v_1 * gates;
        }
        f(&s);
    }
}

/* Rows of y are those of h, and what lies between them is as it was. */
static void new_y(struct panel_step *step, int way)
{
    step->y_stride = step->H + GAP;
    step->y = way & BARE ? NULL : array((N - 1) * step->y_stride + step->H);
}
static void check_y(const char *what, const struct panel_step *s)
{
    if (s->y == NULL)
        return;
    for (long r = 0; r < N; r++) {
        check_true(what, !memcmp(at(s->y, r * s->y_stride), at(s->h, r * s->H), bytes(s->H)));
        for (int j = 0; j < GAP && r < N - 1; j++)
            check_true(what, isnan(get(s->y, r * s->y_stride + s->H + j)));
    }
}

/* However it was done, a result has the bits of the first way, which `first`, full of NaN at first, is to hold. */
static void check_bits(const char *what, void *first, const void *p, long n)
{
    if (isnan(get(first, 0)))
        memcpy(first, p, bytes(n));
    check_true(what, !memcmp(first, p, bytes(n)));
}

static void check_rnn_step(int function, int H, int I, int K)
{
    static double h[N * MAX];
    draw_layer(&rnn_scales[function], 1, 0, H, I, K);
    for (int i = 0; i < N * H; i++)
        h[i] = creal(functions[function](l.of_x[i] + l.of_h[i]));
    void *first = array(N * H);
    const int mark = used;
    for (int way = K ? 0 : FUSED; way < WAYS; way += K ? 1 : 2, release(mark)) { /* of x alone: never without x */
        struct panel_step step = step_of(way);
        step.h = array(N * H), new_y(&step, way);
        take(leaf->rnn_step[function], &step, 0, way);
        check_all(K ? "rnn_step" : "rnn_step of x", step.h, h, N * H);
        check_y("rnn_step y", &step);
        check_bits("rnn_step bits", first, step.h, N * H);
    }
    release(0);
}

static void check_lstm_step(int H, int I, int K, int peephole)
{
    static double h[N * MAX], c[N * MAX], gates[N * 4 * MAX];
    draw_layer(lstm_scales, 4, 1, H, I, K);
    const void *c_before = draw(N * H, 2), *w = draw(3 * H, 1);
    const double scales[] = {-LOG2E, -LOG2E, -LOG2E};
    const void *w_packed = peephole ? pack(w, scales, 3, H, 1, 1) : NULL;
    for (int r = 0; r < N; r++)
        for (int j = 0; j < H; j++) {
            const double w_j[] = {get(w, j), get(w, H + j), get(w, 2 * H + j)}, none[3] = {0};
            const long row = (long)r * 4 * H + j;
            number a[4], c_t;
            for (int g = 0; g < 4; g++)
                a[g] = l.of_x[row + g * H] + l.of_h[row + g * H];
            h[r * H + j] = creal(lstm(a, get(c_before, r * H + j), peephole ? w_j : none, &c_t));
            c[r * H + j] = creal(c_t);
            for (int g = 0; g < 4; g++)
                gates[row + g * H] = creal(a[g]);
        }
    void *first_h = array(N * H), *first_c = array(N * H);
    const int mark = used;
    for (int way = 0; way < WAYS; way++, release(mark)) {
        struct panel_step step = step_of(way);
        step.h = array(N * H), step.c = array(N * H), step.c_before = c_before, step.peephole = w_packed;
        new_y(&step, way);
        step.gates = way & BARE ? NULL : array((long)N * 4 * H);
        take(leaf->lstm_step, &step, 4, way);
        check_all("lstm_step h", step.h, h, N * H);
        check_all("lstm_step c", step.c, c, N * H);
        check_y("lstm_step y", &step);
        if (step.gates)
            check_all("lstm_step gates", step.gates, gates, (long)N * 4 * H);
        check_bits("lstm_step h bits", first_h, step.h, N * H);
        check_bits("lstm_step c bits", first_c, step.c, N * H);
    }
    release(0);
}

static void check_gru_step(int H, int I)
{
    static double h[N * MAX], gates[N * 4 * MAX];
    draw_layer(gru_scales, 3, 0, H, I, H);
    const void *b_hn = draw(H, 1), *bias_hh = pack(b_hn, gru_scales + 2, 1, H, 1, 0);
    for (int r = 0; r < N; r++)
        for (int j = 0; j < H; j++) {
            const double *x = l.of_x + (long)r * 3 * H + j, *s = l.of_h + (long)r * 3 * H + j;
            number a[] = {x[2 * H], x[0] + s[0], x[H] + s[H], s[2 * H] + get(b_hn, j)};
            h[r * H + j] = creal(gru(a, get(l.h_before, r * H + j)));
            for (int g = 0; g < 4; g++)
                gates[(long)r * 4 * H + g * H + j] = creal(a[g]);
        }
    void *first = array(N * H);
    const int mark = used;
    for (int way = 0; way < WAYS; way++, release(mark)) {
        struct panel_step step = step_of(way);
        step.h = array(N * H), step.bias_hh = bias_hh, new_y(&step, way);
        step.gates = way & BARE ? NULL : array((long)N * 4 * H);
        take(leaf->gru_step, &step, 4, way);
        check_all("gru_step", step.h, h, N * H);
        check_y("gru_step y", &step);
        if (step.gates)
            check_all("gru_step gates", step.gates, gates, (long)N * 4 * H);
        check_bits("gru_step bits", first, step.h, N * H);
    }
    release(0);
}

static void check_gru_original_steps(int H, int I)
{
    static double h[N * MAX], inner[N * MAX], gates[N * 3 * MAX], of_inner[N * MAX];
    draw_layer(gru_scales, 3, 0, H, I, H);
    void *rh = array(N * H), *first = array(N * H);
    for (int r = 0; r < N; r++)
        for (int j = 0; j < H; j++) {
            const long row = (long)r * 3 * H + j;
            inner[r * H + j] = creal(sigmoid(l.of_x[row] + l.of_h[row])) * get(l.h_before, r * H + j);
            put(rh, r * H + j, inner[r * H + j]);
        }
    product(of_inner, NULL, rh, at(l.W_hh, 2L * H * H), H, H);
    for (int r = 0; r < N; r++)
        for (int j = 0; j < H; j++) {
            const long row = (long)r * 3 * H + j;
            number a[] = {l.of_x[row] + l.of_h[row], l.of_x[row + H] + l.of_h[row + H],
                          l.of_x[row + 2 * H] + of_inner[r * H + j]};
            h[r * H + j] = creal(gru_original(a, get(l.h_before, r * H + j)));
            for (int g = 0; g < 3; g++)
                gates[row + g * H] = creal(a[g]);
        }
    const int mark = used;
    for (int way = 0; way < WAYS; way++, release(mark)) {
        struct panel_step step = step_of(way);
        step.inner = array(N * H), step.gates = array((long)N * 3 * H);
        take(leaf->gru_reset_step, &step, 3, way & ~BEGUN);
        check_all("gru_reset_step inner", step.inner, inner, N * H);
        for (long i = 0; i < (long)N * 3 * H; i++)
            if (i % (3 * H) < 2 * H)
                check("gru_reset_step gates", get(step.gates, i), gates[i]);
            else
                check_true("gru_reset_step n", isnan(get(step.gates, i))); /* not its business */
        step.h = array(N * H), step.h_before = step.inner, step.inner = (void *)l.h_before, new_y(&step, way);
        take(leaf->gru_new_step, &step, 3, way & ~BEGUN);
        check_all("gru_new_step", step.h, h, N * H);
        check_all("gru_new_step gates", step.gates, gates, (long)N * 3 * H);
        check_y("gru_new_step y", &step);
        check_bits("gru_new_step bits", first, step.h, N * H);
    }
    release(0);
}

/* Several steps at once have the bits of one after the other: in either direction of time, of sums over x and of x itself, with states
   that are kept or take turns. Some rows of all do, as a crew would have it: one, a tile of them, or two. */
static void check_steps(const char *what, panel_step_function f, const struct panel_step *of_cell, int columns, int rows)
{
    enum { STEPS = 3, FIRST = 5, REVERSE = 1, FUSED = 2, KEPT = 4 };
    const int H = l.H, I = l.I, mark = used, slots = STEPS + 1, gates = l.interleaved ? 1 : l.G, y_stride = H + GAP;
    const long y_size = (long)STEPS * N * y_stride, state_size = (long)slots * N * H, gates_size = (long)STEPS * N * columns * H;
    const void *x = draw((long)STEPS * N * I, 2), *h_0 = draw(N * H, 1), *c_0 = draw(N * H, 2);
    void *z = array((long)l.vectors * gates * STEPS * rows * leaf->width);
    for (int t = 0; t < STEPS; t++)
        leaf->project(z, l.bias, at(x, ((long)t * N + FIRST) * I), l.panels_ih, gates, I, 0, l.vectors, rows, t * rows, STEPS * rows);
    for (int way = 0; way < 8; way++) {
        const int reverse = (way & REVERSE) != 0, kept = (way & KEPT) != 0, begin = used;
        void *y[2], *h[2], *c[2], *all_gates[2];
        for (int once = 0; once < 2; once++) {
            y[once] = array(y_size), h[once] = array(state_size), c[once] = array(state_size);
            all_gates[once] = array(gates_size + 1);
            for (int k = 0; k < (once ? 1 : STEPS); k++) {
                const int t = reverse ? STEPS - 1 - k : k;
                const int before = !kept ? k % 2 : reverse ? t + 1 : t, after = !kept ? (k + 1) % 2 : reverse ? t : t + 1;
                const long row = (long)t * N + FIRST, old = ((long)before * N + FIRST) * H, new = ((long)after * N + FIRST) * H;
                struct panel_step s = *of_cell;
                s.n = rows, s.v_0 = 0, s.v_1 = l.vectors, s.backwards = (k + reverse) % 2;
                s.x = way & FUSED ? at(x, row * I) : NULL;
                s.z = way & FUSED ? NULL : z, s.rows = STEPS * rows, s.row = (long)t * rows;
                s.y = at(y[once], row * y_stride), s.y_stride = y_stride;
                s.gates = columns ? at(all_gates[once], row * columns * H) : NULL;
                if (k == 0) {
                    memcpy(at(h[once], old), at(h_0, FIRST * H), bytes(rows * H));
                    memcpy(at(c[once], old), at(c_0, FIRST * H), bytes(rows * H));
                }
                s.h_before = at(h[once], old), s.h = at(h[once], new);
                if (of_cell->c)
                    s.c_before = at(c[once], old), s.c = at(c[once], new);
                s.steps = once ? STEPS : k % 2, s.apart = reverse ? -N : N, s.kept = kept;
                f(&s);
            }
        }
        for (int t = 0; t < STEPS; t++) /* the first row's first number, the last one's last */
            check_true(what, !isnan(get(y[0], ((long)t * N + FIRST) * y_stride)) &&
                                 !isnan(get(y[0], ((long)t * N + FIRST + rows - 1) * y_stride + H - 1)));
        check_true(what, f == leaf->rnn_step[RELU] || get(y[0], ((long)(STEPS - 1) * N + FIRST) * y_stride) != 0);
        check_true(what, !memcmp(y[0], y[1], bytes(y_size)) && !memcmp(h[0], h[1], bytes(state_size)));
        check_true(what, !memcmp(c[0], c[1], bytes(state_size)) && !memcmp(all_gates[0], all_gates[1], bytes(gates_size)));
        release(begin);
    }
    release(mark);
}

static void check_all_steps(int H, int I, int rows)
{
    const double scales[] = {-LOG2E, -LOG2E, -LOG2E};
    struct panel_step step = {.I = I, .H = H, .K = H};
    for (int function = 0; function < NONLINEARITIES; function++) {
        draw_layer(&rnn_scales[function], 1, 0, H, I, H);
        step.bias = l.bias, step.panels = l.panels_hh, step.panels_ih = l.panels_ih;
        check_steps("rnn_step, steps", leaf->rnn_step[function], &step, 0, rows);
        release(0);
    }
    draw_layer(gru_scales, 3, 0, H, I, H);
    step.bias = l.bias, step.panels = l.panels_hh, step.panels_ih = l.panels_ih;
    step.bias_hh = pack(draw(H, 1), gru_scales + 2, 1, H, 1, 0);
    check_steps("gru_step, steps", leaf->gru_step, &step, 4, rows);
    release(0);
    for (int peephole = 0; peephole < 2; peephole++) {
        draw_layer(lstm_scales, 4, 1, H, I, H);
        step.bias = l.bias, step.panels = l.panels_hh, step.panels_ih = l.panels_ih, step.c = (void *)l.bias; /* it has one */
        step.peephole = peephole ? pack(draw(3 * H, 1), scales, 3, H, 1, 1) : NULL;
        check_steps("lstm_step, steps", leaf->lstm_step, &step, 4, rows);
        release(0);
    }
}

/* --- without panels: forwards from sums, and backwards ------------------------------------------------------------ */

static void check_rnn(int function, int H)
{
    static double h[N * MAX], da[N * MAX];
    const void *a = draw(N * H, 3), *b = draw(H, 1), *dh = draw(N * H, 1);
    for (int i = 0; i < N * H; i++) {
        const number h_i = functions[function](get(a, i) + get(b, i % H) + STEP * _Complex_I);
        h[i] = creal(h_i), da[i] = get(dh, i) * cimag(h_i) / STEP;
    }
    void *out = array(N * H), *in_place = copy(a, N * H), *back = array(N * H);
    leaf->rnn_forward[function](out, a, b, N, H);
    check_all("rnn_forward", out, h, N * H);
    leaf->rnn_forward[function](in_place, in_place, b, N, H);
    check_all("rnn_forward in place", in_place, h, N * H);
    for (int part = 0; part < 2; part++) { /* of the units, as a crew would */
        const int u = part ? H / 2 : 0, units = part ? H - u : H / 2;
        leaf->rnn_backward[function](at(back, u), H, at(dh, u), at(out, u), N, H, units);
    }
    check_all("rnn_backward", back, da, N * H);
    release(0);
}

static void check_softmax(int P)
{
    static double o[N * MAX], ds[N * MAX], most[N], sums[N];
    void *y = draw(N * P, 3);
    const void *dout = draw(N * P, 1);
    for (int r = 0; r < N; r++) {
        const int first = r * P;
        double sum = 0, loss = 0;
        most[r] = -INFINITY;
        for (int j = first; j < first + P; j++) {
            put(y, j, get(y, j) + 300 * (r % 3 - 1)); /* exp alone would leave the range of numbers */
            most[r] = get(y, j) > most[r] ? get(y, j) : most[r];
        }
        for (int j = first; j < first + P; j++) {
            const double e = exp(get(y, j) - most[r]);
            sum += e, loss += get(dout, j) * e;
        }
        sums[r] = sum;
        for (int j = first; j < first + P; j++) {
            const number e = cexp(get(y, j) - most[r] + STEP * _Complex_I);
            o[j] = creal(e) / sum;
            ds[j] = cimag((loss + get(dout, j) * (e - creal(e))) / (sum + e - creal(e))) / STEP;
        }
    }
    void *back = array(N * P), *scaled = copy(y, N * P);
    double parts[N][2];
    leaf->softmax(scaled, parts, N, P, 0.25);
    leaf->softmax(y, NULL, N, P, 1);
    check_all("softmax", y, o, N * P);
    for (int r = 0; r < N; r++) {
        check("softmax, largest", parts[r][0], most[r]);
        check("softmax, sum", parts[r][1], sums[r]);
        for (int j = r * P; j < (r + 1) * P; j++)
            check("softmax, scaled", get(scaled, j), o[j] / 4);
    }
    leaf->softmax_backward(back, dout, y, N, P);
    check_all("softmax_backward", back, ds, N * P);
    release(0);
}

static void check_lstm(int H, int peephole)
{
    static double h[N * MAX], c[N * MAX], gates[N * 4 * MAX], dgates[N * 4 * MAX], dc_before[N * MAX], flow[N * MAX];
    const void *a = draw((long)N * 4 * H, 3), *b = draw(4 * H, 1), *c_before = draw(N * H, 2), *w = draw(3 * H, 1);
    const void *dh = draw(N * H, 1), *dc = draw(N * H, 1);
    for (int r = 0; r < N; r++)
        for (int j = 0; j < H; j++)
            for (int k = 0; k < 5; k++) { /* of the gates' sums and c_before, the one whose slope is wanted */
                const double w_j[] = {get(w, j), get(w, H + j), get(w, 2 * H + j)}, none[3] = {0};
                const long i = r * H + j, row = (long)r * 4 * H + j;
                number a_t[4], c_t, h_t, before = get(c_before, i);
                for (int g = 0; g < 4; g++)
                    a_t[g] = get(a, row + g * H) + get(b, g * H + j);
                *(k < 4 ? &a_t[k] : &before) += STEP * _Complex_I;
                h_t = lstm(a_t, before, peephole ? w_j : none, &c_t);
                *(k < 4 ? &dgates[row + k * H] : &dc_before[i]) = cimag(get(dh, i) * h_t + get(dc, i) * c_t) / STEP;
                h[i] = creal(h_t), c[i] = creal(c_t);
                for (int g = 0; g < 4; g++)
                    gates[row + g * H] = creal(a_t[g]);
                if (k == 3) { /* c_t acts through c_{t+1}, h_t, and o_t's peephole, whose slope is known by now */
                    const double tanh_c = tanh(c[i]), o_t = gates[row + 3 * H];
                    flow[i] = get(dc, i) + get(dh, i) * o_t * (1 - tanh_c * tanh_c);
                    flow[i] += peephole ? w_j[2] * dgates[row + 3 * H] : 0;
                }
            }
    void *out = array(N * H), *c_out = array(N * H), *gates_out = copy(a, (long)N * 4 * H);
    leaf->lstm_forward(out, c_out, gates_out, c_before, b, peephole ? w : NULL, N, H);
    check_all("lstm_forward h", out, h, N * H);
    check_all("lstm_forward c", c_out, c, N * H);
    check_all("lstm_forward gates", gates_out, gates, (long)N * 4 * H);
    void *back = array((long)N * 4 * H), *dc_out = copy(dc, N * H), *flow_out = array(N * H);
    for (int part = 0; part < 2; part++) {
        const int u = part ? H / 2 : 0, units = part ? H - u : H / 2;
        leaf->lstm_backward(at(back, u), 4 * H, at(dc_out, u), at(flow_out, u), at(dh, u), at(gates_out, u), at(c_out, u), at(c_before, u),
                            peephole ? at(w, u) : NULL, N, H, units);
    }
    check_all("lstm_backward c", flow_out, flow, N * H);
    check_all("lstm_backward gates", back, dgates, (long)N * 4 * H);
    check_all("lstm_backward c_before", dc_out, dc_before, N * H);
    release(0);
}

static void check_gru(int H)
{
    static double h[N * MAX], gates[N * 4 * MAX], dgates[N * 4 * MAX], dh_before[N * MAX];
    const void *a = draw((long)N * 4 * H, 3), *b = draw(4 * H, 1), *h_before = draw(N * H, 2), *dh = draw(N * H, 1);
    for (int r = 0; r < N; r++)
        for (int j = 0; j < H; j++)
            for (int k = 0; k < 5; k++) {
                const long i = r * H + j, row = (long)r * 4 * H + j;
                number a_t[4], h_t, before = get(h_before, i);
                for (int g = 0; g < 4; g++)
                    a_t[g] = get(a, row + g * H) + get(b, g * H + j);
                *(k < 4 ? &a_t[k] : &before) += STEP * _Complex_I;
                h_t = gru(a_t, before);
                *(k < 4 ? &dgates[row + k * H] : &dh_before[i]) = get(dh, i) * cimag(h_t) / STEP;
                h[i] = creal(h_t);
                for (int g = 0; g < 4; g++)
                    gates[row + g * H] = creal(a_t[g]);
            }
    void *out = array(N * H), *gates_out = copy(a, (long)N * 4 * H);
    leaf->gru_forward(out, gates_out, h_before, b, N, H);
    check_all("gru_forward", out, h, N * H);
    check_all("gru_forward gates", gates_out, gates, (long)N * 4 * H);
    void *back = array((long)N * 4 * H), *dh_out = copy(dh, N * H);
    for (int part = 0; part < 2; part++) {
        const int u = part ? H / 2 : 0, units = part ? H - u : H / 2;
        leaf->gru_backward(at(back, u), 4 * H, at(dh_out, u), at(gates_out, u), at(h_before, u), N, H, units);
    }
    check_all("gru_backward gates", back, dgates, (long)N * 4 * H);
    check_all("gru_backward h_before", dh_out, dh_before, N * H);
    release(0);
}

/* n's sum is drawn whole: the product with r * h_before is not the kernels' own. So is drh, the gradient of the latter. */
static void check_gru_original(int H)
{
    static double h[N * MAX], rh[N * MAX], gates[N * 3 * MAX], dgates[N * 3 * MAX], dh_before[N * MAX];
    const void *a = draw((long)N * 3 * H, 3), *b = draw(3 * H, 1), *h_before = draw(N * H, 2);
    const void *dh = draw(N * H, 1), *drh = draw(N * H, 1);
    for (int r = 0; r < N; r++)
        for (int j = 0; j < H; j++)
            for (int k = 0; k < 4; k++) {
                const long i = r * H + j, row = (long)r * 3 * H + j;
                number a_t[3], h_t, before = get(h_before, i);
                for (int g = 0; g < 3; g++)
                    a_t[g] = get(a, row + g * H) + get(b, g * H + j);
                *(k < 3 ? &a_t[k] : &before) += STEP * _Complex_I;
                h_t = gru_original(a_t, before);
                *(k < 3 ? &dgates[row + k * H] : &dh_before[i]) =
                    cimag(get(dh, i) * h_t + get(drh, i) * a_t[0] * before) / STEP;
                h[i] = creal(h_t), rh[i] = creal(a_t[0] * before);
                for (int g = 0; g < 3; g++)
                    gates[row + g * H] = creal(a_t[g]);
            }
    void *out = array(N * H), *rh_out = array(N * H), *gates_out = copy(a, (long)N * 3 * H);
    leaf->gru_reset(rh_out, gates_out, h_before, b, N, H);
    check_all("gru_reset", rh_out, rh, N * H);
    leaf->gru_new(out, gates_out, h_before, b, N, H);
    check_all("gru_new", out, h, N * H);
    check_all("gru_new gates", gates_out, gates, (long)N * 3 * H);
    void *back = array((long)N * 3 * H), *dh_out = copy(dh, N * H);
    for (int part = 0; part < 2; part++) {
        const int u = part ? H / 2 : 0, units = part ? H - u : H / 2;
        leaf->gru_new_backward(at(back, u), 3 * H, at(dh_out, u), at(gates_out, u), at(h_before, u), N, H, units);
        leaf->gru_reset_backward(at(back, u), 3 * H, at(dh_out, u), at(drh, u), at(gates_out, u), at(h_before, u), N, H, units);
    }
    check_all("gru_backward, reset before: gates", back, dgates, (long)N * 3 * H);
    check_all("gru_backward, reset before: h_before", dh_out, dh_before, N * H);
    release(0);
}

/* --- maps, limits ------------------------------------------------------------------------------------------------- */

static void check_map(const char *what, map_function map, number (*f)(number), double scale, int n)
{
    const void *x = draw(n, 5);
    void *y = array(n), *in_place = copy(x, n);
    map(y, x, n);
    map(in_place, in_place, n);
    for (int i = 0; i < n; i++) {
        check(what, get(y, i), creal(f(get(x, i) / scale)));
        check(what, get(in_place, i), get(y, i));
    }
    release(0);
}

/* A vector of a panel; strips; and gradients' products, written and added to, rows of all arrays apart; with matrices as they are and
   in strips, from either end. */
static void check_products(int P, int K)
{
    const int width = leaf->width, rows = P < width ? P : width, step = 2 * width;
    const int W_row = K + 2;
    const void *W = draw((long)(rows - 1) * W_row + K, 1);
    for (int far = 0; far < 2; far++) {
        void *vector = array((long)(K - 1) * step + width);
        leaf->pack(vector, W, W_row, rows, K, step, 2 * LOG2E, far);
        for (int k = 0; k < K; k++)
            for (int lane = 0; lane < width; lane++)
                check("pack", get(vector, (long)k * step + lane), lane < rows ? get(W, (long)lane * W_row + k) * 2 * LOG2E : 0);
    }

    const int a_row = K + 2, b_row = P + 3, out_row = P + 1;
    for (int n = 1; n <= 2 * N; n += n < 8 ? 1 : 3) {
        const void *a = draw((long)(n - 1) * a_row + K, 1), *b = draw((long)(K - 1) * b_row + P, 1);
        const void *c = draw((long)(n - 1) * b_row + P, 1), *before = draw((long)(n > K ? n : K) * out_row, 1);
        const int mark = used;
        for (int add = 0; add < 2; add++, release(mark)) {
            void *out = copy(before, (long)(n - 1) * out_row + P);
            const int strip = 4 * width, p = P / 2; /* in two parts of the columns */
            leaf->inner(out, out_row, a, a_row, b, b_row, strip, 0, p, n, K, add, 0);
            leaf->inner(out, out_row, a, a_row, b, b_row, strip, p, p, n, K, add, 0);
            leaf->inner(out, out_row, a, a_row, b, b_row, strip, p, P, n, K, add, 1);
            for (int r = 0; r < n; r++)
                for (int j = 0; j < P; j++) {
                    double sum = add ? get(before, (long)r * out_row + j) : 0;
                    for (int k = 0; k < K; k++)
                        sum += get(a, (long)r * a_row + k) * get(b, (long)k * b_row + j);
                    check("inner", get(out, (long)r * out_row + j), sum);
                }
            const long strips_size = (long)(P + strip - 1) / strip * strip * K;
            void *strips = array(strips_size), *made = array(strips_size), *same = copy(before, (long)(n - 1) * out_row + P);
            for (int j = 0; j < P; j++)
                for (int k = 0; k < K; k++)
                    put(strips, (long)j / strip * strip * K + (long)k * strip + j % strip, get(b, (long)k * b_row + j));
            for (int part = 0; part < 2; part++) /* of the rows */
                leaf->strips(made, b, b_row, K, P, part ? K / 2 : 0, part ? K : K / 2, add);
            check_true("strips", !memcmp(made, strips, bytes(strips_size))); /* what the last one lacks is not set */
            leaf->inner(same, out_row, a, a_row, strips, strip, (ptrdiff_t)strip * K, 0, P, n, K, add, add);
            for (int r = 0; r < n; r++)
                for (int j = 0; j < P; j++) /* the same chains, whole vectors or not */
                    check_true("inner, strips", get(same, (long)r * out_row + j) == get(out, (long)r * out_row + j));
            out = copy(before, (long)(K - 1) * out_row + P);
            const int m = K / 3; /* in two parts of the rows */
            void *side = array(leaf->copies(a_row, P, n) * strip);
            leaf->outer(out, out_row, a, a_row, c, b_row, P, m, K, n, add, side, 1);
            leaf->outer(out, out_row, a, a_row, c, b_row, P, 0, m, n, add, NULL, 0);
            for (int k = 0; k < K; k++)
                for (int j = 0; j < P; j++) {
                    double sum = add ? get(before, (long)k * out_row + j) : 0;
                    for (int r = 0; r < n; r++)
                        sum += get(a, (long)r * a_row + k) * get(c, (long)r * b_row + j);
                    check("outer", get(out, (long)k * out_row + j), sum);
                }
        }
        release(0);
    }
    release(0);
}

/* A weight matrix's gradient whose rows are copied, some or more than are copied at once, or not quite. */
static void check_wide_product(int P, int M, int n)
{
    const int a_row = M + 3, b_row = P + 5;
    const long most = leaf->copies(a_row, P, n);
    const void *a = draw((long)n * a_row, 1), *b = draw((long)n * b_row, 1), *before = draw((long)M * P, 1);
    for (int add = 0; add < 2; add++) {
        const int strips = 2 + add;
        void *out = copy(before, (long)M * P), *side = array(most * strips * 4 * leaf->width);
        leaf->outer(out, P, a, a_row, b, b_row, P, 0, M, n, add, side, strips);
        for (int k = 0; k < M; k++)
            for (int j = 0; j < P; j++) {
                double sum = add ? get(before, (long)k * P + j) : 0;
                for (int r = 0; r < n; r++)
                    sum += get(a, (long)r * a_row + k) * get(b, (long)r * b_row + j);
                check("outer, copied", get(out, (long)k * P + j), sum);
            }
    }
    release(0);
}

/* A product that is taken in parts, because its matrix would not stay in the last level: of one row or two, with a matrix as it is or
   in strips, from either end. */
static void check_large_product(int n, int in_strips, int backwards)
{
    const int K = 300, strip = 4 * leaf->width, P = 3 * strip - 1, out_row = 2 * LAST_LEVEL_BYTES / K / (int)bytes(1);
    const void *a = draw(n * K, 1), *b = draw((long)K * (P + 1), 1); /* rows of P + 1 numbers, three strips */
    void *strips = array((long)K * (P + 1)), *out = array((long)(n - 1) * out_row + P);
    for (long j = 0; j < P + 1; j++)
        for (int k = 0; k < K; k++)
            put(strips, j / strip * strip * K + (long)k * strip + j % strip, get(b, k * (P + 1L) + j));
    for (int add = 0; add < 2; add++) {
        leaf->inner(out, out_row, a, K, in_strips ? strips : b, in_strips ? strip : P + 1, in_strips ? (ptrdiff_t)strip * K : strip, 0, P,
                    n, K, add, backwards);
        for (int r = 0; r < n; r++)
            for (int j = 0; j < P; j++) {
                double sum = 0;
                for (int k = 0; k < K; k++)
                    sum += get(a, r * K + k) * get(b, k * (P + 1L) + j);
                check("inner, large", get(out, (long)r * out_row + j), (1 + add) * sum);
            }
    }
    release(0);
}

/* Rows added, their sums, and their products with a vector. */
static void check_rows(int n, int m)
{
    const int a_row = m + 3, out_row = m + 1;
    const void *v = draw(m, 1), *rows = draw((long)n * m, 1);
    void *dots = array(n);
    leaf->dots(dots, v, rows, n, m);
    for (int r = 0; r < n; r++) {
        double sum = 0;
        for (int j = 0; j < m; j++)
            sum += get(v, j) * get(rows, (long)r * m + j);
        check("dots", get(dots, r), sum);
    }
    const void *a = draw((long)(n - 1) * a_row + m, 1), *before = draw((long)(n - 1) * out_row + m, 1);
    void *out = copy(before, (long)(n - 1) * out_row + m), *sums = array(m);
    leaf->add_rows(out, out_row, a, a_row, n, m);
    leaf->sum_rows(sums, a, a_row, n, m);
    for (int j = 0; j < m; j++) {
        double sum = 0;
        for (int r = 0; r < n; r++) {
            const double a_rj = get(a, (long)r * a_row + j);
            check("add_rows", get(out, (long)r * out_row + j), get(before, (long)r * out_row + j) + a_rj);
            sum += a_rj;
        }
        check("sum_rows", get(sums, j), sum);
    }
    release(0);
}

/* --- training ----------------------------------------------------------------------------------------------------- */

static void check_sgd(int n, const struct sgd *s, int has_momentum)
{
    const void *before = draw(n, 2), *g = draw(n, 1), *b = draw(n, 1);
    void *w = array(n), *b_out = copy(b, n);
    leaf->sgd(w, has_momentum ? b_out : NULL, before, g, n, s);
    for (int i = 0; i < n; i++) {
        const double w_i = get(before, i), g_i = get(g, i) + s->decay * w_i;
        const double b_i = s->momentum * get(b, i) + s->gain * g_i;
        check("sgd b", get(b_out, i), has_momentum ? b_i : get(b, i));
        check("sgd w", get(w, i), w_i - s->rate * (!has_momentum ? g_i : s->nesterov ? g_i + s->momentum * b_i : b_i));
    }
    release(0);
}

static void check_adam(int n, const struct adam *s)
{
    const void *before = draw(n, 2), *g = draw(n, 1), *m = draw(n, 1), *roots = draw(n, 1);
    void *w = array(n), *m_out = copy(m, n), *v = array(n), *v_out = array(n);
    for (int i = 0; i < n; i++) {
        put(v, i, get(roots, i) * get(roots, i));
        put(v_out, i, get(v, i));
    }
    leaf->adam(w, m_out, v_out, before, g, n, s);
    for (int i = 0; i < n; i++) {
        const double w_i = get(before, i) * s->keep, g_i = get(g, i) + s->decay * w_i;
        const double m_i = s->beta_1 * get(m, i) + (1 - s->beta_1) * g_i;
        const double v_i = s->beta_2 * get(v, i) + (1 - s->beta_2) * g_i * g_i;
        check("adam m", get(m_out, i), m_i);
        check("adam v", get(v_out, i), v_i);
        check("adam w", get(w, i), w_i - s->step * m_i / (sqrt(v_i) * s->root_scale + s->epsilon));
    }
    release(0);
}

static void check_training(int n)
{
    const struct sgd sgd[] = {
        {0.1, 0, 0, 1, 0}, {0.1, 0.2, 0, 1, 0}, {0.1, 0, 0.9, 0.7, 0}, {0.1, 0.2, 0.9, 1, 1}};
    const struct adam adam[] = {
        {0.1, 0, 1, 0.9, 0.999, 2, 1e-3}, {0.1, 0.2, 1, 0.3, 0.9, 1, 1e-3}, {0.1, 0, 0.8, 0, 0.5, 1, 1e-3}};
    for (unsigned k = 0; k < sizeof sgd / sizeof *sgd; k++)
        check_sgd(n, &sgd[k], sgd[k].momentum != 0);
    for (unsigned k = 0; k < sizeof adam / sizeof *adam; k++)
        check_adam(n, &adam[k]);
    const void *x = draw(n, 2);
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += 9 * get(x, i) * get(x, i);
    check("sum_of_squares", leaf->sum_of_squares(x, n, 3), sum);
    release(0);
}

static void check_digest(digest_function digest, int n)
{
    unsigned char *x = array(n), before[DIGEST] = {0}, after[DIGEST];
    const ptrdiff_t size = (ptrdiff_t)bytes(n);
    memset(x, 1, (size_t)size);
    digest(before, x, size);
    for (ptrdiff_t i = 0; i < size; i++) {
        x[i] ^= 0x80;
        memset(after, 0, sizeof after);
        digest(after, x, size);
        check("digest", memcmp(before, after, sizeof after) != 0, 1);
        x[i] ^= 0x80;
    }
    memset(after, 0, sizeof after);
    digest(after, x, size);
    check("digest", memcmp(before, after, sizeof after), 0);
    release(0);
}

static void check_limits(void)
{
    const int n = 3 * 8 * leaf->width;
    void *chains = array(CHAINS * leaf->width), *x = array(n), *sink = array(leaf->width);
    for (int i = 0; i < CHAINS * leaf->width; i++)
        put(chains, i, 0);
    check("multiply_add", leaf->multiply_add(chains, 100), 200.0 * CHAINS * leaf->width);
    for (int i = 0; i < CHAINS * leaf->width; i++)
        check("multiply_add", get(chains, i), 2);
    for (int i = 0; i < n; i++)
        put(x, i, i < leaf->width ? i + 1 : 0); /* the rest leaves an exclusive or as it is */
    leaf->read(sink, x, n, 3);
    for (int i = 0; i < leaf->width; i++)
        check("read", get(sink, i), i + 1);
    release(0);
}

int main(void)
{
    const struct leaf *tables;
    for (int k = 0; (tables = leaf_tables(k)) != NULL; k++)
        for (wide = 0; wide < 2; wide++) {
            leaf = &tables[wide];
            for (int n = 0; n < 40; n++)
                check_map("exp", leaf->exp, cexp, 1, n < 39 ? n : 997);
            for (int n = 0; n < 40; n++)
                for (int f = 0; f < NONLINEARITIES; f++) {
                    check_map("map", leaf->map[f], functions[f], 1, n < 39 ? n : 997);
                    check_map("panel_map", leaf->panel_map[f], functions[f], rnn_scales[f], n < 39 ? n : 997);
                }
            for (unsigned s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                const int H = sizes[s][0], I = sizes[s][1], K = sizes[s][2];
                for (int f = 0; f < NONLINEARITIES; f++) {
                    check_rnn_step(f, H, I, K);
                    check_rnn_step(f, H, I, 0);
                    check_rnn(f, H);
                }
                for (int peephole = 0; peephole < 2; peephole++) {
                    check_lstm_step(H, I, K, peephole);
                    check_lstm(H, peephole);
                }
                check_gru_step(H, I);
                for (int rows = 1; rows <= 11; rows += 5)
                    check_all_steps(H, I, rows);
                check_gru_original_steps(H, I);
                check_gru(H);
                check_gru_original(H);
                check_softmax(H);
                check_products(H, I);
            }
            for (int n = 1; n < 10; n++)
                for (int m = 1; m < 40; m++)
                    check_rows(n, m);
            for (int P = 17; P < 140; P += P < 66 ? 3 : 19) /* last vectors that are cut, in strips of each width */
                check_products(P, P % 23 + 1);
            check_wide_product(70, 71, 40);
            check_wide_product(261, 71, 40);
            check_wide_product(1101, 67, 20);
            check_wide_product(1101, 67, SIDE_ROWS + 44);
            for (int way = 0; way < 8; way++)
                check_large_product(1 + (way & 1), (way & 2) != 0, (way & 4) != 0);
            for (int n = 0; n < 140; n++) {
                check_training(n < 139 ? n : 997);
                check_digest(leaf->digest, n);
                if (digest_by_aes())
                    check_digest(digest_by_aes(), n);
            }
            check_limits();
            printf("%s float%d: %d elements a vector, %d failures\n", leaf->isa, wide ? 64 : 32, leaf->width, failures);
        }
    return failures != 0;
}
