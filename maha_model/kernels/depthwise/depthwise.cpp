// Depthwise convolution along the sequence on the CPU: rows of channels by vectors, sums in float at least.
//
// operator.py has the definition. Rows are shared out to threads in pieces of a fixed size, and every piece leaves its
// own sums for the taps' gradient: so no result depends on the number of threads.

#include "../native/operator.h"
#include "../native/lanes.h"

namespace {

constexpr int64_t PIECE = 256;  // rows

struct Arguments {
    int64_t batch, length, outputs, width, taps, stride, dilation, left, threads;
    const Stored *x, *grad, *tap;        // (B, N, D), (B, n, D), (K, D): rows are contiguous
    int64_t x_batch, x_row, grad_batch, grad_row;
    int64_t input(int64_t j, int64_t k) const { return stride * j + dilation * k - left; }  // that output j reads
    int64_t pieces(int64_t rows) const { return (rows + PIECE - 1) / PIECE; }
    const Stored* x_at(int64_t b, int64_t i) const { return x + b * x_batch + i * x_row; }
    const Stored* grad_at(int64_t b, int64_t j) const { return grad + b * grad_batch + j * grad_row; }
};

Arguments arguments_of(const Tensor& x, const Tensor& taps, int64_t outputs, int64_t stride, int64_t dilation,
                       int64_t left, int64_t threads) {
    Arguments a{};
    a.batch = x.size(0);
    a.length = x.size(1);
    a.width = x.size(2);
    a.outputs = outputs;
    a.taps = taps.size(0);
    a.stride = stride;
    a.dilation = dilation;
    a.left = left;
    a.threads = threads;
    a.x = data<const Stored>(x);
    a.tap = data<const Stored>(taps);
    a.x_batch = x.stride(0);
    a.x_row = x.stride(1);
    return a;
}

// act(batch, first row, row past the last) for every piece of so many rows a batch entry, on several threads.
template <class F>
void for_pieces(const Arguments& a, int64_t rows, F&& act) {
    const int64_t pieces = a.pieces(rows), all = a.batch * pieces;
#pragma omp parallel for schedule(static) num_threads(std::max<int64_t>(1, std::min(a.threads, all)))
    for (int64_t i = 0; i < all; ++i) {
        const int64_t begin = i % pieces * PIECE;
        act(i / pieces, begin, std::min(rows, begin + PIECE));
    }
}

void forward(Tensor x, Tensor taps, int64_t stride, int64_t dilation, int64_t left, int64_t threads, Tensor out) {
    const Arguments a = arguments_of(x, taps, out.size(1), stride, dilation, left, threads);
    Stored* to = data<Stored>(out);
    for_pieces(a, a.outputs, [&](int64_t b, int64_t begin, int64_t end) {
        for (int64_t j = begin; j < end; ++j)
            for (int64_t c = 0; c < a.width; c += LANES) {
                Vec sum = splat(0);
                for (int64_t k = 0; k < a.taps; ++k) {
                    const int64_t i = a.input(j, k);
                    if (i < 0 || i >= a.length) continue;
                    sum += load_part(a.tap + k * a.width, c, a.width) * load_part(a.x_at(b, i), c, a.width);
                }
                store_part(to + (b * a.outputs + j) * a.width, c, a.width, sum);
            }
    });
}

// to[c] += x[c] y[c]
inline void add_product(const Stored* x, const Stored* y, int64_t width, Real* to) {
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES) store(to + c, load(to + c) + load(x + c) * load(y + c));
    for (; c < width; ++c) to[c] += widen(x[c]) * widen(y[c]);
}

// The input's gradient: what every output that reads row i passes back.
void input_gradient(const Arguments& a, Stored* to) {
    for_pieces(a, a.length, [&](int64_t b, int64_t begin, int64_t end) {
        std::vector<const Stored*> tap(a.taps), grad(a.taps);
        for (int64_t i = begin; i < end; ++i) {
            int64_t found = 0;
            for (int64_t k = 0; k < a.taps; ++k) {
                const int64_t from = i + a.left - a.dilation * k, j = from / a.stride;
                if (from < 0 || from % a.stride || j >= a.outputs) continue;
                tap[found] = a.tap + k * a.width;
                grad[found++] = a.grad_at(b, j);
            }
            for (int64_t c = 0; c < a.width; c += LANES) {
                Vec sum = splat(0);
                for (int64_t k = 0; k < found; ++k) sum += load_part(tap[k], c, a.width) * load_part(grad[k], c, a.width);
                store_part(to + (b * a.length + i) * a.width, c, a.width, sum);
            }
        }
    });
}

// Gradients of the input and, in float, of the taps: `pieces` (B * pieces, K, D), zero, takes a part of the sum a piece.
void backward(Tensor grad, Tensor x, Tensor taps, int64_t stride, int64_t dilation, int64_t left, int64_t threads,
              Tensor grad_x, Tensor pieces) {
    Arguments a = arguments_of(x, taps, grad.size(1), stride, dilation, left, threads);
    a.grad = data<const Stored>(grad);
    a.grad_batch = grad.stride(0);
    a.grad_row = grad.stride(1);
    STD_TORCH_CHECK(pieces.size(0) == a.batch * a.pieces(a.outputs), "a sum for every piece of PIECE rows");
    input_gradient(a, data<Stored>(grad_x));
    Real* sums = data<Real>(pieces);
    for_pieces(a, a.outputs, [&](int64_t b, int64_t begin, int64_t end) {
        Real* to = sums + (b * a.pieces(a.outputs) + begin / PIECE) * a.taps * a.width;
        for (int64_t j = begin; j < end; ++j)
            for (int64_t k = 0; k < a.taps; ++k) {
                const int64_t i = a.input(j, k);
                if (i >= 0 && i < a.length) add_product(a.grad_at(b, j), a.x_at(b, i), a.width, to + k * a.width);
            }
    });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(maha_cpu, m) {
    m.def(MAHA_NAME("depthwise_forward") "(Tensor x, Tensor taps, int stride, int dilation, int left, int threads, "
          "Tensor(a!) out) -> ()");
    m.def(MAHA_NAME("depthwise_backward") "(Tensor grad, Tensor x, Tensor taps, int stride, int dilation, int left, "
          "int threads, Tensor(a!) grad_x, Tensor(b!) pieces) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(maha_cpu, CPU, m) {
    m.impl(MAHA_NAME("depthwise_forward"), TORCH_BOX(&forward));
    m.impl(MAHA_NAME("depthwise_backward"), TORCH_BOX(&backward));
}
