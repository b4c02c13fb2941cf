/* A cell's step from packed weights: its sums over x and h, panel by panel, batches of them for the cell's functions, and several
   steps in one go. */

/* Panels times rows whose sums are formed before the cell's functions are applied to them: several panels where there
   are few rows. */
#define BATCH (2 * TILE_ROWS)

/* Vectors of a batch of n rows, unless fewer are left */
INLINE ptrdiff_t NAME(batch)(ptrdiff_t n)
{
    return n <= TILE_ROWS ? BATCH / (unsigned)n * 4 : 4;
}

/* Panels of so many vectors, and the vector that the p-th begins with */
INLINE ptrdiff_t NAME(panels)(ptrdiff_t vectors)
{
    return vectors / 4 + (vectors & 3) / 2 + (vectors & 1);
}

INLINE ptrdiff_t NAME(panel_start)(ptrdiff_t vectors, ptrdiff_t p)
{
    return p <= vectors / 4 ? 4 * p : vectors / 4 * 4 + 2;
}

/* The panel that begins with vector `next`, if tiles are to fetch it. With 16 registers a single tile, which itself reads each
   panel from far, would wait for both, unless they come from memory. */
INLINE const real *NAME(ahead)(const struct panel_step *s, const real *panels, ptrdiff_t next, ptrdiff_t K)
{
    return next < 0 || (REGISTERS == 16 && s->n <= TILE_ROWS && !s->far) ? NULL : panels + next * WIDTH * K;
}

/* How many terms of h_before `begin` has added to the panel at vector `at`. */
INLINE ptrdiff_t NAME(begun)(const struct panel_step *s, ptrdiff_t at)
{
    return at >= s->begun_0 && at < s->begun_1 ? s->begun : 0;
}

/* Terms of sums over one panel of `vectors`, the at-th of all, for the rows from r on: those of x, and those of h_before from the k-th
   on. `next` is the panel whose weights are fetched meanwhile, or negative. */
INLINE struct NAME(terms) NAME(terms_x)(const struct panel_step *s, ptrdiff_t r, ptrdiff_t at, ptrdiff_t vectors, ptrdiff_t next)
{
    const real *panels = s->panels_ih;
    return NAME(terms_of)((const real *)s->x + r * s->I, s->I, s->I, 0, panels + at * WIDTH * s->I, vectors,
                          NAME(ahead)(s, panels, next, s->I));
}

INLINE struct NAME(terms) NAME(terms_h)(const struct panel_step *s, ptrdiff_t r, ptrdiff_t k, ptrdiff_t at, ptrdiff_t vectors,
                                        ptrdiff_t next)
{
    const real *panels = s->panels;
    return NAME(terms_of)((const real *)s->h_before + r * s->K, s->K, s->K, k, panels + at * WIDTH * s->K, vectors,
                          NAME(ahead)(s, panels, next, s->K));
}

/* Sums over one panel for `rows` rows from r on: z, or bias + x W^T if the step has x, and then + h_before U^T if `recurrent`.
   With 32 registers those of both are one tile's. */
INLINE void NAME(panel_sums)(const struct panel_step *s, const int recurrent, real *out, ptrdiff_t r, ptrdiff_t rows,
                             ptrdiff_t at, ptrdiff_t vectors, ptrdiff_t next, ptrdiff_t tile)
{
    const real *z = out;
    if (s->x) {
        struct NAME(terms) more;
        const int both = REGISTERS == 32 && recurrent;
        if (both)
            more = NAME(terms_h)(s, r, 0, at, vectors, next);
        NAME(tile)(rows, vectors, out, (const real *)s->bias + at * WIDTH, 0, NAME(terms_x)(s, r, at, vectors, next),
                   both ? &more : NULL, s->n, tile);
        if (both)
            return;
    } else {
        z = (const real *)s->z + (at * s->rows + (s->row + r) * vectors) * WIDTH;
        if (REGISTERS == 16 && next >= 0 && vectors == 4)
            NAME(fetch)((const real *)s->z + (next * s->rows + (s->row + r) * 4) * WIDTH, rows * 4 * WIDTH);
    }
    if (recurrent)
        NAME(tile)(rows, vectors, out, z, vectors * WIDTH, NAME(terms_h)(s, r, NAME(begun)(s, at), at, vectors, next), NULL, s->n,
                   tile);
}

