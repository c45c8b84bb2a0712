// Small QPs given as Q and p, on the CPU: weights and active sets, and the gradients of Q and p.

#include "../native/operator.h"
#include "solver.h"

namespace {

struct Arguments {  // strides in elements; `problem` is the innermost index of w, active sets and gradients
    int64_t problems, threads, domain;
    const Real *Q, *p;
    const uint8_t* present;
    int64_t Q_row, Q_column, Q_problem, p_row, p_problem, present_row, present_problem;
    Real* w;              // (L, P)
    int32_t* active_set;  // (P)
    const Real* grad_w;
    int64_t grad_row, grad_problem;
    Real *grad_Q, *grad_p;  // (L, L, P), (L, P)
};

inline void load_quadratic(const Arguments& a, int64_t first, int lanes, Vec Q[L][L]) {
    for (int i = 0; i < L; ++i)
        for (int j = 0; j <= i; ++j) {
            Real x[LANES];
            std::fill(x, x + LANES, Real(i == j));
            for (int lane = 0; lane < lanes; ++lane) {
                const Real* at = a.Q + (first + lane) * a.Q_problem;
                x[lane] = Real(0.5) * (at[i * a.Q_row + j * a.Q_column] + at[j * a.Q_row + i * a.Q_column]);
            }
            Q[i][j] = Q[j][i] = gather<Vec>(x);
        }
}

// What both directions read.
Arguments arguments_of(const Tensor& Q_LLP, const Tensor& w_LP, const Tensor& active_set_P, int64_t threads) {
    Arguments a{};
    a.problems = active_set_P.numel();
    a.threads = threads;
    a.Q = data<const Real>(Q_LLP);
    a.Q_row = Q_LLP.stride(0);
    a.Q_column = Q_LLP.stride(1);
    a.Q_problem = Q_LLP.stride(2);
    a.w = data<Real>(w_LP);
    a.active_set = data<int32_t>(active_set_P);
    return a;
}

void forward(Tensor Q_LLP, Tensor p_LP, Tensor present_LP, int64_t domain, int64_t threads, Tensor w_LP,
             Tensor active_set_P) {
    Arguments a = arguments_of(Q_LLP, w_LP, active_set_P, threads);
    a.domain = domain;
    a.p = data<const Real>(p_LP);
    a.p_row = p_LP.stride(0);
    a.p_problem = p_LP.stride(1);
    a.present = data<const uint8_t>(present_LP);
    a.present_row = present_LP.stride(0);
    a.present_problem = present_LP.stride(1);
#pragma omp parallel for schedule(static) num_threads(a.threads)
    for (int64_t tile = 0; tile < (a.problems + LANES - 1) / LANES; ++tile) {
        int64_t first = tile * LANES;
        int lanes = int(std::min<int64_t>(LANES, a.problems - first));
        Problem problem;
        Active active;
        Vec w[L];
        load_quadratic(a, first, lanes, problem.Q);
        for (int i = 0; i < L; ++i) {
            problem.p[i] = load_lanes(a.p + i * a.p_row + first * a.p_problem, a.p_problem, lanes);
            Int present[LANES] = {};
            for (int lane = 0; lane < lanes; ++lane)
                present[lane] = -Int(a.present[i * a.present_row + (first + lane) * a.present_problem]);
            problem.present[i] = gather<Mask>(present);
        }
        solve(problem, int(a.domain), active, w);
        for (int lane = 0; lane < lanes; ++lane) {
            for (int i = 0; i < L; ++i) a.w[i * a.problems + first + lane] = w[i][lane];
            a.active_set[first + lane] = pack(active, lane);
        }
    }
}

void backward(Tensor grad_w_LP, Tensor Q_LLP, Tensor w_LP, Tensor active_set_P, int64_t threads, Tensor grad_Q_LLP,
              Tensor grad_p_LP) {
    Arguments a = arguments_of(Q_LLP, w_LP, active_set_P, threads);
    a.grad_w = data<const Real>(grad_w_LP);
    a.grad_row = grad_w_LP.stride(0);
    a.grad_problem = grad_w_LP.stride(1);
    a.grad_Q = data<Real>(grad_Q_LLP);
    a.grad_p = data<Real>(grad_p_LP);
#pragma omp parallel for schedule(static) num_threads(a.threads)
    for (int64_t tile = 0; tile < (a.problems + LANES - 1) / LANES; ++tile) {
        int64_t first = tile * LANES;
        int lanes = int(std::min<int64_t>(LANES, a.problems - first));
        Vec Q[L][L], w[L], grad_w[L], grad_p[L], grad_Q[L][L];
        const Active active = unpack(a.active_set + first, lanes);
        load_quadratic(a, first, lanes, Q);
        for (int i = 0; i < L; ++i) {
            w[i] = load_lanes(a.w + i * a.problems + first, 1, lanes);
            grad_w[i] = load_lanes(a.grad_w + i * a.grad_row + first * a.grad_problem, a.grad_problem, lanes);
        }
        solve_backward(Q, active, w, grad_w, grad_p, grad_Q);
        for (int lane = 0; lane < lanes; ++lane)
            for (int i = 0; i < L; ++i) {
                a.grad_p[i * a.problems + first + lane] = grad_p[i][lane];
                for (int j = 0; j < L; ++j)
                    a.grad_Q[(i * L + j) * a.problems + first + lane] = grad_Q[i][j][lane];
            }
    }
}

std::vector<double> constants() { return solver_constants(); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(maha_cpu, m) {
    m.def(MAHA_NAME("qp_forward") "(Tensor Q, Tensor p, Tensor present, int domain, int threads, Tensor(a!) w, "
          "Tensor(b!) active_set) -> ()");
    m.def(MAHA_NAME("qp_backward") "(Tensor grad_w, Tensor Q, Tensor w, Tensor active_set, int threads, "
          "Tensor(a!) grad_Q, Tensor(b!) grad_p) -> ()");
    m.def(MAHA_NAME("qp_constants") "() -> float[]");
}

STABLE_TORCH_LIBRARY_IMPL(maha_cpu, CPU, m) {
    m.impl(MAHA_NAME("qp_forward"), TORCH_BOX(&forward));
    m.impl(MAHA_NAME("qp_backward"), TORCH_BOX(&backward));
}

STABLE_TORCH_LIBRARY_IMPL(maha_cpu, CompositeExplicitAutograd, m) {
    m.impl(MAHA_NAME("qp_constants"), TORCH_BOX(&constants));
}
