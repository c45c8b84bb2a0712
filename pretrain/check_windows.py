"""Whether the data has the training windows that a run still takes: a mixture's sources may end after some epochs."""

from data_pipeline import Data, UserError, mixture_of, open_windows
from pretrain.config import RunConfig
from pretrain.progress import Progress
from pretrain.warmup import batch_size, windows_before


def pass_over(config: RunConfig, progress: Progress) -> int:
    """Leave out the batches of --skip_batches that were not left out yet; how many."""
    batches = max(0, config.skip_batches - progress.passed_over)
    progress.pass_over(batches, batch_size(config, progress.step))
    return batches


def check_windows(config: RunConfig, data: Data, progress: Progress) -> None:
    """Raises UserError if the steps that are left take more windows than all epochs of a mixture have."""
    mixture, context = mixture_of(data), config.model.context_length
    windows = [len(open_windows(source, "train", context, config.packing)) for source in mixture.sources]
    end = mixture.order(windows, config.seed).end
    needed = progress.samples + windows_before(config, config.steps) - windows_before(config, progress.step)
    if end is not None and needed > end:
        later = "a later stage before they end, or fewer --steps"
        raise UserError(
            f"{config.data} has {end} training windows in all its epochs, the run takes {needed}; give "
            f"{later if progress.step else f'more epochs, {later}'}"
        )
