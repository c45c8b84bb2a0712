"""Every operator on this device: which implementation runs, and whether it agrees with its definition in float64."""

import itertools
import warnings
from collections.abc import Callable, Iterable
from functools import partial

import torch

from maha_model.kernels import OPERATORS, checks, which
from maha_model.kernels.checks import Agreement
from maha_model.kernels.checks.fuse import PROBLEMS
from maha_model.kernels.dispatch import native_is_off
from maha_model.kernels.qp import DOMAINS
from pretrain.doctor.report import Finding
from pretrain.doctor.setting import Setting

IMPLEMENTATION_KEYS = OPERATORS
Case = Callable[[], Agreement]
KERNEL_KEYS = ("cases", "worst_error_over_tolerance", "agreements")
LOW, HIGH, EXACT = torch.bfloat16, torch.float32, torch.float64
_FAST = {
    "cpu": dict.fromkeys(("span", "descent", "fuse", "qp", "depthwise", "bounds", "index"), "cpu"),
    "cuda": dict.fromkeys(
        ("descent", "fuse", "cross_entropy", "rotary", "depthwise", "bounds", "index", "swiglu"), "triton"
    ),
}


def check_implementations(setting: Setting) -> Finding:
    """What runs for each operator; a fast one that is lost is a fault, unless it was switched off."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = {name: str(which(name, setting.kind)) for name in OPERATORS}
    lost = [] if setting.kind == "cpu" and native_is_off() else [
        f"{name} runs as {values[name]}" for name, fast in _FAST[setting.kind].items() if values[name] != fast
    ]  # fmt: skip
    warned = [str(each.message) for each in caught if issubclass(each.category, RuntimeWarning)] if lost else []
    return Finding(", ".join(f"{name}: {way}" for name, way in values.items()), values, faults=[*lost, *warned])


def check_span(setting: Setting) -> Finding:
    """Span attention, also with queries narrower than values, without causality, and over everything."""
    return _compared(setting, _span_cases(setting))


def check_descent(setting: Setting) -> Finding:
    """The descent, every scale of it, with a choice of every head and of groups, without and with bounds of keys."""
    return _compared(setting, _descent_cases(setting))


def check_fuse(setting: Setting) -> Finding:
    """The aggregation: numbers of scales, widths, problems, ratios and placements."""
    return _compared(setting, _fuse_cases(setting))


def check_qp(setting: Setting) -> Finding:
    """The solver by itself."""
    numbers = setting.choose([3], [3, 4], [2, 4, 8])
    dtypes = setting.choose([HIGH], [HIGH, EXACT], [HIGH, EXACT])
    each = itertools.product(dtypes, numbers, DOMAINS)
    return _compared(setting, (partial(checks.check_qp, str(setting.device), *case) for case in each))


def check_rotary(setting: Setting) -> Finding:
    """Rotary positions of queries and of the keys of two scales, of tensors apart and of packed ones with gains."""
    sizes = setting.choose([(130, 32)], [(517, 64)], [(517, 64), (4097, 128)])
    each = itertools.product((checks.check_rotary, checks.check_rotary_of_scales), (HIGH, LOW), sizes)
    return _compared(setting, (partial(check, str(setting.device), dtype, *size) for check, dtype, size in each))


def check_depthwise(setting: Setting) -> Finding:
    """The convolutions of the decomposition and of the local context, at an odd length, and whole decompositions."""
    device, N = str(setting.device), setting.choose(130, 517, 4097)
    single = itertools.product((HIGH, LOW), ((4, 4, 1, 0), (3, 2, 1, 1), (3, 1, 2, 4)))
    whole = itertools.product((HIGH, LOW), ((4, 4, 0), (3, 2, 1)))
    cases: list[Case] = [
        partial(checks.check_depthwise, device, dtype, N, 200, *geometry) for dtype, geometry in single
    ]
    return _compared(
        setting, cases + [partial(checks.check_pyramid, device, dtype, N, 200, *geometry) for dtype, geometry in whole]
    )


def check_swiglu(setting: Setting) -> Finding:
    """The feed-forward network's activation, at an odd width."""
    sizes = setting.choose([(33, 65)], [(517, 345)], [(4097, 3457)])
    each = itertools.product((HIGH, LOW), sizes)
    return _compared(setting, (partial(checks.check_swiglu, str(setting.device), dtype, *size) for dtype, size in each))