/* The same for one row, and the panel behind as well, both of 4 vectors. */
INLINE void NAME(pair_sums)(const struct panel_step *s, real *out, ptrdiff_t r, ptrdiff_t at)
{
    const struct NAME(terms) h = NAME(terms_h)(s, r, NAME(begun)(s, at), at, 4, -1);
    const real *z = out;
    ptrdiff_t apart = 4 * WIDTH;
    if (s->x) {
        const struct NAME(terms) x = NAME(terms_x)(s, r, at, 4, -1);
        NAME(tile_pair)(out, (const real *)s->bias + at * WIDTH, apart, &x);
    } else {
        z = (const real *)s->z + (at * s->rows + (s->row + r) * 4) * WIDTH;
        apart *= s->rows;
    }
    NAME(tile_pair)(out, z, apart, &h);
}

/* The same for one row and the last panels from vector `at` on, one of 4 vectors perhaps and `left` that are fewer: one after the
   other each would wait for its chain. First of x, if the step has it, then of h. */
INLINE void NAME(last_sums)(const struct panel_step *s, real *out, ptrdiff_t r, ptrdiff_t at, ptrdiff_t fours, ptrdiff_t left)
{
    static const NAME(parts_function) with_four[3] = {NAME(parts_4_1_0), NAME(parts_4_2_0), NAME(parts_4_2_1)};
    for (int of_x = s->x != NULL; of_x >= 0; of_x--) {
        const ptrdiff_t K = of_x ? s->I : s->K, k = of_x ? 0 : NAME(begun)(s, at);
        const real *a = (const real *)(of_x ? s->x : s->h_before) + r * K, *panels = of_x ? s->panels_ih : s->panels;
        struct NAME(part) parts[3];
        for (ptrdiff_t v = at, count, p = 0; v < at + 4 * fours + left; v += count, p++) {
            count = NAME(panel_vectors)(at + 4 * fours + left - v);
            parts[p].panel = panels + (v * K + k * (count < ABREAST ? count : ABREAST)) * WIDTH;
            parts[p].out = out + (v - at) * WIDTH;
            parts[p].init = of_x   ? (const real *)s->bias + v * WIDTH
                            : s->x ? parts[p].out
                                   : (const real *)s->z + (v * s->rows + (s->row + r) * count) * WIDTH;
        }
        (fours ? with_four[left - 1] : NAME(parts_2_1_0))(parts, a + k, K - k, ABREAST * WIDTH * K);
    }
}

/* z += the first `begun` terms of h_before: the step of the same rows goes on from there. The last panel's sums are the
   time to fetch the other terms, which another member may have written by now. */
static void NAME(begin)(const struct panel_step *s, ptrdiff_t gates, ptrdiff_t sums)
{
    for (ptrdiff_t v = s->v_0, count; v < s->v_1; v += count) {
        count = NAME(panel_vectors)(s->v_1 - v);
        for (ptrdiff_t at = v * gates; at < v * gates + count * sums; at += count)
            for (ptrdiff_t r = 0, rows; r < s->n; r += rows) {
                rows = NAME(tile_rows)(s->n - r);
                if (v + count == s->v_1 && rows * (s->K - s->begun) <= SMALL_BYTES / (ptrdiff_t)sizeof(real))
                    for (ptrdiff_t q = r; q < r + rows; q++)
                        NAME(fetch)((const real *)s->h_before + q * s->K + s->begun, s->K - s->begun);
                real *z = (real *)s->z + (at * s->rows + (s->row + r) * count) * WIDTH;
                struct NAME(terms) terms = NAME(terms_h)(s, r, 0, at, count, -1);
                terms.K = s->begun;
                NAME(tile)(rows, count, z, z, count * WIDTH, terms, NULL, s->n, 0);
            }
    }
}

/* Fetch what comes from far while the sums of `rows` rows from r on are formed: the next tile's rows of x, at the first
   batch of vectors, and those of y for the cell to write, from unit u on as many as the batch has; and from the other
   members' caches what they have written of h_before, or it would come a line after the other, and what they have read of
   h, or it would go only when it is written. */
