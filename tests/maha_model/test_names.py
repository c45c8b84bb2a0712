"""Former names stay usable, and are the same classes."""

import maha_model
import maha_model.huggingface
import maha_model.inference.huggingface
import maha_model.transformer


def test_former_names_are_the_same_classes() -> None:
    assert maha_model.MAHAForCausalLM is maha_model.CausalLM is maha_model.transformer.CausalLM
    assert maha_model.MAHAConfig is maha_model.ModelConfig


def test_the_documented_module_registers_the_model_in_transformers() -> None:
    for name in maha_model.huggingface.__all__:
        assert getattr(maha_model.huggingface, name) is getattr(maha_model.inference.huggingface, name)
