// The greatest and the least entries of blocks of rows on the CPU, one scale from the next finer one.
//
// operator.py has the definition. A source is rows of keys, whose entries are both the greatest and the least, or rows
// of bounds. Coarse rows are shared out to threads; each writes the gradients of the rows that it covers.

#include "../native/lanes.h"
#include "../native/operator.h"

namespace {

struct Scale {
    int64_t batch, heads, tokens, width, ratio;  // coarse tokens; entries of a key
    bool from_bounds;
    const Stored* source;
    int64_t source_batch, source_head, source_row;
    const Stored* rows(int64_t i) const {  // the first that coarse row i of (B, H, tokens) covers
        const int64_t head = i / tokens;
        return source + head / heads * source_batch + head % heads * source_head + i % tokens * ratio * source_row;
    }
    int64_t least() const { return from_bounds ? width : 0; }  // where the source's least entries begin
};

Scale scale_of(const Tensor& source, const Tensor& bounds, int64_t ratio, bool from_bounds) {
    return {bounds.size(0), bounds.size(1), bounds.size(2), bounds.size(3) / 2, ratio, from_bounds,
            data<const Stored>(source), source.stride(0), source.stride(1), source.stride(2)};
}

template <class F>
void for_rows(const Scale& s, int64_t threads, F&& act) {
    const int64_t all = s.batch * s.heads * s.tokens;
#pragma omp parallel for schedule(static) num_threads(std::max<int64_t>(1, std::min(threads, all)))
    for (int64_t i = 0; i < all; ++i) act(i);
}

void forward(Tensor source, int64_t ratio, bool from_bounds, int64_t threads, Tensor bounds) {
    const Scale s = scale_of(source, bounds, ratio, from_bounds);
    Stored* out = data<Stored>(bounds);
    for_rows(s, threads, [&](int64_t i) {
        const Stored* rows = s.rows(i);
        Stored* to = out + i * 2 * s.width;
        for (int64_t c = 0; c < s.width; c += LANES) {
            Vec greatest = load_part(rows, c, s.width), least = load_part(rows + s.least(), c, s.width);
            for (int64_t r = 1; r < ratio; ++r) {
                const Stored* row = rows + r * s.source_row;
                const Vec x = load_part(row, c, s.width), y = load_part(row + s.least(), c, s.width);
                greatest = x > greatest ? x : greatest;
                least = y < least ? y : least;
            }
            store_part(to, c, s.width, greatest);
            store_part(to + s.width, c, s.width, least);
        }
    });
}

// Add a bound's gradient to those of the rows that have it, in equal parts: `to` is as the source, contiguous.
inline void pass_back(const Stored* rows, int64_t stride, int64_t ratio, Vec bound, Vec grad, int64_t c, int64_t width,
                      Real* to, int64_t to_stride) {
    Vec count = splat(0);
    for (int64_t r = 0; r < ratio; ++r) count += load_part(rows + r * stride, c, width) == bound ? splat(1) : splat(0);
    const Vec part = grad / (count > splat(0) ? count : splat(1));  // none with a NaN
    Real lanes[LANES];
    for (int64_t r = 0; r < ratio; ++r) {
        const Vec added = load_part(rows + r * stride, c, width) == bound ? part : splat(0);
        Real* row = to + r * to_stride + c;
        if (c + LANES <= width) {
            store(row, load(row) + added);
            continue;
        }
        store(lanes, added);
        for (int64_t lane = 0; lane < width - c; ++lane) row[lane] += lanes[lane];
    }
}

inline Vec load_real(const Real* row, int64_t c, int64_t width) {
    if (c + LANES <= width) return load(row + c);
    Real lanes[LANES] = {};
    std::copy(row + c, row + width, lanes);
    return load(lanes);
}

void backward(Tensor grad, Tensor source, Tensor bounds, int64_t ratio, bool from_bounds, int64_t threads, Tensor out) {
    const Scale s = scale_of(source, bounds, ratio, from_bounds);
    const Stored* bound = data<const Stored>(bounds);
    const Real* given = data<const Real>(grad);
    const int64_t row = (from_bounds ? 2 : 1) * s.width, source_tokens = out.size(2);
    Real* to = data<Real>(out);
    for_rows(s, threads, [&](int64_t i) {
        const Stored *rows = s.rows(i), *own = bound + i * 2 * s.width;
        const Real* own_grad = given + i * 2 * s.width;
        Real* covered = to + (i / s.tokens * source_tokens + i % s.tokens * ratio) * row;
        for (int64_t part = 0; part < 2; ++part) {
            const int64_t past = part * s.width, at = part * s.least();
            for (int64_t c = 0; c < s.width; c += LANES)
                pass_back(rows + at, s.source_row, ratio, load_part(own + past, c, s.width),
                          load_real(own_grad + past, c, s.width), c, s.width, covered + at, row);
        }
    });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(maha_cpu, m) {
    m.def(MAHA_NAME("bounds_forward") "(Tensor source, int ratio, bool from_bounds, int threads, Tensor(a!) bounds) -> ()");
    m.def(MAHA_NAME("bounds_backward") "(Tensor grad, Tensor source, Tensor bounds, int ratio, bool from_bounds, "
          "int threads, Tensor(a!) out) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(maha_cpu, CPU, m) {
    m.impl(MAHA_NAME("bounds_forward"), TORCH_BOX(&forward));
    m.impl(MAHA_NAME("bounds_backward"), TORCH_BOX(&backward));
}
