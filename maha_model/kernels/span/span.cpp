// Attention over a bounded span on the CPU: query i attends to keys (i - W, i], or |i - j| < W where it is not causal.
//
// The entry points, and how the blocks are shared out to threads. The backward pass computes the scores again from the
// saved log-sum-exp (as in FlashAttention, Dao et al. 2022).

#include "../native/operator.h"
#include "blocks.h"

namespace {

void set_strides(const Tensor& x_BHNd, int64_t& batch, int64_t& head, int64_t& row) {
    batch = x_BHNd.stride(0);
    head = x_BHNd.stride(1);
    row = x_BHNd.stride(2);
}

// What both directions read; rows of queries, keys and values are contiguous.
Arguments arguments_of(const Tensor& q, const Tensor& k, const Tensor& v, int64_t span, bool causal, int64_t threads) {
    Arguments a{};
    a.batch = v.size(0);
    a.heads = v.size(1);
    a.length = v.size(2);
    a.qk_width = q.size(3);
    a.width = v.size(3);
    a.span = span;
    a.causal = causal;
    a.threads = threads;
    a.scale = std::pow(double(a.qk_width), -0.5);
    a.q = data<const Stored>(q);
    a.k = data<const Stored>(k);
    a.v = data<const Stored>(v);
    set_strides(q, a.q_batch, a.q_head, a.q_row);
    set_strides(k, a.k_batch, a.k_head, a.k_row);
    set_strides(v, a.v_batch, a.v_head, a.v_row);
    return a;
}

void forward(Tensor q, Tensor k, Tensor v, std::optional<Tensor> wanted, int64_t span, bool causal, int64_t threads,
             Tensor out, Tensor log_sum) {
    Arguments a = arguments_of(q, k, v, span, causal, threads);
    if (wanted) a.wanted = data<const bool>(*wanted);
    a.out = data<Stored>(out);
    set_strides(out, a.out_batch, a.out_head, a.out_row);
    a.log_sum = data<Real>(log_sum);
    const int64_t blocks = (a.length + BLOCK - 1) / BLOCK, all = a.batch * a.heads * blocks;
#pragma omp parallel num_threads(a.threads)
    {
        Workspace w(a);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < all; ++i) {
            w.move_to(i / blocks / a.heads, i / blocks % a.heads, i % blocks * BLOCK);
            if (!leave_unwanted(w)) continue;
            w.load_block(w.b, w.h, w.begin);
            forward_block(w);
        }
    }
}

// Scores that one head's forward pass computes, those masked afterwards included.
int64_t scores(int64_t length, int64_t span, bool causal) {
    Arguments a{};
    a.length = length;
    a.span = span;
    a.causal = causal;
    Workspace w(a);
    int64_t scores = 0;
    for (int64_t begin = 0; begin < a.length; begin += BLOCK) {
        w.move_to(0, 0, begin);
        w.for_row_tiles([&](int64_t, int64_t rows, int64_t n0, int64_t n1) { scores += rows * (n1 - n0); });
    }
    return scores;
}

// Neighbouring chunks share keys and no others do: the even ones go first, then the odd ones add to what is there.
void backward(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor log_sum, int64_t span, bool causal, int64_t threads,
              Tensor grad_q, Tensor grad_k, Tensor grad_v) {
    Arguments a = arguments_of(q, k, v, span, causal, threads);
    a.log_sum = data<Real>(log_sum);
    a.grad_out = data<const Stored>(grad_out);
    set_strides(grad_out, a.grad_batch, a.grad_head, a.grad_row);
    a.grad_q = data<Stored>(grad_q);
    a.grad_k = data<Real>(grad_k);
    a.grad_v = data<Real>(grad_v);
    const int64_t chunk = round_up(std::max<int64_t>(2 * a.span, 4 * BLOCK), BLOCK);
    const int64_t chunks = (a.length + chunk - 1) / chunk;
#pragma omp parallel num_threads(a.threads)
    {
        Workspace w(a);
        w.prepare_backward();
        for (int64_t parity = 0; parity < 2; ++parity) {
            const int64_t some = (chunks + 1 - parity) / 2;
#pragma omp for schedule(static)
            for (int64_t i = 0; i < a.batch * a.heads * some; ++i) {
                const int64_t first = (2 * (i % some) + parity) * chunk;
                for (int64_t begin = first; begin < std::min(a.length, first + chunk); begin += BLOCK) {
                    w.load_block(i / some / a.heads, i / some % a.heads, begin);
                    backward_block(w);
                }
            }
        }
    }
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(maha_cpu, m) {
    m.def(MAHA_NAME("span_forward") "(Tensor q, Tensor k, Tensor v, Tensor? wanted, int span, bool causal, int threads, "
          "Tensor(a!) out, Tensor(b!) log_sum) -> ()");
    m.def(MAHA_NAME("span_backward") "(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor log_sum, int span, "
          "bool causal, int threads, Tensor(a!) grad_q, Tensor(b!) grad_k, Tensor(c!) grad_v) -> ()");
    m.def(MAHA_NAME("span_scores") "(int length, int span, bool causal) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(maha_cpu, CPU, m) {
    m.impl(MAHA_NAME("span_forward"), TORCH_BOX(&forward));
    m.impl(MAHA_NAME("span_backward"), TORCH_BOX(&backward));
}

STABLE_TORCH_LIBRARY_IMPL(maha_cpu, CompositeExplicitAutograd, m) {
    m.impl(MAHA_NAME("span_scores"), TORCH_BOX(&scores));
}
