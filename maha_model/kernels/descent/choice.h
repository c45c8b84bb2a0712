// The choice of a block's queries, from the merits that the heads of a group left, and the log shares of the chosen.

#pragma once

#include <limits>

#include "workspace.h"

namespace {

struct Candidate {
    Real merit;
    int32_t token, slot;  // slot of its parent, -1 for a near token
    bool before(const Candidate& other) const {
        return merit > other.merit || (merit == other.merit && token < other.token);
    }
};

// One thread's room for a block's choices.
struct Choices {
    const int64_t most;                 // tokens that a query chooses
    std::vector<int32_t> columns;       // of one query's candidates
    std::vector<Candidate> candidates;
    std::vector<Candidate> best;        // of every query, best first
    std::vector<int64_t> count;         // how many it chose
    std::vector<int32_t> tokens;        // of one query
    std::vector<Real> logits;

    explicit Choices(const Workspace& w)
        : most(w.a.choose),
          columns(w.wide),
          candidates(w.wide),
          best(w.most_queries * most),
          count(w.most_queries),
          tokens(round_up(most, LANES)),
          logits(tokens.size()) {}
};

// The k-th largest lane, k <= LANES.
inline Real largest_but(Vec x, int64_t k) {
    Mask above{};
    for (int i = 0; i < LANES; ++i) above -= splat(x[i]) > x;
    return -largest(above < Int(k) ? -x : splat(-INFINITY));
}

// No more than the candidates at or above the result can be among the k best: the k-th largest of as many maxima as
// there are lanes. Merits of near candidates are in columns [n0, n1), of children in [far, past_far).
inline Real least_merit(const Real* merit, int64_t n0, int64_t n1, int64_t far, int64_t past_far, int64_t k) {
    if (k > LANES) return -INFINITY;
    Vec most = splat(-INFINITY);
    for (int64_t n = n0; n < n1; n += LANES) {
        Vec x = between(n, n0, n1) ? load(merit + n) : splat(-INFINITY);
        most = x > most ? x : most;
    }
    for (int64_t n = far; n < past_far; n += LANES) {
        Vec x = load(merit + n);
        most = x > most ? x : most;
    }
    return largest_but(most, k);
}

// The first `most` of n <= LANES candidates in order, each at the place of how many are before it.
inline void put_in_order(const Candidate* candidates, int64_t n, int64_t most, Candidate* best) {
    Real merits[LANES] = {};
    Int tokens[LANES] = {}, place[LANES];
    for (int64_t i = 0; i < n; ++i) {
        merits[i] = candidates[i].merit;
        tokens[i] = candidates[i].token;
    }
    const Vec merit = gather<Vec>(merits);
    const Mask token = gather<Mask>(tokens);
    Mask places{};
    for (int64_t i = 0; i < n; ++i)
        places -= (merits[i] > merit) | ((merits[i] == merit) & (tokens[i] < token));
    std::memcpy(place, &places, sizeof place);
    for (int64_t i = 0; i < n; ++i)
        if (place[i] < most) best[place[i]] = candidates[i];
}

// Put the best of local query i's near candidates and children in order.
void choose(Workspace& w, int64_t i, Choices& choices) {
    const Arguments& a = w.a;
    Real* merit = w.merit.data() + i * w.wide;
    w.list_children(i, 0);
    const int64_t past = a.past_candidate(w.begin + i), n0 = w.first(i), n1 = past - w.low, far = w.near_wide;
    for (int64_t j = 0; j < w.count[0]; ++j)
        if (w.child[j] >= past) merit[far + j] = -INFINITY;
    const Real least = std::max(std::numeric_limits<Real>::lowest(),  // -inf is for none
                                least_merit(merit, n0, n1, far, far + round_up(w.count[0], LANES), choices.most));
    int32_t* columns = choices.columns.data();
    int64_t n = 0;
    auto select = [&](int64_t begin, int64_t end) {
        for (int64_t j = begin; j < end; ++j) {
            columns[n] = int32_t(j);
            n += merit[j] >= least;  // no branch: it could not be foreseen
        }
    };
    select(n0, n1);
    select(far, far + w.count[0]);
    Candidate* candidates = choices.candidates.data();
    for (int64_t j = 0; j < n; ++j) {
        const int64_t column = columns[j];
        candidates[j] = {merit[column], column < far ? int32_t(w.low + column) : w.child[column - far],
                         column < far ? -1 : w.slot[column - far]};
    }
    Candidate* best = choices.best.data() + i * choices.most;
    choices.count[i] = std::min(n, choices.most);
    if (n <= LANES) return put_in_order(candidates, n, choices.most, best);
    auto before = [](const Candidate& x, const Candidate& y) { return x.before(y); };
    std::partial_sort_copy(candidates, candidates + n, best, best + choices.most, before);
}

// Scores of the chosen of local query i of the head w.h: a head alone has them in its merits, of several heads they are
// computed again.
void score_chosen(const Workspace& w, int64_t i, Choices& choices) {
    const Arguments& a = w.a;
    const Candidate* best = choices.best.data() + i * choices.most;
    const int64_t n = choices.count[i];
    Real* logits = choices.logits.data();
    if (a.heads_together() == 1) {
        for (int64_t j = 0; j < n; ++j) logits[j] = best[j].merit;
        return;
    }
    int32_t* tokens = choices.tokens.data();
    for (int64_t j = 0; j < round_up(n, DOTS); ++j) tokens[j] = best[std::min(j, n - 1)].token;
    dots(w.q.data() + i * w.dk_wide, a.qk_width, a.k.at(w.b, w.h, 0), a.k.row, tokens, n, logits);
    for (int64_t j = 0; j < n; ++j)
        if (a.bias && best[j].slot >= 0) logits[j] += a.bias[w.row(i) * a.slots + best[j].slot];
}

// Log shares of the chosen of local query i of the head w.h.
void share_chosen(const Workspace& w, int64_t i, Choices& choices) {
    const int64_t n = choices.count[i];
    Real *logits = choices.logits.data(), *share = w.a.share + w.row(i) * choices.most;
    std::fill(share, share + choices.most, Real(0));
    if (n == 0) return;
    score_chosen(w, i, choices);
    const Real top = *std::max_element(logits, logits + n);
    for (int64_t j = n; j < round_up(n, LANES); ++j) logits[j] = -INFINITY;
    Vec sum = splat(0);
    for (int64_t j = 0; j < n; j += LANES) {
        Vec s = load(logits + j);
        sum += s > splat(-INFINITY) ? exponential(s - top) : splat(0);
    }
    const Real log_sum = top + std::log(total(sum));
    for (int64_t j = 0; j < n; ++j) share[j] = logits[j] - log_sum;
}

// After forward_block of every head of the group that ends with head w.h.
void choose_block(Workspace& w, Choices& choices) {
    const Arguments& a = w.a;
    for (int64_t i = 0; i < w.queries; ++i) {
        choices.count[i] = 0;
        if (w.wanted(i)) choose(w, i, choices);
        int32_t* chosen = a.chosen + w.group_row(i) * a.choose;
        for (int64_t j = 0; j < a.choose; ++j)
            chosen[j] = j < choices.count[i] ? choices.best[i * choices.most + j].token : -1;
    }
    if (!a.shares) return;
    for (int64_t n = a.heads_together(), last = w.h; n > 0; --n) {
        w.h = last + 1 - n;
        if (a.heads_together() > 1) w.load_queries();
        for (int64_t i = 0; i < w.queries; ++i) share_chosen(w, i, choices);
    }
}

}  // namespace
