// One scale of a descent on the CPU: attention to near tokens and to the children of chosen parents, and the next choice.
//
// The entry points, and how the blocks are shared out to threads. operator.py has the definition. Near tokens are
// computed in tiles of ROWS queries as span attention is, children by products with single rows; no more than a block's
// scores exist at once.

#include "../native/operator.h"
#include "backward.h"
#include "choice.h"
#include "forward.h"

namespace {

Rows rows_of(const Tensor& x) { return {data<const Stored>(x), x.stride(0), x.stride(1), x.stride(2)}; }

void set_geometry(Arguments& a, const std::vector<int64_t>& geometry) {  // in the order of geometry.py
    STD_TORCH_CHECK(geometry.size() == 8, "a geometry has eight numbers");
    a.factor = geometry[0];
    a.ratio = geometry[1];
    a.span = geometry[2];
    a.finer_span = geometry[3];
    a.choose = geometry[4];
    a.groups = geometry[5];
    a.start = geometry[6];
    a.shares = geometry[7];
}

// What both directions read.
Arguments arguments_of(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& parents,
                       const std::optional<Tensor>& bias, const std::vector<int64_t>& geometry, int64_t threads) {
    Arguments a{};
    set_geometry(a, geometry);
    a.batch = q.size(0);
    a.heads = q.size(1);
    a.queries = q.size(2);
    a.q_width = q.size(3);
    a.qk_width = k.size(3);
    a.tokens = k.size(2);
    a.width = v.size(3);
    a.threads = threads;
    a.scale = std::pow(double(a.q_width), -0.5);
    a.q = rows_of(q);
    a.k = rows_of(k);
    a.v = rows_of(v);
    a.whole = !parents;
    if (parents) {
        a.slots = parents->size(3);
        a.parents = data<const int32_t>(*parents);
        if (bias) a.bias = data<const Real>(*bias);
    }
    return a;
}

// Threads share the blocks of all groups of heads: a block is computed for each head of a group in turn, then chosen.
void attend(const Arguments& a) {
    const int64_t blocks = (a.queries + BLOCK - 1) / BLOCK, all = a.batch * a.groups * blocks;
#pragma omp parallel num_threads(std::max<int64_t>(1, std::min(a.threads, all)))
    {
        Workspace w(a);
        w.prepare_forward();
        Choices choices(w);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < all; ++i) {
            const int64_t group = i / blocks % a.groups;
            for (int64_t h = 0; h < a.heads_together(); ++h) {
                w.move_to(i / blocks / a.groups, group * a.heads_together() + h, i % blocks * BLOCK);
                forward_block(w);
            }
            if (a.choose) choose_block(w, choices);
        }
    }
}

void forward(Tensor q, Tensor k, Tensor v, std::optional<Tensor> parents, std::optional<Tensor> bias,
             std::optional<Tensor> wanted, std::vector<int64_t> geometry, int64_t threads, Tensor out, Tensor log_sum,
             Tensor chosen, Tensor share) {
    Arguments a = arguments_of(q, k, v, parents, bias, geometry, threads);
    if (wanted) a.wanted = data<const bool>(*wanted);
    a.out = data<Stored>(out);
    a.log_sum = data<Real>(log_sum);
    a.chosen = data<int32_t>(chosen);
    a.share = data<Real>(share);
    attend(a);
}

// All scales of one query (B, H, 1, dk) at `position`, from the coarsest down: newest.py has the definition. Of keys and
// values those finished by then are read.
void descend(Tensor position, Tensor q, std::vector<Tensor> keys, std::vector<Tensor> values, std::optional<Tensor> raises,
             std::optional<Tensor> wanted, int64_t ratio, std::vector<int64_t> spans, int64_t top, int64_t groups,
             int64_t threads, Tensor out, Tensor log_sum) {
    const int64_t levels = keys.size(), start = *data<const int64_t>(position);
    std::vector<int32_t> parents, chosen;
    std::vector<Real> bias, share;
    int64_t factor = 1;
    for (int64_t level = 1; level < levels; ++level) factor *= ratio;
    for (int64_t level = levels - 1; level >= 0; --level, factor /= ratio) {
        const int64_t span = spans[level > 0], finer_span = spans[level > 1], choose = level > 0 ? top : 0;
        Arguments a = arguments_of(q, keys[level], values[level], {}, {},
                                   {factor, ratio, span, finer_span, choose, groups, start, raises && level > 0}, threads);
        a.tokens = (start + 1) / factor;
        a.whole = level == levels - 1;
        if (!a.whole) {
            a.slots = top;
            a.parents = parents.data();
            if (raises) a.bias = bias.data();
        }
        if (wanted) a.wanted = data<const bool>(*wanted) + level * a.batch * groups;
        a.out = data<Stored>(out) + level * a.batch * a.heads * a.width;
        a.log_sum = data<Real>(log_sum) + level * a.batch * a.heads;
        chosen.resize(a.batch * groups * choose);
        share.resize(a.shares ? a.batch * a.heads * choose : 0);
        a.chosen = chosen.data();
        a.share = share.data();
        attend(a);
        if (!share.empty()) {
            const Real *slope = data<const Real>(*raises) + level - 1, *offset = slope + raises->size(1);
            for (Real& x : share) x = x * *slope + *offset;
        }
        parents.swap(chosen);
        bias.swap(share);
    }
}