INLINE void NAME(fetch_rows)(const struct panel_step *s, ptrdiff_t r, ptrdiff_t rows, int first, ptrdiff_t u,
                             ptrdiff_t units)
{
    if (s->panels && s->shared && first && rows * s->K <= SMALL_BYTES / (ptrdiff_t)sizeof(real))
        NAME(fetch)((const real *)s->h_before + r * s->K, rows * s->K);
    for (ptrdiff_t q = r; s->shared && q < r + rows; q++)
        for (ptrdiff_t j = u; j < u + units && j < s->H; j += 64 / sizeof(real))
            __builtin_prefetch((const real *)s->h + q * s->H + j, 1, 3);
    if (s->y && rows > 2)
        for (ptrdiff_t q = r; q < r + rows; q++)
            NAME(fetch)((const real *)s->y + q * s->y_stride + u, units < s->H - u ? units : s->H - u);
    if (s->x && first)
        NAME(fetch)((const real *)s->x + (r + rows) * s->I,
                    (s->n - r - rows < TILE_ROWS ? s->n - r - rows : TILE_ROWS) * s->I);
}

/* The sums of one row and a batch of vectors from v on: two panels of 4 at a time, and the last one with what is left. Panels that
   begin with different numbers of terms go one by one. */
static void NAME(recur_row)(const struct panel_step *s, real *sums, ptrdiff_t r, ptrdiff_t v, ptrdiff_t vectors)
{
    const ptrdiff_t pairs = vectors / 8, rest = vectors & 7, goes = pairs + (rest > 0);
    for (ptrdiff_t k = 0; k < goes; k++) {
        const ptrdiff_t first = 8 * (s->backwards ? goes - 1 - k : k), size = first < 8 * pairs ? 8 : rest, left = size & 3;
        const int alike = NAME(begun)(s, v + first) == NAME(begun)(s, v + first + size - 1);
        if (size == 8 && alike)
            NAME(pair_sums)(s, sums + first * WIDTH, r, v + first);
        else if (left && size > 2 && alike)
            NAME(last_sums)(s, sums + first * WIDTH, r, v + first, size / 4, left);
        else
            for (ptrdiff_t p = first, width; p < first + size; p += width) {
                width = NAME(panel_vectors)(first + size - p);
                NAME(panel_sums)(s, 1, sums + p * WIDTH, r, 1, v + p, width, -1, 0);
            }
    }
}

/* The sums of `rows` rows from r on, at most a tile's, and a batch of vectors from v on: each panel's sums
   [rows][vectors][WIDTH] after the other's. */
static inline void NAME(recur)(const struct panel_step *s, real *sums, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t v,
                               ptrdiff_t vectors, ptrdiff_t u, ptrdiff_t units)
{
    NAME(fetch_rows)(s, r, rows, v == (s->backwards ? s->v_1 - vectors : s->v_0), u, units);
    const ptrdiff_t count = NAME(panels)(vectors), tile = (r + TILE_ROWS - 1) / TILE_ROWS;
    if (VECTOR_BYTES > 16 && rows == 1 && s->panels) {
        NAME(recur_row)(s, sums, r, v, vectors);
        return;
    }
    for (ptrdiff_t k = 0; k < count; k++) {
        const ptrdiff_t p = NAME(panel_start)(vectors, s->backwards ? count - 1 - k : k);
        const ptrdiff_t width = NAME(panel_vectors)(vectors - p), next = v + p + (s->backwards ? -4 : 4);
        NAME(panel_sums)(s, s->panels != NULL, sums + p * rows * WIDTH, r, rows, v + p, width,
                         next >= s->v_0 && next + 4 <= s->v_1 ? next : -1, tile);
    }
}

/* A cell's function of four sums, and where h and y take it. Vectors as arguments are in registers. */
typedef void (*NAME(four_function))(real *h, real *y, V a_0, V a_1, V a_2, V a_3);

/* Whether a step's sums can stay in registers until that function: those of one row and of one or two whole panels, which begin with
   as many terms. With 16 registers those of x and of h are two tiles'. The generic kernels are to be small. */
