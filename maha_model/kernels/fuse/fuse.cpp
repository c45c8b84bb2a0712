// Aggregation on the CPU: Gram matrix, exact solution of the small QP and combination in one pass, and its gradient.

#include "../native/operator.h"
#include "backward.h"

namespace {

void forward_run(const Arguments& a, const Run& run, const Stored* zeros) {
    for (int64_t t0 = run.begin; t0 < run.end; t0 += LANES) {
        Tile tile(a, run, t0, zeros);
        Vec w[L];
        if (a.kind == GIVEN) {
            for (int l = 0; l < L; ++l) w[l] = tile.linear(l);
        } else {
            Problem problem;
            Active active;
            a.kind == TARGET ? tile.measure<true, false>() : tile.measure<false, false>();
            tile.assemble(problem);
            solve(problem, int(a.domain), active, w);
            if (a.normalize) {
                Vec sum = at_least(sum_of(w), NORM_EPS);
                for (int l = 0; l < L; ++l) w[l] /= sum;
            }
            for (int i = 0; i < tile.lanes; ++i) {
                a.active_set[tile.weight(0, i)] = pack(active, i);
                for (int l = 0; l < L; ++l) a.weights[tile.weight(l, i)] = w[l][i];
            }
        }
        for (int i = 0; i < tile.lanes; ++i) {
            Stored* out = a.combined + tile.mixed(i);
            for (int64_t k = 0; k < a.width; k += LANES) {
                Vec x = splat(0);
                for (int l = 0; l < L; ++l) x += w[l][i] * load_part(tile.rows[i][l], k, a.width);
                store_part(out, k, a.width, x);
            }
        }
    }
}

// What both directions read. The kernels take strides; the rows of d elements are contiguous.
Arguments arguments_of(const std::vector<Tensor>& outputs_BHnd, const std::optional<Tensor>& linear_BNLH,
                       const std::optional<Tensor>& target_BNHd, const std::vector<int64_t>& first,
                       const std::vector<int64_t>& factor, int64_t length, const std::vector<double>& prices,
                       double redundancy, double ridge, int64_t domain, int64_t kind, bool own_gain, bool normalize,
                       int64_t threads) {
    STD_TORCH_CHECK(outputs_BHnd.size() == L && first.size() == L && factor.size() == L && prices.size() <= L,
                    "this library is for ", L, " scales");
    Arguments a{};
    a.batch = outputs_BHnd[0].size(0);
    a.heads = outputs_BHnd[0].size(1);
    a.width = outputs_BHnd[0].size(3);
    a.length = length;
    a.threads = threads;
    for (int l = 0; l < L; ++l) {
        const Tensor& output = outputs_BHnd[l];
        a.rows[l] = output.size(2);
        a.first[l] = first[l];
        a.factor[l] = factor[l];
        a.batch_stride[l] = output.stride(0);
        a.head_stride[l] = output.stride(1);
        a.row_stride[l] = output.stride(2);
        a.outputs[l] = data<const Stored>(output);
    }
    if (linear_BNLH) {
        a.linear = data<const Real>(*linear_BNLH);
        a.linear_batch = linear_BNLH->stride(0);
        a.linear_position = linear_BNLH->stride(1);
        a.linear_scale = linear_BNLH->stride(2);
        a.linear_head = linear_BNLH->stride(3);
    }
    if (target_BNHd) {
        a.target = data<const Stored>(*target_BNHd);
        a.target_batch = target_BNHd->stride(0);
        a.target_position = target_BNHd->stride(1);
        a.target_head = target_BNHd->stride(2);
    }
    std::copy(prices.begin(), prices.end(), a.price);
    a.redundancy = redundancy;
    a.ridge = ridge;
    a.domain = domain;
    a.kind = kind;
    a.own_gain = own_gain;
    a.normalize = normalize;
    return a;
}

void forward(std::vector<Tensor> outputs, std::optional<Tensor> linear, std::optional<Tensor> target,
             std::vector<int64_t> first, std::vector<int64_t> factor, int64_t length, std::vector<double> prices,
             double redundancy, double ridge, int64_t domain, int64_t kind, bool own_gain, bool normalize,
             int64_t threads, Tensor combined, Tensor weights, Tensor active_set) {
    Arguments a = arguments_of(outputs, linear, target, first, factor, length, prices, redundancy, ridge, domain, kind,
                               own_gain, normalize, threads);
    a.combined = data<Stored>(combined);
    a.weights = data<Real>(weights);
    a.active_set = data<int32_t>(active_set);
    const std::vector<Run> runs = split(a);
    const std::vector<Stored> zeros(size_t(a.width), Stored{});
#pragma omp parallel for schedule(static) num_threads(a.threads)
    for (size_t i = 0; i < runs.size(); ++i) forward_run(a, runs[i], zeros.data());
}

void backward(Tensor grad_combined, std::optional<Tensor> grad_weights, std::vector<Tensor> outputs,
              std::optional<Tensor> linear, std::optional<Tensor> target, Tensor active_set, std::vector<int64_t> first,
              std::vector<int64_t> factor, int64_t length, std::vector<double> prices, double redundancy, double ridge,
              int64_t domain, int64_t kind, bool own_gain, bool normalize, int64_t threads,
              std::vector<Tensor> grad_outputs, std::optional<Tensor> grad_linear, std::optional<Tensor> grad_target) {
    Arguments a = arguments_of(outputs, linear, target, first, factor, length, prices, redundancy, ridge, domain, kind,
                               own_gain, normalize, threads);
    a.active_set = data<int32_t>(active_set);
    a.grad_combined = data<const Stored>(grad_combined);
    if (grad_weights) a.grad_weights = data<const Real>(*grad_weights);
    for (int l = 0; l < L; ++l) a.grad_outputs[l] = data<Stored>(grad_outputs[l]);
    if (grad_linear) a.grad_linear = data<Real>(*grad_linear);
    if (grad_target) a.grad_target = data<Stored>(*grad_target);
    const std::vector<Run> runs = split(a);
    const std::vector<Stored> zeros(size_t(a.width), Stored{});
#pragma omp parallel num_threads(a.threads)
    {
        std::vector<Real> buffer;
#pragma omp for schedule(static)
        for (size_t i = 0; i < runs.size(); ++i) backward_run(a, runs[i], zeros.data(), buffer);
    }
}

// What problem.py has too; compared when the library is loaded, in this order.
std::vector<double> constants() {
    std::vector<double> values = solver_constants();
    values.insert(values.end(), {UTILITY, TARGET, OUTPUT, GIVEN, double(NORM_EPS), double(TINY_POWER)});
    return values;
}

}  // namespace

