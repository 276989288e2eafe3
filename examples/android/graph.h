// One .tflite file of a package, ready to run: float32 tensors in and out, by the names of its signature.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "litert.h"

using Tensors = std::map<std::string, std::vector<float>>;

// Throws std::runtime_error where there is no tensor of the name.
inline const std::vector<float>& get(const Tensors& pool, const std::string& name) {
  const auto found = pool.find(name);
  if (found == pool.end()) throw std::runtime_error(name + ": no part of the package gives it; export again");
  return found->second;
}

template <auto destroy>
struct Destroy {
  template <class T>
  void operator()(T* handle) const {
    destroy(handle);
  }
};
using Environment = std::unique_ptr<LiteRtEnvironmentT, Destroy<LiteRtDestroyEnvironment>>;
using Model = std::unique_ptr<LiteRtModelT, Destroy<LiteRtDestroyModel>>;
using Options = std::unique_ptr<LiteRtOptionsT, Destroy<LiteRtDestroyOptions>>;
using CompiledModel = std::unique_ptr<LiteRtCompiledModelT, Destroy<LiteRtDestroyCompiledModel>>;
using Buffer = std::unique_ptr<LiteRtTensorBufferT, Destroy<LiteRtDestroyTensorBuffer>>;

inline void check(LiteRtStatus status, const std::string& what) {
  if (status != kLiteRtStatusOk) throw std::runtime_error(what + ": LiteRT says " + std::to_string(status));
}

inline Environment make_environment() {
  LiteRtEnvironment made;
  check(LiteRtCreateEnvironment(0, nullptr, &made), "LiteRT cannot start");
  return Environment(made);
}

class Graph {
 public:
  // Maps the file and prepares it for the CPU. Throws std::runtime_error for a file that LiteRT refuses.
  Graph(const Environment& environment, const std::string& path) : path_(path) {
    LiteRtModel model;
    check(LiteRtCreateModelFromFile(environment.get(), path.c_str(), &model), path);
    model_.reset(model);
    LiteRtOptions options;
    check(LiteRtCreateOptions(&options), path);
    Options owned(options);
    check(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu), path);
    LiteRtCompiledModel compiled;
    check(LiteRtCreateCompiledModel(environment.get(), model, options, &compiled), path);
    compiled_.reset(compiled);

    LiteRtSignature signature;  // our files have one, "serving_default"
    check(LiteRtGetModelSignature(model, 0, &signature), path);
    LiteRtParamIndex inputs, outputs;
    check(LiteRtGetNumSignatureInputs(signature, &inputs), path);
    check(LiteRtGetNumSignatureOutputs(signature, &outputs), path);
    for (LiteRtParamIndex i = 0; i < inputs; ++i)
      inputs_.push_back(port(environment, signature, i, LiteRtGetSignatureInputName,
                             LiteRtGetSignatureInputTensorByIndex, LiteRtGetCompiledModelInputBufferRequirements));
    for (LiteRtParamIndex i = 0; i < outputs; ++i)
      outputs_.push_back(port(environment, signature, i, LiteRtGetSignatureOutputName,
                              LiteRtGetSignatureOutputTensorByIndex, LiteRtGetCompiledModelOutputBufferRequirements));
  }

  // Takes from the pool what the graph asks for, and returns what it gives. Throws std::runtime_error for what is not
  // there or of another size.
  Tensors operator()(const Tensors& pool) {
    for (Port& input : inputs_) {
      const std::vector<float>& given = get(pool, input.name);
      if (given.size() != input.count)
        throw std::runtime_error(path_ + ": " + input.name + " has " + std::to_string(given.size()) + " numbers, not " +
                                 std::to_string(input.count));
      void* there;
      check(LiteRtLockTensorBuffer(input.buffer.get(), &there, kLiteRtTensorBufferLockModeWrite), path_);
      std::memcpy(there, given.data(), 4 * input.count);
      check(LiteRtUnlockTensorBuffer(input.buffer.get()), path_);
    }
    std::vector<LiteRtTensorBuffer> in, out;
    for (Port& input : inputs_) in.push_back(input.buffer.get());
    for (Port& output : outputs_) out.push_back(output.buffer.get());
    check(LiteRtRunCompiledModel(compiled_.get(), 0, in.size(), in.data(), out.size(), out.data()), path_);
    Tensors made;
    for (Port& output : outputs_) {
      void* there;
      check(LiteRtLockTensorBuffer(output.buffer.get(), &there, kLiteRtTensorBufferLockModeRead), path_);
      const float* numbers = static_cast<const float*>(there);
      made[output.name].assign(numbers, numbers + output.count);
      check(LiteRtUnlockTensorBuffer(output.buffer.get()), path_);
    }
    return made;
  }

 private:
  struct Port {
    std::string name;
    size_t count;
    Buffer buffer;
  };

  template <class Name, class Tensor, class Requirements>
  Port port(const Environment& environment, LiteRtSignature signature, LiteRtParamIndex i, Name name_of,
            Tensor tensor_of, Requirements requirements_of) {
    const char* name;
    LiteRtTensor tensor;
    LiteRtRankedTensorType type;
    LiteRtTensorBufferRequirements requirements;
    LiteRtTensorBuffer buffer;
    size_t bytes;
    check(name_of(signature, i, &name), path_);
    check(tensor_of(signature, i, &tensor), path_);
    check(LiteRtGetRankedTensorType(tensor, &type), path_);
    if (type.element_type != kLiteRtElementTypeFloat32)
      throw std::runtime_error(path_ + ": " + name + " is no float32");
    check(requirements_of(compiled_.get(), 0, i, &requirements), path_);
    check(LiteRtCreateManagedTensorBufferFromRequirements(environment.get(), &type, requirements, &buffer), path_);
    Buffer owned(buffer);
    check(LiteRtGetTensorBufferPackedSize(buffer, &bytes), path_);
    return {name, bytes / 4, std::move(owned)};
  }

  std::string path_;
  Model model_;  // outlives what is made of it: members go in reverse order
  CompiledModel compiled_;
  std::vector<Port> inputs_, outputs_;
};
