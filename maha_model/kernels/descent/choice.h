// The choice of a block's queries, from the merits that the heads of a group left, and the log shares of the chosen.

#pragma once

#include "workspace.h"

namespace {

struct Candidate {
    Real merit;
    int32_t token, slot;  // slot of its parent, -1 for a near token
    bool before(const Candidate& other) const {
        return merit > other.merit || (merit == other.merit && token < other.token);
    }
};

// The best candidates so far, best first; those of merit -inf are none.
struct Choice {
    std::vector<Candidate> best;
    explicit Choice(int64_t most) : best(most) {}

    void clear() { std::fill(best.begin(), best.end(), Candidate{-INFINITY, -1, -1}); }
    Real least() const { return best.back().merit; }
    void offer(const Candidate& x) {  // of merit above -inf
        if (!x.before(best.back())) return;
        size_t at = best.size() - 1;
        for (; at > 0 && x.before(best[at - 1]); --at) best[at] = best[at - 1];
        best[at] = x;
    }
};

// Chosen of local query i: the best of its near candidates and of its children.
void choose(Workspace& w, int64_t i, Choice& choice) {
    const Arguments& a = w.a;
    const Real* merit = w.merit.data() + i * w.wide;
    choice.clear();
    w.list_children(i, 0);
    for (int64_t j = 0; j < w.count[0]; ++j)
        if (merit[w.near_wide + j] >= choice.least() && merit[w.near_wide + j] > -INFINITY)
            choice.offer({merit[w.near_wide + j], w.child[j], w.slot[j]});
    // Near tokens come in ascending order and after every child: one that equals the least is not before it.
    for (int64_t n = w.first(i), end = a.past_candidate(w.begin + i) - w.low; n < end; ++n)
        if (merit[n] > choice.least()) choice.offer({merit[n], int32_t(w.low + n), -1});
}

// Log shares of the chosen of local query i of the head w.h, whose queries are loaded. `tokens` and `logits` have room
// for whole vectors.
void share_chosen(const Workspace& w, int64_t i, const Choice& choice, int32_t* tokens, Real* logits) {
    const Arguments& a = w.a;
    const int64_t most = int64_t(choice.best.size());
    int64_t n = 0;
    for (; n < most && choice.best[n].token >= 0; ++n) tokens[n] = choice.best[n].token;
    Real* share = a.share + w.row(i) * most;
    std::fill(share, share + most, Real(0));
    if (n == 0) return;
    for (int64_t j = n; j % DOTS; ++j) tokens[j] = tokens[n - 1];
    dots(w.q.data() + i * w.dk_wide, a.qk_width, a.k.at(w.b, w.h, 0), a.k.row, tokens, n, logits);
    Real top = -INFINITY;
    for (int64_t j = 0; j < n; ++j) {
        if (choice.best[j].slot >= 0) logits[j] += a.bias[w.row(i) * a.slots + choice.best[j].slot];
        top = std::max(top, logits[j]);
    }
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
void choose_block(Workspace& w, std::vector<Choice>& choices, int32_t* tokens, Real* logits) {
    const Arguments& a = w.a;
    for (int64_t i = 0; i < w.queries; ++i) {
        choose(w, i, choices[i]);
        int32_t* chosen = a.chosen + w.group_row(i) * a.choose;
        for (int64_t j = 0; j < a.choose; ++j) chosen[j] = choices[i].best[j].token;
    }
    for (int64_t n = a.heads_together(), last = w.h; n > 0; --n) {
        w.h = last + 1 - n;
        if (a.heads_together() > 1) w.load_queries();
        for (int64_t i = 0; i < w.queries; ++i) share_chosen(w, i, choices[i], tokens, logits);
    }
}

}  // namespace