#define MAHA_INPUTS "Tensor[] outputs, Tensor? linear, Tensor? target, "
#define MAHA_CONSTANTS                                                                                        \
    "int[] first, int[] factor, int length, float[] prices, float redundancy, float ridge, int domain, int kind, " \
    "bool own_gain, bool normalize, int threads, "

STABLE_TORCH_LIBRARY_FRAGMENT(maha_cpu, m) {
    m.def(MAHA_NAME("fuse_forward") "(" MAHA_INPUTS MAHA_CONSTANTS
          "Tensor(a!) combined, Tensor(b!) weights, Tensor(c!) active_set) -> ()");
    m.def(MAHA_NAME("fuse_backward") "(Tensor grad_combined, Tensor? grad_weights, " MAHA_INPUTS
          "Tensor active_set, " MAHA_CONSTANTS
          "Tensor(a!)[] grad_outputs, Tensor(b!)? grad_linear, Tensor(c!)? grad_target) -> ()");
    m.def(MAHA_NAME("fuse_constants") "() -> float[]");
}

STABLE_TORCH_LIBRARY_IMPL(maha_cpu, CPU, m) {
    m.impl(MAHA_NAME("fuse_forward"), TORCH_BOX(&forward));
    m.impl(MAHA_NAME("fuse_backward"), TORCH_BOX(&backward));
}

STABLE_TORCH_LIBRARY_IMPL(maha_cpu, CompositeExplicitAutograd, m) {
    m.impl(MAHA_NAME("fuse_constants"), TORCH_BOX(&constants));
}