def check_bounds(setting: Setting) -> Finding:
    """Bounds of keys at an odd length and width."""
    N = setting.choose(130, 517, 4097)
    each = itertools.product((HIGH, LOW), ((4, 4, 64), (3, 3, 20)))
    return _compared(
        setting, (partial(checks.check_bounds, str(setting.device), dtype, N, *case) for dtype, case in each)
    )


def check_index(setting: Setting) -> Finding:
    """An index's choice of blocks and its lesson, of one group of heads and of several."""
    N = setting.choose(130, 517, 4097)
    each = itertools.product((HIGH, LOW), (1, 2))
    return _compared(
        setting, (partial(checks.check_index, str(setting.device), dtype, N, *case) for dtype, *case in each)
    )


def check_cross_entropy(setting: Setting) -> Finding:
    """Head and loss, with a vocabulary of an odd number."""
    sizes = setting.choose([(33, 257)], [(257, 4099)], [(257, 4099), (1021, 32003)])
    each = itertools.product((HIGH, LOW), sizes)
    return _compared(
        setting, (partial(checks.check_cross_entropy, str(setting.device), dtype, *size) for dtype, size in each)
    )


def _span_cases(setting: Setting) -> list[Case]:
    N = setting.choose(101, 517, 4097)
    check = partial(checks.check_span, str(setting.device))
    cases: list[Case] = []
    for dtype in (HIGH, LOW):
        cases += [
            partial(check, dtype, N, 64, 64),
            partial(check, dtype, N, 100, 64, qk_dim=32, causal=False),
            partial(check, dtype, N, "full", 64),
        ]
        if not setting.quick:
            cases += [partial(check, dtype, N + 1, 128, 128), partial(check, dtype, 301, 20, 80)]
    return cases


def _descent_cases(setting: Setting) -> list[Case]:
    sizes = setting.choose([(130, 32)], [(517, 64), (262, 128)], [(1000, 64), (4097, 128)])
    each = itertools.product((HIGH, LOW), (4, 2), sizes, (False, True))
    check = partial(checks.check_descent, str(setting.device))
    return [partial(check, dtype, N, groups, d, bounds) for dtype, groups, (N, d), bounds in each]


def _fuse_cases(setting: Setting) -> list[Case]:
    shapes = setting.choose(
        [(3, 20, HIGH), (3, 20, LOW)],
        [(3, 64, HIGH), (3, 64, LOW), (4, 128, HIGH), (4, 128, LOW), (3, 80, HIGH)],
        [(L, 64, LOW) for L in range(2, 9)] + [(3, 64, HIGH), (4, 128, HIGH), (4, 128, LOW), (5, 80, HIGH)],
    )
    N = setting.choose(130, 517, 1021)
    check = partial(checks.check_fuse, str(setting.device))
    cases: list[Case] = [partial(check, dtype, PROBLEMS[0], N, L, d) for L, d, dtype in shapes]
    if setting.quick:
        return cases
    cases += [partial(check, LOW, problem, 517, 4, 64) for problem in PROBLEMS[1:]]
    placements = ((3, "coarse"), (3, "bidirectional"), (4, "fine"), (67, "coarse"))
    return cases + [partial(check, HIGH, PROBLEMS[0], 517, 3, 64, ratio, mode) for ratio, mode in placements]


def _compared(setting: Setting, cases: Iterable[Case]) -> Finding:
    """All cases, also after one that disagrees."""
    found = setting.side_by_side(list(cases))
    faults = []
    for agreement in found:
        if not agreement.passed:
            name, error = agreement.worst
            limit = f"(at most {agreement.tolerance:.0e})"
            faults.append(f"{agreement.case}: {name} is off by {error:.1e} of the largest value {limit}")
    worst = max(agreement.worst[1] / agreement.tolerance for agreement in found)
    values = {
        "cases": len(found),
        "worst_error_over_tolerance": worst,
        "agreements": [agreement.to_dict() for agreement in found],
    }
    summary = f"{len(found)} cases, largest error {worst:.2g} of what is allowed"
    return Finding(summary, values, faults=[*faults[:3], *([f"and {len(faults) - 3} more"] if len(faults) > 3 else [])])
