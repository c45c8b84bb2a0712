"""What is trained on which device, and when a step's figures are a fault."""

import math
from pathlib import Path

import pytest
import torch

from pretrain.doctor import training
from pretrain.doctor.profile import counted
from pretrain.doctor.setting import MODELS, Setting
from pretrain.doctor.training import SIZES, run_config

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", SIZES)
def test_a_gpu_trains_the_shipped_sizes_and_a_cpu_a_layer_of_them(size: str, model: str, tmp_path: Path) -> None:
    whole, layer = (run_config(Setting(device, False, tmp_path), size, model) for device in (GPU, CPU))
    assert whole.model.context_length == 4096
    assert whole.model.num_layers == {"paper": 12, "400m": 18}[size]
    assert (layer.model.num_layers, layer.micro_batch_size) == (1, 1)
    assert layer.model.d_model == whole.model.d_model
    for config in (whole, layer):
        assert config.model.attention == MODELS[model]["attention"]
        assert config.model.descent == MODELS[model].get("descent", 0)
        assert config.accumulation_steps(1) == 1


def test_a_loss_unlike_a_fresh_models_and_a_peak_unlike_the_plan_are_faults() -> None:
    fresh, GIB = math.log(1000), 2**30
    assert training._faults(fresh, 1000, 105 * GIB, 100 * GIB, 0) == []
    assert training._faults(fresh, 1000, 120 * GIB, 100 * GIB, 0) == [
        "the peak is 120.00 GiB, pretrain.plan counts 100.00 GiB"
    ]
    assert training._faults(math.nan, 1000, 1, 1, 0) == ["the loss is nan, of a fresh model it is about 6.91"]


def test_launches_copies_and_waits_are_counted_by_the_names_of_the_runtimes_calls() -> None:
    names = ["cudaLaunchKernel", "aten::mm", "cuLaunchKernelEx", "cudaMemcpyAsync", "cudaStreamSynchronize",
             "cudaDeviceSynchronize", "cudaLaunchKernelExC"]  # fmt: skip
    assert counted(names) == {"launches": 3, "synchronisations": 1, "copies": 1}
