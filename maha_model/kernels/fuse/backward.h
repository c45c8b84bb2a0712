// The gradient of the fusion over one run of positions.

#pragma once

#include "tile.h"

namespace {

// Gradient of (w, mixture) with respect to the tile's problem: coefficients so that, at every position,
// grad o_l = w_l grad_mixture + sum_m pair_lm o_m + aim_l target.
struct Coefficients {
    Vec w[L], pair[L][L], aim[L], linear[L];
};

void differentiate(Tile& tile, Coefficients& c) {
    const Arguments& a = tile.a;
    Problem problem;
    const Active active = unpack(a.active_set + tile.weight(0, 0), tile.lanes);
    Vec v[L], grad_v[L], grad_p[L], grad_Q[L][L];
    a.kind == TARGET ? tile.measure<true, true>() : tile.measure<false, true>();
    tile.assemble(problem);
    solve_on_free(problem, active, v);
    clamp(a.domain == BOX, v);
    for (int l = 0; l < L; ++l) {
        grad_v[l] = load(tile.grad_dots[l]);
        if (a.grad_weights) grad_v[l] += load_lanes(a.grad_weights + tile.weight(l, 0), 1, tile.lanes);
        c.w[l] = v[l];
    }
    if (a.normalize) {  // w = v / max(sum v, eps)
        Vec sum = sum_of(v), divisor = at_least(sum, NORM_EPS), along = splat(0);
        for (int l = 0; l < L; ++l) {
            c.w[l] = v[l] / divisor;
            along += grad_v[l] * c.w[l];
        }
        along = sum < NORM_EPS ? splat(0) : along;
        for (int l = 0; l < L; ++l) grad_v[l] = (grad_v[l] - along) / divisor;
    }
    solve_backward(problem.Q, active, v, grad_v, grad_p, grad_Q);

    Vec grad_inverse[L], gamma = splat(Real(a.redundancy));
    for (int l = 0; l < L; ++l) {
        grad_inverse[l] = splat(0);
        for (int m = 0; m < L; ++m) {
            c.pair[l][m] = 2 * gamma * grad_Q[l][m] * tile.inverse[l] * tile.inverse[m];
            grad_inverse[l] += 2 * gamma * grad_Q[l][m] * load(tile.dots[l][m]) * tile.inverse[m];
        }
        Vec own = a.own_gain ? gamma * grad_p[l] : splat(0);
        Vec aim = a.kind == TARGET ? grad_p[l] : splat(0);
        c.pair[l][l] += 2 * own * tile.inverse[l] * tile.inverse[l];
        c.aim[l] = aim * tile.inverse[l] * tile.inverse[l];
        grad_inverse[l] += 2 * tile.inverse[l] * (own * load(tile.dots[l][l]) + aim * load(tile.target_dots[l]));
        c.linear[l] = grad_p[l];
    }
    // inverse = (norm2 + eps)^-1/2 of the scale itself, or of the mean power over the present scales
    if (a.kind == UTILITY) {
        for (int l = 0; l < L; ++l)
            c.pair[l][l] -= grad_inverse[l] * tile.inverse[l] * tile.inverse[l] * tile.inverse[l];
    } else {
        Vec count = splat(0), cube = tile.inverse[0] * tile.inverse[0] * tile.inverse[0];
        for (int l = 0; l < L; ++l) count += tile.present[l] ? splat(1) : splat(0);
        Vec shared = sum_of(grad_inverse) * cube / (count > 0 ? count : splat(1));
        for (int l = 0; l < L; ++l) c.pair[l][l] -= shared;
    }
}

void backward_run(const Arguments& a, const Run& run, const Stored* zeros, std::vector<Real>& buffer) {
    const int64_t padded = (a.width + LANES - 1) / LANES * LANES;
    buffer.assign(size_t(L) * padded, 0);
    int64_t open[L];  // the row whose gradient is being summed
    std::fill(open, open + L, -1);
    auto flush = [&](int l) {
        if (open[l] < 0) return;
        Stored* to = a.grad_outputs[l] + ((run.b * a.heads + run.h) * a.rows[l] + open[l]) * a.width;
        Real* sum = buffer.data() + l * padded;
        for (int64_t k = 0; k < a.width; k += LANES) store_part(to, k, a.width, load(sum + k));
        std::fill(sum, sum + padded, Real(0));
    };
    for (int64_t t0 = run.begin; t0 < run.end; t0 += LANES) {
        Tile tile(a, run, t0, zeros);
        Coefficients c{};
        if (a.kind == GIVEN) {
            tile.measure<false, true>();
            for (int l = 0; l < L; ++l) {
                c.w[l] = tile.linear(l);
                c.linear[l] = load(tile.grad_dots[l]);
            }
        } else {
            differentiate(tile, c);
        }
        for (int i = 0; i < tile.lanes; ++i) {
            const Stored* grad = a.grad_combined + tile.mixed(i);
            const Stored* goal = a.kind == TARGET ? tile.target(i) : nullptr;
            bool fresh[L], present[L];
            Real w[L], pair[L][L], aim[L];
            for (int l = 0; l < L; ++l) {
                present[l] = tile.row[i][l] >= 0;
                fresh[l] = present[l] && tile.row[i][l] != open[l];
                if (fresh[l]) {
                    flush(l);
                    open[l] = tile.row[i][l];
                }
                w[l] = c.w[l][i];
                aim[l] = c.aim[l][i];
                for (int m = 0; m < L; ++m) pair[l][m] = c.pair[l][m][i];
            }
            for (int64_t k = 0; k < a.width; k += LANES) {
                Vec o[L], g = load_part(grad, k, a.width), x = splat(0), to_target = splat(0);
                if (a.kind == TARGET) x = load_part(goal, k, a.width);
                if (a.kind != GIVEN)
                    for (int l = 0; l < L; ++l) o[l] = load_part(tile.rows[i][l], k, a.width);
                for (int l = 0; l < L; ++l) {
                    if (!present[l]) continue;
                    Real* sum = buffer.data() + l * padded + k;
                    Vec y = load(sum) + w[l] * g;
                    if (a.kind != GIVEN)
                        for (int m = 0; m < L; ++m) y += pair[l][m] * o[m];
                    if (a.kind == TARGET) {
                        y += aim[l] * x;
                        to_target += aim[l] * o[l];
                    }
                    store(sum, y);
                }
                if (a.kind == TARGET) store_part(a.grad_target + tile.mixed(i), k, a.width, to_target);
            }
            if (a.grad_linear)
                for (int l = 0; l < L; ++l)
                    a.grad_linear[((tile.b * a.length + t0 + i) * L + l) * a.heads + tile.h] = c.linear[l][i];
        }
    }
    for (int l = 0; l < L; ++l) flush(l);
}

}  // namespace
