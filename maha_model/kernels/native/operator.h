// What the entry points of an operator use: tensors through torch's stable ABI, and names that end in the suffix of this
// specialisation (MAHA_SUFFIX), so that several specialisations of one source can be loaded side by side.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#define MAHA_STRING_OF(x) #x
#define MAHA_STRING(x) MAHA_STRING_OF(x)
// "span_forward" -> "span_forward_float32"; a schema may follow: MAHA_NAME("span_forward") "(Tensor q) -> ()".
#define MAHA_NAME(name) name "_" MAHA_STRING(MAHA_SUFFIX)

namespace {

using torch::stable::Tensor;

template <class T>
T* data(const Tensor& x) {
    return static_cast<T*>(x.data_ptr());
}

}  // namespace