// Queries of any block add to the gradients of any tokens of their head. So a head is one thread's, block after block:
// no two threads write one row, and the order of its sums is the same for any number of threads.
void backward(Tensor grad_out, std::optional<Tensor> grad_log_sum, std::optional<Tensor> grad_share, Tensor q, Tensor k,
              Tensor v, std::optional<Tensor> parents, std::optional<Tensor> bias, Tensor log_sum, Tensor chosen,
              Tensor share, std::vector<int64_t> geometry, int64_t threads, Tensor grad_q, Tensor grad_k, Tensor grad_v,
              Tensor grad_bias) {
    Arguments a = arguments_of(q, k, v, parents, bias, geometry, threads);
    a.log_sum = data<Real>(log_sum);
    a.chosen = data<int32_t>(chosen);
    a.share = data<Real>(share);
    a.grad_out = rows_of(grad_out);
    if (grad_log_sum) a.grad_log_sum = data<const Real>(*grad_log_sum);
    if (grad_share) a.grad_share = data<const Real>(*grad_share);
    a.grad_q = data<Stored>(grad_q);
    a.grad_k = data<Real>(grad_k);
    a.grad_v = data<Real>(grad_v);
    a.grad_bias = data<Real>(grad_bias);
    const int64_t all = a.batch * a.heads;
#pragma omp parallel num_threads(std::max<int64_t>(1, std::min(a.threads, all)))
    {
        Workspace w(a);
        w.prepare_backward();
#pragma omp for schedule(static)
        for (int64_t i = 0; i < all; ++i)
            for (int64_t begin = 0; begin < a.queries; begin += BLOCK) {
                w.move_to(i / a.heads, i % a.heads, begin);
                backward_block(w);
            }
    }
}

// Scores that the forward pass of a head that chooses alone computes, masked ones included, where every query has `slots`
// parents, or as many as there is room for; -1 at the coarsest scale.
int64_t scores(int64_t length, int64_t tokens, int64_t slots, std::vector<int64_t> geometry) {
    Arguments a{};
    set_geometry(a, geometry);
    a.heads = a.groups = 1;
    a.queries = length;
    a.tokens = tokens;
    a.whole = slots < 0;
    a.slots = std::max<int64_t>(0, slots);
    Workspace w(a);
    int64_t scores = 0;
    for (int64_t begin = 0; begin < length; begin += BLOCK) {
        w.move_to(0, 0, begin);
        w.for_row_tiles([&](int64_t i, int64_t rows, int64_t n0, int64_t n1) {
            scores += rows * (n1 - n0);
            for (int64_t m = begin + i; m < begin + i + rows; ++m)
                scores += round_up(std::min(a.slots * a.ratio, a.first(m)), DOTS);
        });
    }
    return scores;
}

}  // namespace

#define MAHA_INPUTS "Tensor q, Tensor k, Tensor v, Tensor? parents, Tensor? bias, "

STABLE_TORCH_LIBRARY_FRAGMENT(maha_cpu, m) {
    m.def(MAHA_NAME("descent_forward") "(" MAHA_INPUTS "Tensor? wanted, int[] geometry, int threads, "
          "Tensor(a!) out, Tensor(b!) log_sum, Tensor(c!) chosen, Tensor(d!) share) -> ()");
    m.def(MAHA_NAME("descent_backward") "(Tensor grad_out, Tensor? grad_log_sum, Tensor? grad_share, " MAHA_INPUTS
          "Tensor log_sum, Tensor chosen, Tensor share, int[] geometry, int threads, Tensor(a!) grad_q, "
          "Tensor(b!) grad_k, Tensor(c!) grad_v, Tensor(d!) grad_bias) -> ()");
    m.def(MAHA_NAME("descent_descend") "(Tensor position, Tensor q, Tensor[] keys, Tensor[] values, Tensor? raises, "
          "Tensor? wanted, int ratio, int[] spans, int top, int groups, int threads, Tensor(a!) out, Tensor(b!) log_sum) "
          "-> ()");
    m.def(MAHA_NAME("descent_scores") "(int length, int tokens, int slots, int[] geometry) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(maha_cpu, CPU, m) {
    m.impl(MAHA_NAME("descent_forward"), TORCH_BOX(&forward));
    m.impl(MAHA_NAME("descent_descend"), TORCH_BOX(&descend));
    m.impl(MAHA_NAME("descent_backward"), TORCH_BOX(&backward));
}

STABLE_TORCH_LIBRARY_IMPL(maha_cpu, CompositeExplicitAutograd, m) {
    m.impl(MAHA_NAME("descent_scores"), TORCH_BOX(&scores));
}
