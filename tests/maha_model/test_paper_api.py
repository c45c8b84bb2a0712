"""The reference implementation's public API keeps working."""

import pytest
import torch

from maha_model import MAHABlock, MAHATransformer


@pytest.mark.parametrize("strategy", ["convex", "nash"])
def test_quick_start_of_the_reference(strategy: str) -> None:
    """The reference's own example, at its own width and length, with fewer layers to stay fast."""
    model = MAHATransformer(
        vocab_size=30000,
        max_len=4096,
        d_model=768,
        num_heads=12,
        num_layers=1,
        num_scales=4,
        aggregation_strategy=strategy,
    )
    output, aux_loss = model(torch.randint(30000, (1, 4096)))
    assert tuple(output.shape) == (1, 4096, 768)
    assert aux_loss.shape == ()
    assert aux_loss.isfinite()


def test_defaults_are_the_papers_twelve_layers() -> None:
    with torch.device("meta"):
        assert len(MAHATransformer(vocab_size=100).transformer.blocks) == 12


def test_block_is_a_drop_in_layer() -> None:
    block = MAHABlock(d_model=32, num_heads=4, d_ff=64, dropout=0.0)
    x = torch.randn(2, 20, 32, requires_grad=True)
    output, aux_loss = block(x)
    (output.square().mean() + aux_loss).backward()
    assert output.shape == x.shape
    assert x.grad.abs().sum() > 0


def test_right_padding_changes_no_real_position_and_other_masks_are_refused() -> None:
    torch.manual_seed(0)
    model = MAHATransformer(50, 32, 16, 2, num_layers=2, d_ff=16, dropout=0.0).eval()
    ids = torch.randint(50, (1, 20))
    mask = torch.arange(20)[None] < 13
    padded = torch.where(mask, ids, 0)
    torch.testing.assert_close(model(padded, mask)[0][:, :13], model(ids[:, :13])[0])
    with pytest.raises(ValueError, match="only padding on the right"):
        model(ids, ~mask)
    with pytest.raises(ValueError, match="expected \\(batch, length\\)"):
        model(ids, mask[:, :5])