INLINE int NAME(in_registers)(const struct panel_step *s)
{
    const ptrdiff_t vectors = s->v_1 - s->v_0;
    return VECTOR_BYTES > 16 && s->n == 1 && (vectors == 4 || vectors == 8) && s->panels && s->H >= s->v_1 * WIDTH &&
           (REGISTERS == 32 || !s->x) && NAME(begun)(s, s->v_0) == NAME(begun)(s, s->v_1 - 4);
}

/* Such a step; of two panels, the first one's sums wait in memory for the second one's function. */
static __attribute__((noinline)) void NAME(register_step)(const struct panel_step *s, NAME(four_function) four)
{
    const ptrdiff_t at = s->v_0;
    const struct NAME(terms) h = NAME(terms_h)(s, 0, NAME(begun)(s, at), at, 4, -1),
                             x = s->x ? NAME(terms_x)(s, 0, at, 4, -1) : h, *more = s->x ? &h : NULL;
    const real *init = s->x ? (const real *)s->bias + at * WIDTH : (const real *)s->z + (at * s->rows + s->row * 4) * WIDTH;
    real *to = (real *)s->h + at * WIDTH, *y = s->y ? (real *)s->y + at * WIDTH : to;
    V a[8];
    if (s->v_1 - at == 4) {
        NAME(sums_of)(1, 4, 4, 0, 0, a, init, 0, x, more);
    } else {
        NAME(sums_of)(1, 8, 8, 0, 0, a, init, s->x ? 4 * WIDTH : s->rows * 4 * WIDTH, x, more);
        four(to + 4 * WIDTH, y + 4 * WIDTH, a[4], a[5], a[6], a[7]);
    }
    four(to, y, a[0], a[1], a[2], a[3]);
}

/* Run the statements for every batch of a step, `vectors` from v on, and its rows, `rows` from r on, with `sums`. */
#define FOR_BATCHES(s, SUMS, SIZE, ...)                                                                                \
    do {                                                                                                               \
        real sums[(SUMS) * WIDTH] __attribute__((aligned(64)));                                                        \
        const ptrdiff_t size = SIZE, all_ = (s)->v_1 - (s)->v_0, batches = all_ <= size ? 1 : (all_ + size - 1) / size; \
        for (ptrdiff_t b = 0; b < batches; b++) {                                                                      \
            const ptrdiff_t v = (s)->v_0 + ((s)->backwards ? batches - 1 - b : b) * size;                              \
            const ptrdiff_t vectors = (s)->v_1 - v < size ? (s)->v_1 - v : size;                                       \
            for (ptrdiff_t r = 0, rows; r < (s)->n; r += rows) {                                                       \
                rows = NAME(tile_rows)((s)->n - r);                                                                    \
                __VA_ARGS__                                                                                            \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

/* The next step of the same rows. */
INLINE void NAME(next_step)(struct panel_step *s)
{
    real *h = s->h, *c = s->c, *h_before = (real *)s->h_before, *c_before = (real *)s->c_before;
    const ptrdiff_t state = s->apart * s->H;
    s->h = s->kept ? h + state : h_before;
    s->h_before = h;
    if (c) {
        s->c = s->kept ? c + state : c_before;
        s->c_before = c;
    }
    if (s->x)
        s->x = (const real *)s->x + s->apart * s->I;
    if (s->y)
        s->y = (real *)s->y + s->apart * s->y_stride;
    if (s->gates)
        s->gates = (real *)s->gates + 4 * state;
    s->row += s->apart > 0 ? s->n : -s->n;
    s->backwards = !s->backwards;
}

/* All steps that `all` asks for, from a function of one. */
static __attribute__((noinline)) void NAME(take_steps)(const struct panel_step *all, panel_step_function one)
{
    struct panel_step s = *all;
    for (one(&s); --s.steps > 0; one(&s))
        NAME(next_step)(&s);
}

#define STEPS(stem)                                                                                                    \
    static void NAME(stem)(const struct panel_step *all)                                                               \
    {                                                                                                                  \
        if (all->steps > 1)                                                                                            \
            NAME(take_steps)(all, NAME(one_##stem));                                                                   \
        else                                                                                                           \
            NAME(one_##stem)(all);                                                                                     \
    }
